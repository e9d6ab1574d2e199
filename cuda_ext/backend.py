# SPDX-License-Identifier: Apache-2.0
"""Which implementation runs an op: ours (native), its torch twin, or an installed package that was asked for.

`auto` never picks a package: it is ours where it builds, else the twin.
"""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from cuda_ext import build, nvrtc
from cuda_ext.packages import OURS, able, lacking, licence
from dreamlab.core.errors import RecipeError


class NoBackend(RecipeError, ValueError):
    """What was asked for by name, in a call or a recipe, cannot run here."""


def choose(op: str, backend: str, like: Tensor, half: bool = False) -> str:
    """`native`, `torch` or a package that has the op, for inputs like `like`; `half`: it takes bfloat16, too."""
    others = able(op)
    if backend in others:
        reason = missing(backend, like)
        if reason:
            raise NoBackend(f"{op}: backend '{backend}' is not available: {reason}")
        name_licence(backend)
        return backend
    if backend not in OURS:
        raise ValueError(f"{op}: backend '{backend}' is not one of {', '.join((*OURS, *others))}")
    if backend == "torch":
        return "torch"
    dtype = torch.float32 if half and like.dtype == torch.bfloat16 else like.dtype
    reason = unavailable(op, dtype, like.device.type, like.device.index)
    if reason and backend == "native":
        raise NoBackend(f"{op}: backend 'native' is not available: {reason}; backend='torch' runs the twin")
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
    if reason := lacking(package):
        return reason
    if torch.version.cuda is None:
        return "it runs on CUDA only, and this torch has no CUDA"
    return "" if torch.cuda.is_available() else "it runs on CUDA only, and no CUDA device is visible"


def missing(package: str, like: Tensor) -> str:
    """One line that says why a package cannot run on inputs like `like`; empty when it can."""
    if like.is_cuda:
        return absent(package)
    return lacking(package) or f"it runs on CUDA only, the inputs are on {like.device}"


@functools.cache
def name_licence(package: str) -> None:
    """Once in a process."""
    warnings.warn(licence(package), stacklevel=4)
