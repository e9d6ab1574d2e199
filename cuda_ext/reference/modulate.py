# SPDX-License-Identifier: Apache-2.0
"""Torch twin of norm, modulation and SiLU over rows: the specification of `cuda_ext.modulate`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def modulate(x: Tensor, told: Tensor | None, normed: bool, silu: bool, groups: int) -> Tensor:
    """[B, ..., G W], [B, 2 W] (a, then b) -> like x, rounded once at the end.

    n   (x - mean) / sqrt(variance + 1e-5) over each group of W, or x itself
    u   n (1 + a) + b, or n itself
    y   u sigmoid(u), or u itself
    """
    u = x.to(torch.promote_types(x.dtype, torch.float32))
    if normed:
        parts = u.unflatten(-1, (groups, -1))
        u = F.layer_norm(parts, parts.shape[-1:]).flatten(-2)
    if told is not None:
        a, b = told.to(u.dtype).reshape(len(x), *(x.dim() - 2) * [1], -1).chunk(2, -1)
        u = u * (1 + a) + b
    return (F.silu(u) if silu else u).to(x.dtype)
