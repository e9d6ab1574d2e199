# SPDX-License-Identifier: Apache-2.0
"""Torch twin of `adam`: Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1) on the visible rows."""

from __future__ import annotations

import torch
from torch import Tensor


def adam(
    param: Tensor,  # [R, ...]
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,  # [] int64
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    visible: Tensor | None = None,  # [R] bool
    skip: Tensor | None = None,  # []
) -> None:
    """See `cuda_ext.adam.adam`; `step` is read, not advanced."""
    t = (step + 1).to(torch.float64)
    touched = torch.ones(len(param), dtype=torch.bool, device=param.device) if visible is None else visible
    if skip is not None:
        touched = touched & (skip == 0)
    touched = touched.reshape(-1, *[1] * (param.ndim - 1))
    first = exp_avg + (1 - betas[0]) * (grad - exp_avg)
    second = betas[1] * exp_avg_sq + (1 - betas[1]) * grad * grad
    rate, root = lr / (1 - betas[0] ** t), (1 - betas[1] ** t).sqrt()
    moved = param - (rate * first / (second.sqrt() / root + eps)).to(param.dtype)
    for old, new in ((param, moved), (exp_avg, first), (exp_avg_sq, second)):
        old.copy_(torch.where(touched, new, old))
