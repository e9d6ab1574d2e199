# SPDX-License-Identifier: Apache-2.0
"""Torch twin of `sky`: how much of a white sky points of a surface see.

Seen along a way (a frame of three rows: right, up, toward the sky) the cube [-1, 1]^3 is a picture that keeps the
highest and the lowest place of the surface at each pixel's middle, so it serves the way and its opposite: a point that
looks toward the sky is open when it lies above what is highest at its pixel, less `slack`; one that looks away, when it
lies below what is lowest. Each way counts with the cosine to the point's normal.
"""

from __future__ import annotations

import torch
from torch import Tensor

ON_EDGE = 1e-4  # pixels beyond an edge that still count
NOTHING = 4.0  # beyond the cube
ROWS = 1 << 22  # pixels of triangles' boxes at once


def sky(
    vertices: Tensor, faces: Tensor, points: Tensor, normals: Tensor, ways: Tensor, pixels: int, slack: float
) -> Tensor:
    """[V, 3], [F, 3], [M, 3], [M, 3], [D, 3, 3] -> [M]."""
    seen, whole = points.new_zeros(len(points)), points.new_zeros(len(points))
    for way in ways:
        high, low = heights(vertices @ way.T, faces.long(), pixels)
        at, cosine = points @ way.T, normals @ way[2]
        column = ((at[:, 0] + 1) * (0.5 * pixels)).clamp(0, pixels - 1).long()
        row = ((1 - at[:, 1]) * (0.5 * pixels)).clamp(0, pixels - 1).long()
        above, below = high[row * pixels + column], low[row * pixels + column]
        clear = torch.where(cosine > 0, at[:, 2] > above - slack, at[:, 2] < below + slack)
        seen, whole = seen + cosine.abs() * clear, whole + cosine.abs()
    return seen / whole.clamp(min=1e-6)


def heights(places: Tensor, faces: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Highest and lowest of a surface [P * P] whose vertices are in the frame of a way."""
    high, low = places.new_full((pixels**2,), -NOTHING), places.new_full((pixels**2,), NOTHING)
    flat = torch.stack([(places[:, 0] + 1) * (0.5 * pixels), (1 - places[:, 1]) * (0.5 * pixels), places[:, 2]], 1)
    corners = flat[faces]  # [F, 3, 3]
    corners = corners[torch.isfinite(corners).all(-1).all(-1)]
    a, b, c = corners.unbind(1)
    twice = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    first = (corners[..., :2].amin(1) - 0.5 - ON_EDGE).clamp(min=0).ceil().long()
    last = (corners[..., :2].amax(1) - 0.5 + ON_EDGE).clamp(max=pixels - 1).floor().long()
    size = (last - first + 1).clamp(min=0) * (twice != 0)[:, None]
    many = size.prod(1)
    begin = 0
    while begin < len(corners):
        end = max(int(torch.searchsorted(many[begin:].cumsum(0), ROWS)), 1) + begin
        some = torch.arange(begin, min(end, len(corners)), device=places.device)
        owner = torch.repeat_interleave(some, many[some])
        begin, count = end, many[some]
        step = torch.arange(len(owner), device=places.device) - torch.repeat_interleave(count.cumsum(0) - count, count)
        pixel = first[owner] + torch.stack([step % size[owner, 0], step // size[owner, 0]], 1)
        inside, z = filled(corners[owner], twice[owner], pixel)
        where = (pixel[:, 1] * pixels + pixel[:, 0])[inside]
        high.scatter_reduce_(0, where, z[inside], "amax")
        low.scatter_reduce_(0, where, z[inside], "amin")
    return high, low


def filled(corners: Tensor, twice: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
    """Whether triangles [N, 3, 3] have pixels [N, 2], and how high they are there."""
    middle = pixel + 0.5 - corners[:, 0, :2]
    inside = torch.ones_like(twice, dtype=torch.bool)
    for i in range(3):
        start, way = corners[:, i, :2] - corners[:, 0, :2], corners[:, (i + 1) % 3, :2] - corners[:, i, :2]
        across = way[:, 0] * (middle - start)[:, 1] - way[:, 1] * (middle - start)[:, 0]
        length = way.norm(dim=-1)
        inside &= torch.where(length > 0, across * twice.sign() / length.clamp(min=1e-30), 0.0) >= -ON_EDGE
    a, b, c = corners.unbind(1)
    x = ((b - a)[:, 2] * (c - a)[:, 1] - (c - a)[:, 2] * (b - a)[:, 1]) / twice
    y = ((c - a)[:, 2] * (b - a)[:, 0] - (b - a)[:, 2] * (c - a)[:, 0]) / twice
    z = a[:, 2] + y * middle[:, 1] + x * middle[:, 0]
    return inside, z.maximum(corners[..., 2].amin(1)).minimum(corners[..., 2].amax(1))
