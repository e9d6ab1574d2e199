# SPDX-License-Identifier: Apache-2.0
"""Torch twin of rays through a grid of features: the specification of `cuda_ext.volume`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def volume(
    grid: Tensor, row: Tensor, near: Tensor, direction: Tensor, samples: int, reach: float, shift: float, gain: float
) -> Tensor:
    """[G, D, H, W, C], [B], [B, N, 3], [B, N, 3] -> [B, N, C + 1].

    f_k     the grid at near + t_k direction, t_k = (k + 1/2) 2 reach / samples - reach: trilinear, zero outside
    tau_k   gain softplus(f_k0 - shift) inside the cube of half edge reach, else 0
    e_k     exp(-tau_0 - ... - tau_{k-1}) (1 - exp(-tau_k)): how much of the ray ends at k
    out     sum_k e_k f_kc for c >= 1, sum_k e_k, -sum_k e_k t_k
    """
    way = (torch.arange(samples, device=near.device, dtype=near.dtype) + 0.5) * (2 * reach / samples) - reach
    points = (near[:, None] + way[:, None, None] * direction[:, None]) / reach  # [B, K, N, 3]
    seen = grid.permute(0, 4, 1, 2, 3).index_select(0, row)
    found = F.grid_sample(seen, points[:, :, :, None], align_corners=False)[..., 0]  # [B, C, K, N]
    tau = gain * F.softplus(found[:, 0] - shift) * (points.abs().amax(-1) < 1)
    clear = torch.exp(-tau.cumsum(1))
    ends = torch.cat([torch.ones_like(clear[:, :1]), clear[:, :-1]], 1) - clear  # [B, K, N]
    features = (ends[:, None] * found[:, 1:]).sum(2)
    before = -(ends * way[:, None]).sum(1, keepdim=True)
    return torch.cat([features, ends.sum(1, keepdim=True), before], 1).transpose(1, 2)
