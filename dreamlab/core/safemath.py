# SPDX-License-Identifier: Apache-2.0
"""Fragile numerics in one place: each function names the input at which the plain form breaks."""

from __future__ import annotations

import torch
from torch import Tensor


def safe_norm(v: Tensor, eps: float = 1e-12) -> Tensor:
    """Length over the last axis, kept; the gradient at v = 0 is 0 where `norm` gives nan."""
    return (v.square().sum(-1, keepdim=True) + eps).sqrt()


def safe_normalize(v: Tensor, eps: float = 1e-12) -> Tensor:
    """v / |v|; v = 0 stays 0 with a finite gradient."""
    return v / safe_norm(v, eps)


def safe_divide(a: Tensor, b: Tensor, eps: float = 1e-8) -> Tensor:
    """a / b for b >= 0; b = 0 gives 0 when a is 0, and a finite gradient always."""
    return a / b.clamp(min=eps)


def inverse_sigmoid(p: float | Tensor) -> Tensor:
    """Logit; p = 0 or 1 gives a large finite number, not inf."""
    p = torch.as_tensor(p, dtype=torch.get_default_dtype()).clamp(1e-6, 1 - 1e-6)
    return torch.log(p) - torch.log1p(-p)


def srgb_to_linear(c: Tensor) -> Tensor:
    """IEC 61966-2-1; the branch not taken is clamped, so its gradient cannot be nan at 0."""
    return torch.where(c <= 0.04045, c / 12.92, ((c.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(c: Tensor) -> Tensor:
    """Inverse of `srgb_to_linear`."""
    return torch.where(c <= 0.0031308, c * 12.92, 1.055 * c.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)
