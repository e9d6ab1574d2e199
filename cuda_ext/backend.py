# SPDX-License-Identifier: Apache-2.0
"""Which implementation runs an op: ours (native), its torch twin, or an installed package that was asked for.

`auto` never picks a package: it is ours where it builds, else the twin. `PACKAGES` is all there is to choose from.
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
    ops: tuple[str, ...]  # what it can run instead of ours; `march` is also its compositing
    licence: str
    install: str


PACKAGES = {
    "gsplat": Package(("splat",), "Apache-2.0", "pip install gsplat"),
    "nvdiffrast": Package(
        ("raster", "interpolate", "texture", "antialias"),
        "NVIDIA Source Code License, non-commercial use only",
        "build it from github.com/NVlabs/nvdiffrast",
    ),
    "nerfacc": Package(("march",), "MIT", "pip install nerfacc"),
    "tinycudann": Package(("hashgrid",), "BSD-3-Clause", "build it from github.com/NVlabs/tiny-cuda-nn"),
}
OURS = ("auto", "native", "torch")
BACKENDS = (*OURS, *PACKAGES)


def for_op(backend: str, op: str) -> str:
    """What a backend chosen for several ops means for one of them: what a package has not is left to `auto`."""
    return "auto" if backend in PACKAGES and op not in PACKAGES[backend].ops else backend


def choose(op: str, backend: str, like: Tensor) -> str:
    """`native`, `torch` or a package that has the op, for inputs like `like`."""
    able = tuple(name for name, package in PACKAGES.items() if op in package.ops)
    if backend in able:
        reason = missing(backend, like)
        if reason:
            raise ValueError(f"{op}: backend '{backend}' is not available: {reason}")
        name_licence(backend)
        return backend
    if backend not in OURS:
        raise ValueError(f"{op}: backend '{backend}' is not one of {', '.join((*OURS, *able))}")
    if backend == "torch":
        return "torch"
    reason = unavailable(op, like.dtype, like.device.type, like.device.index)
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


def absent(package: str) -> str:
    """One line that says why a package cannot be used on this machine; empty when it can."""
    entry = PACKAGES[package]
    if importlib.util.find_spec(package) is None:
        return f"it is not installed ({entry.install}; licence {entry.licence})"
    if torch.version.cuda is None:
        return "it runs on CUDA only, and this torch has no CUDA"
    return "" if torch.cuda.is_available() else "it runs on CUDA only, and no CUDA device is visible"


def missing(package: str, like: Tensor) -> str:
    """One line that says why a package cannot run on inputs like `like`; empty when it can."""
    if like.is_cuda or importlib.util.find_spec(package) is None:
        return absent(package)
    return f"it runs on CUDA only, the inputs are on {like.device}"


def licence(package: str) -> str:
    """What it runs and under which licence, in a line."""
    entry = PACKAGES[package]
    return f"{package} runs {', '.join(entry.ops)}; its licence: {entry.licence}"


@functools.cache
def name_licence(package: str) -> None:
    """Once in a process."""
    warnings.warn(licence(package), stacklevel=4)
