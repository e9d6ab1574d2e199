# SPDX-License-Identifier: Apache-2.0
"""One way to move: what rocks, nods, bounces or turns about a joint has one number over time, back and forth along one
way, and what all of its parts do follows that number. A score's noise pushes every pose everywhere at every knot. So
of a table of poses over time the part of rank one stays, the rest fades (singular value projection, Jain et al. 2010).

Whole turns about +Y are a way of their own, which begins where it ends: they are set aside first, evenly over time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreamlab.core.rotation import product

SQUARED = 7  # times that the matrix of moments is multiplied by itself: other ways count by a power of 128
SMALL = 1e-12


def faded(whole: Tensor, poses: Tensor, share: float, loop: bool) -> tuple[Tensor, Tensor]:
    """Poses of all of it [T, 7] (quaternion, shift) and of its control points [T, K, 6], `share` of what leaves their
    common way taken away. Nothing is read by the host."""
    even = whole_turns(whole[:, :4], loop)
    table = torch.cat([half_turns(product(even * even.new_tensor([1, -1, -1, -1]), whole[:, :4])), whole[:, 4:]], -1)
    number = main_number(torch.cat([table, poses.flatten(1) / math.sqrt(poses.shape[1])], -1))
    table, own = (_kept(each, number, share) for each in (table, poses.flatten(1)))
    turns = product(even, from_half_turns(table[:, :3]))
    return torch.cat([turns, table[:, 3:]], -1), own.reshape(poses.shape)


def main_number(table: Tensor) -> Tensor:
    """[T], of length one: the first left singular vector of a table [T, C] about its mean over time."""
    apart = table - table.mean(0)
    moments = apart @ apart.T
    for _ in range(SQUARED):
        moments = moments / moments.diagonal().sum().clamp(min=SMALL)
        moments = moments @ moments
    return normalize(moments.index_select(1, moments.diagonal().argmax()[None])[:, 0], dim=0, eps=SMALL * SMALL)


def _kept(table: Tensor, number: Tensor, share: float) -> Tensor:
    mean = table.mean(0)
    apart = table - mean
    main = number[:, None] * (number @ apart)
    return mean + main + (1 - share) * (apart - main)


def whole_turns(quats: Tensor, loop: bool) -> Tensor:
    """[T, 4]: as many whole turns about +Y as the turns [T, 4] make, evenly."""
    yaw = 2 * torch.atan2(quats[:, 2], quats[:, 0])
    steps = torch.cat([yaw, yaw[:1]]).diff() if loop else yaw.diff()
    count = (torch.remainder(steps + math.pi, 2 * math.pi) - math.pi).sum().div(2 * math.pi).round()
    half = math.pi * count * torch.arange(len(quats), device=quats.device) / (len(quats) if loop else len(quats) - 1)
    none = torch.zeros_like(half)
    return torch.stack([half.cos(), none, half.sin(), none], -1)


def half_turns(quats: Tensor) -> Tensor:
    """[T, 4] -> [T, 3]: axis times half the angle, the shorter way: what is half a metre away from the axis goes as far
    as the number says in metres."""
    q = normalize(quats, dim=-1)
    q = torch.where(q[:, :1] < 0, -q, q)
    length = q[:, 1:].norm(dim=-1, keepdim=True)
    return q[:, 1:] * torch.atan2(length, q[:, :1]) / length.clamp(min=SMALL)


def from_half_turns(half: Tensor) -> Tensor:
    """The way back."""
    angle = half.norm(dim=-1, keepdim=True)
    return torch.cat([angle.cos(), half * torch.sinc(angle / math.pi)], -1)
