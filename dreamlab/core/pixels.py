# SPDX-License-Identifier: Apache-2.0
"""The latents of models that work on pictures themselves: [B, 3, H, W] in [-1, 1]."""

from __future__ import annotations

from torch import Tensor


def encode(rgb: Tensor) -> Tensor:
    """[B, H, W, 3] sRGB in [0, 1] -> [B, 3, H, W]; differentiable."""
    return 2 * rgb.permute(0, 3, 1, 2) - 1


def tiled(views: Tensor) -> Tensor:  # [4 G, C, h, w] -> [G, C, 2h, 2w], row by row
    """Four pictures side by side in one."""
    count, channels, height, width = views.shape
    rows = views.reshape(count // 4, 2, 2, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return rows.reshape(count // 4, channels, 2 * height, 2 * width)


def untiled(pictures: Tensor) -> Tensor:
    """Inverse of `tiled`."""
    count, channels, height, width = pictures.shape
    cells = pictures.reshape(count, channels, 2, height // 2, 2, width // 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(4 * count, channels, height // 2, width // 2)


def decode(z: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, H, W, 3]."""
    return (z.permute(0, 2, 3, 1) + 1) / 2
