# SPDX-License-Identifier: Apache-2.0
"""Torch twin of the silhouette antialiasing: the specification of `cuda_ext.antialias`.

Between two neighbouring pixels that see different surfaces lies a silhouette. `silhouettes` finds it: from the
nearer of the two it walks over the mesh, triangle by triangle, along the line between the two centres, until the
surface ends (an open edge) or turns away (a fold). `blend` moves colour across it in proportion to where the edge
crosses that line, which is what carries gradients from pixels to the corners of the edge.

Half-edge h = 3 t + i is the side of triangle t opposite its corner i, from corner i+1 to corner i+2 (mod 3).
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_WALK = 64  # triangles crossed between two pixel centres


def edge_neighbours(triangles: Tensor) -> Tensor:
    """[T, 3] -> [T, 3] int32: the half-edge on the other side of each half-edge.

    -1 where the edge is open, is shared by more than two triangles, or has no length.
    """
    corner = triangles.long()
    start, end = corner.roll(-1, 1).flatten(), corner.roll(1, 1).flatten()
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    key, order = ((low << 32) + high).sort(stable=True)  # vertices are counted in 32 bits
    same = torch.zeros(len(key) + 1, dtype=torch.bool, device=key.device)
    same[1:-1] = key[1:] == key[:-1]  # same[k]: k pairs with k - 1
    before = torch.cat([same.new_zeros(1), same[:-2]]) if len(key) else same[:0]
    after = torch.cat([same[2:], same.new_zeros(1)]) if len(key) else same[:0]
    second = same[:-1] & ~before & ~same[1:]
    first = same[1:] & ~same[:-1] & ~after
    there = (start != end)[order]
    other = torch.where(first & there, order.roll(-1), torch.where(second & there, order.roll(1), -1))
    return torch.empty_like(key).index_copy_(0, order, other).reshape(-1, 3).int()


def facing(clip: Tensor, triangles: Tensor) -> Tensor:
    """[V, 4], [T, 3] -> [T]: on which side of the triangle the eye is (+1, -1; 0 exactly edge-on or broken)."""
    corner = torch.cat([clip[:, :2], clip[:, 3:]], 1).double()[triangles.long()]
    a, b, c = corner.unbind(1)
    det = (a * torch.linalg.cross(b, c, dim=-1)).sum(-1)
    return torch.where(torch.isfinite(det), det.sign(), 0)


def is_silhouette(side: Tensor, triangles: Tensor, neighbours: Tensor) -> Tensor:
    """[T], [T, 3], [T, 3] -> [T, 3] bool: the surface ends or folds over at this half-edge."""
    corner, other = triangles.long(), neighbours.long().clamp(min=0)
    start = corner.roll(-1, 1)
    other_end = corner.flatten()[3 * (other // 3) + (other + 2) % 3]
    winding = torch.where(start == other_end, 1, -1)
    return (neighbours < 0) | (side[:, None] * side[other // 3] * winding <= 0)


@torch.no_grad()
def silhouettes(triangle: Tensor, depth: Tensor, clip: Tensor, triangles: Tensor, neighbours: Tensor) -> Tensor:
    """[B, H, W], [B, H, W], [B, V, 4], [T, 3], [T, 3] -> [B, H, W, 2] int32.

    For the pair (pixel, pixel to the right) and (pixel, pixel below): 0, or 1 + 2 h + s where h is the half-edge
    that separates them and s = 0 when this pixel is in front of it, 1 when the other one is.
    """
    out = torch.zeros(*triangle.shape, 2, dtype=torch.int32, device=triangle.device)
    for view in range(len(clip)):
        side = facing(clip[view], triangles)
        ends = is_silhouette(side, triangles, neighbours)
        for axis in (0, 1):
            pair = _candidates(triangle[view], depth[view], axis)
            code = _walk(pair, clip[view], triangles.long(), neighbours.long(), side, ends, axis, triangle.shape[1:])
            out[view, pair[0], pair[1], axis] = code
    return out


def _candidates(triangle: Tensor, depth: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Pairs along `axis` (0: to the right, 1: down) that see different triangles.

    row, column, s (is the second pixel in front?), the triangle in front, the other one (-1: none).
    """
    height, width = triangle.shape
    here = triangle[:, : width - 1] if axis == 0 else triangle[: height - 1]
    there = triangle[:, 1:] if axis == 0 else triangle[1:]
    row, column = (here != there).nonzero(as_tuple=True)
    row2, column2 = (row, column + 1) if axis == 0 else (row + 1, column)
    id1, id2 = triangle[row, column].long() - 1, triangle[row2, column2].long() - 1
    swap = (id1 < 0) | ((id2 >= 0) & (depth[row2, column2] < depth[row, column]))
    return row, column, swap.long(), torch.where(swap, id2, id1), torch.where(swap, id1, id2)


def _walk(
    pair: tuple[Tensor, ...], clip: Tensor, triangles: Tensor, neighbours: Tensor, side: Tensor, ends: Tensor,
    axis: int, size: torch.Size,
) -> Tensor:  # fmt: skip
    row, column, swap, current, other = pair
    joined = (neighbours[current] >= 0) & (neighbours[current] // 3 == other[:, None]) & ~ends[current]
    alive = ~joined.any(-1)
    code, entry = torch.zeros_like(row), torch.full_like(row, -1)
    corner_index = torch.arange(3, device=row.device)
    for _ in range(MAX_WALK):
        if not bool(alive.any()):
            break
        start, end = (clip[triangles[current].roll(shift, -1)] for shift in (-1, -2))
        value, along, across = crossing(start, end, row[:, None], column[:, None], swap[:, None], axis, size)
        inward = -side[current].to(value)[:, None]  # the picture's y is flipped
        leaves = (along * inward < 0) & (corner_index != entry[:, None])
        at = torch.where(leaves, value / torch.where(leaves, -along, 1), torch.inf)
        first, which = at.min(-1)
        alive &= first <= 1
        half_edge = 3 * current + which
        stop = ends[current, which]
        pick = which[:, None]
        major = along.gather(1, pick).abs() >= across.gather(1, pick).abs() if axis == 0 else (
            along.gather(1, pick).abs() > across.gather(1, pick).abs())  # fmt: skip
        code = torch.where(alive & stop & major.squeeze(1), 1 + 2 * half_edge + swap, code)
        alive &= ~stop
        following = neighbours[current, which].clamp(min=0)
        current = torch.where(alive, following // 3, current)
        entry = torch.where(alive, following % 3, entry)
        alive &= current != other
    return code.int()


def crossing(
    start: Tensor, end: Tensor, row: Tensor, column: Tensor, swap: Tensor, axis: int, size: torch.Size
) -> tuple[Tensor, Tensor, Tensor]:
    """Homogeneous line through two clip positions [..., 4], seen from the centre of the pixel in front.

    Returns its value there, its slope towards the other pixel, and its slope along the other axis: the line crosses
    at value / -slope of the way. No division by w.
    """
    height, width = size
    row, column = row + (swap if axis == 1 else 0), column + (swap if axis == 0 else 0)
    half_x, half_y = (width / 2 - 0.5 - column).to(start), (height / 2 - 0.5 - row).to(start)
    (ax, ay, aw), (bx, by, bw) = (
        (width / 2 * p[..., 0] + half_x * p[..., 3], half_y * p[..., 3] - height / 2 * p[..., 1], p[..., 3])
        for p in (start, end)
    )
    value, dx, dy = ax * by - ay * bx, ay * bw - aw * by, aw * bx - ax * bw
    sign = (1 - 2 * swap).to(start)
    return (value, dx * sign, dy) if axis == 0 else (value, dy * sign, dx)


def blend(color: Tensor, clip: Tensor, triangles: Tensor, pairs: Tensor) -> Tensor:
    """[B, H, W, C], [B, V, 4], [T, 3], [B, H, W, 2] -> [B, H, W, C]; differentiable to `color` and `clip`.

    The edge crosses at a fraction D of the way from the pixel in front (f) to the one behind (b). With
    a = D - 1/2, b gains a (f - b) when a > 0, else f gains a (f - b): pixels are the areas around their centres.
    """
    out = color
    for axis in (0, 1):
        view, row, column = pairs[..., axis].nonzero(as_tuple=True)
        code = pairs[view, row, column, axis].long() - 1
        swap, half_edge = code % 2, code // 2
        triangle, i = half_edge // 3, half_edge % 3
        start, end = (clip[view, triangles.long()[triangle, (i + k) % 3]] for k in (1, 2))
        value, along, _ = crossing(start, end, row, column, swap, axis, pairs.shape[1:3])
        share = (value / -along).clamp(0, 1) - 0.5
        row2, column2 = (row, column + 1) if axis == 0 else (row + 1, column)
        first, second = color[view, row, column], color[view, row2, column2]
        swapped = (swap == 1)[:, None]
        gain = share[:, None] * torch.where(swapped, second - first, first - second)
        to_second = (share > 0) != (swap == 1)
        target = (view, torch.where(to_second, row2, row), torch.where(to_second, column2, column))
        out = out.index_put(target, gain, accumulate=True)
    return out


def antialias(
    color: Tensor, triangle: Tensor, depth: Tensor, clip: Tensor, triangles: Tensor, neighbours: Tensor
) -> Tensor:
    """Twin of `cuda_ext.antialias.antialias`, with the raster's outputs spelled out."""
    return blend(color, clip, triangles, silhouettes(triangle, depth, clip, triangles, neighbours))
