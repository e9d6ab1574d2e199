# SPDX-License-Identifier: Apache-2.0
"""The latents of models that work on pictures themselves: [B, 3, H, W] in [-1, 1]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def encode(rgb: Tensor) -> Tensor:
    """[B, H, W, 3] sRGB in [0, 1] -> [B, 3, H, W]; differentiable."""
    return 2 * rgb.permute(0, 3, 1, 2) - 1


class _Limited(torch.autograd.Function):
    """The identity; its gradient is scaled down where a channel of a pixel exceeds a limit."""

    @staticmethod
    def forward(ctx: Any, rgb: Tensor, most: float) -> Tensor:
        ctx.most = most
        return rgb.view_as(rgb)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        largest = grad.abs().amax(-1, keepdim=True)
        return grad * (ctx.most / largest.clamp(min=1e-20)).clamp(max=1.0), None


def limited(rgb: Tensor, most: float | None) -> Tensor:  # [B, H, W, C]
    """The same picture, whose gradient is at most `most` in each channel of a pixel, its direction kept (pixel-wise
    gradient clipping: Pan et al. 2023, PGC-3D, arXiv:2310.12474; Dreamer XL takes 0.05)."""
    limited_rgb: Tensor = rgb if most is None else _Limited.apply(rgb, most)
    return limited_rgb


def tiled(views: Tensor, rows: int = 2, columns: int = 2) -> Tensor:  # [rows columns G, C, h, w] -> [G, C, H, W]
    """Pictures side by side in one, row by row."""
    cells = views.unflatten(0, (-1, rows, columns)).permute(0, 3, 1, 4, 2, 5)
    return cells.flatten(4, 5).flatten(2, 3)


def untiled(pictures: Tensor, rows: int = 2, columns: int = 2) -> Tensor:
    """Inverse of `tiled`."""
    cells = pictures.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).permute(0, 2, 4, 1, 3, 5)
    return cells.flatten(0, 2)


def decode(z: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, H, W, 3]."""
    return (z.permute(0, 2, 3, 1) + 1) / 2
