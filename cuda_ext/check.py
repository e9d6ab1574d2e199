# SPDX-License-Identifier: Apache-2.0
"""Checks made once, at the public boundary of an op; what is inside trusts its inputs."""

from __future__ import annotations

import torch
from torch import Tensor


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless `condition`; the message says what, where and what is allowed."""
    if not condition:
        raise ValueError(message)


def check_shape(where: str, name: str, tensor: Tensor, shape: tuple[int | str, ...]) -> None:
    """A string in `shape` names a free dimension: check_shape("splat", "means", means, ("N", 3))."""
    fits = tensor.ndim == len(shape) and all(
        isinstance(want, str) or got == want for got, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(str(n) for n in shape)
        raise ValueError(f"{where}: {name} must be [{wanted}], got {list(tensor.shape)}")


def check_alike(where: str, **tensors: Tensor | None) -> None:
    """All given tensors: one floating dtype (float32 or float64) on one device."""
    given = {name: t for name, t in tensors.items() if t is not None}
    first_name, first = next(iter(given.items()))
    require(
        first.dtype in (torch.float32, torch.float64),
        f"{where}: {first_name} must be float32 or float64, got {first.dtype}",
    )
    for name, tensor in given.items():
        require(
            tensor.dtype == first.dtype and tensor.device == first.device,
            f"{where}: {name} is {tensor.dtype} on {tensor.device}, "
            f"but {first_name} is {first.dtype} on {first.device}; give both the same dtype and device",
        )


def check_size(where: str, size: tuple[int, int]) -> tuple[int, int]:
    """A picture's (height, width)."""
    require(len(size) == 2 and min(size) >= 1, f"{where}: size must be (height, width), both at least 1, got {size}")
    return int(size[0]), int(size[1])
