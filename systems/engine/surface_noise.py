# SPDX-License-Identifier: Apache-2.0
"""Noise that sticks to the surface: the same point shows the same noise to every camera (CFD, arXiv:2501.05445).

The noise lives on texels of nested cubes around the origin: face and place by direction, cube by distance. A pixel adds
up the texels that its surface points fall on and divides by the root of their number, so that it stays standard normal;
a texel belongs to one pixel of a view only, so that pixels stay independent. Where nothing is seen, noise is random.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.types import Frames


def texel_of(points: Tensor, texels: int, layers: int, reach: float) -> Tensor:  # [..., 3] -> [...] long
    """Which texel a point belongs to: 6 faces x `layers` shells up to `reach` metres x texels^2."""
    axis = points.abs().argmax(-1)
    major = points.gather(-1, axis[..., None])[..., 0]
    face = 2 * axis + (major < 0).long()
    others = torch.tensor([[1, 2], [2, 0], [0, 1]], device=points.device)[axis]
    across = points.gather(-1, others) / major.abs().clamp(min=1e-9)[..., None]  # [-1, 1]
    place = ((across + 1) / 2 * texels).long().clamp(0, texels - 1)
    shell = (points.norm(dim=-1) / reach * layers).long().clamp(0, layers - 1)
    return ((face * layers + shell) * texels + place[..., 0]) * texels + place[..., 1]


def surface_points(frames: Frames, cameras: Cameras, height: int, width: int) -> tuple[Tensor, Tensor]:
    """World points [B, h, w, 3] seen through the pixel centres of another raster, and where there are any [B, h, w]."""
    maps = torch.cat([frames.depth, frames.alpha], -1).detach().permute(0, 3, 1, 2)
    depth, alpha = F.interpolate(maps, (height, width), mode="nearest-exact").unbind(1)
    return cameras.points(depth), (alpha > 0.5) & (depth > 0)


def bound_noise(
    field: Tensor,  # [T, C] noise on the texels
    free: Tensor,  # [B, C, h, w] noise where no surface is
    frames: Frames,
    cameras: Cameras,
    texels: int,
    layers: int,
    reach: float,
    sub: int,
) -> Tensor:  # [B, C, h, w]
    """The noise that each pixel sees; `sub` x `sub` surface points per pixel."""
    count, channels, height, width = free.shape
    points, there = surface_points(frames, cameras, height * sub, width * sub)
    rows = torch.arange(count * height * width, device=free.device).reshape(count, height, 1, width, 1)
    seen = there.reshape(-1).nonzero()[:, 0]
    pixel = rows.expand(-1, -1, sub, -1, sub).reshape(-1)[seen]
    texel = texel_of(points.reshape(-1, 3)[seen], texels, layers, reach)
    keys, which = torch.unique(pixel // (height * width) * len(field) + texel, return_inverse=True)
    owner = torch.full_like(keys, rows.numel()).scatter_reduce(0, which, pixel, "amin")
    total = free.new_zeros(rows.numel(), channels).index_add(0, owner, field[keys % len(field)].to(free))
    found = free.new_zeros(rows.numel()).index_add(0, owner, free.new_ones(len(owner)))
    bound = (total / found.clamp(min=1).sqrt()[:, None]).reshape(count, height, width, channels).permute(0, 3, 1, 2)
    return torch.where(found.reshape(count, 1, height, width) > 0, bound, free)
