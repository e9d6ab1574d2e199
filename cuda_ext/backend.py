# SPDX-License-Identifier: Apache-2.0
"""Which implementation runs an op: ours (native), its torch twin, or an installed package that was asked for.

`auto` never picks a package: it is ours where it builds, else the twin.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from cuda_ext import build, nvrtc


@dataclass(frozen=True)
class Package:
    op: str
    module: str
    licence: str
    install: str
    no_adapter: str = ""  # why it cannot stand in for our op, where it cannot


PACKAGES = {
    "gsplat": Package("splat", "gsplat", "Apache-2.0", "pip install gsplat"),
    "nerfacc": Package("march", "nerfacc", "MIT", "pip install nerfacc", "its march draws other samples than ours"),
    "tinycudann": Package("hashgrid", "tinycudann", "BSD-3-Clause", "build it from github.com/NVlabs/tiny-cuda-nn"),
    "nvdiffrast": Package(
        "raster", "nvdiffrast", "NVIDIA Source Code License, non-commercial use only", "build it from its repository"
    ),
}
OURS = ("auto", "native", "torch")


def choose(op: str, backend: str, like: Tensor, adapters: tuple[str, ...] = (), half: bool = False) -> str:
    """`native`, `torch` or one of `adapters` (the packages this op can call), for inputs like `like`; `half`: it takes
    bfloat16, too."""
    if backend in adapters:
        reason = missing(backend, like)
        if reason:
            raise ValueError(f"{op}: backend '{backend}' is not available: {reason}")
        _name_licence(backend)
        return backend
    if backend in PACKAGES and PACKAGES[backend].no_adapter and PACKAGES[backend].op == op:
        raise ValueError(f"{op}: {backend} is no stand-in: {PACKAGES[backend].no_adapter}; use native or torch")
    if backend not in OURS:
        raise ValueError(f"{op}: backend '{backend}' is not one of {', '.join((*OURS, *adapters))}")
    if backend == "torch":
        return "torch"
    dtype = torch.float32 if half and like.dtype == torch.bfloat16 else like.dtype
    reason = unavailable(op, dtype, like.device.type, like.device.index)
    if reason and backend == "native":
        raise ValueError(f"{op}: backend 'native' is not available: {reason}; backend='torch' runs the twin")
    return "torch" if reason else "native"


def unavailable(op: str, dtype: torch.dtype, device_type: str, device_index: int | None = None) -> str:
    """One line that says why our code cannot take such inputs; empty when it can. A constant to torch.compile."""
    if dtype != torch.float32:
        return f"it computes in float32, the inputs are {dtype}"
    if device_type == "cpu":
        return "" if build.library(op) is not None else build.why_not(op).splitlines()[0]
    if device_type == "cuda":
        return nvrtc.unavailable(op, device_index)
    return f"there are no kernels for device '{device_type}'"


# What torch.compiler.assume_constant_result does; that imports the whole compiler first, a second for every command.
unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


def missing(package: str, like: Tensor) -> str:
    """One line that says why an installed package cannot be used; empty when it can."""
    entry = PACKAGES[package]
    if importlib.util.find_spec(entry.module) is None:
        return f"it is not installed ({entry.install}; licence {entry.licence})"
    if like.device.type != "cuda":
        return f"it runs on CUDA only, the inputs are on {like.device}"
    return ""


@functools.cache
def _name_licence(package: str) -> None:
    entry = PACKAGES[package]
    warnings.warn(f"{entry.op} runs on {package}, licence: {entry.licence}", stacklevel=4)
