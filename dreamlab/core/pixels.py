# SPDX-License-Identifier: Apache-2.0
"""The latents of models that work on pictures themselves: [B, 3, H, W] in [-1, 1]."""

from __future__ import annotations

from torch import Tensor


def encode(rgb: Tensor) -> Tensor:
    """[B, H, W, 3] sRGB in [0, 1] -> [B, 3, H, W]; differentiable."""
    return 2 * rgb.permute(0, 3, 1, 2) - 1


def decode(z: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, H, W, 3]."""
    return (z.permute(0, 2, 3, 1) + 1) / 2
