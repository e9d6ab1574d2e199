# SPDX-License-Identifier: Apache-2.0
"""Is anything in the way? Any-hit rays against triangles, exact, by a tree of boxes walked by all rays at once.

Triangles are sorted along a Morton curve and packed four to a leaf; boxes form a complete binary tree in heap order
(node i has children 2 i and 2 i + 1, the root is 1). A ray that misses a box, or has finished a leaf, goes on at
`escape`: the next node to the right that is not below this one. No stack, and every step is one gather for all rays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAF = 4
CHUNK = 1 << 18  # rays walked together


@dataclass(frozen=True)
class Boxes:
    """Boxes over triangles; L leaves, a power of two."""

    low: Tensor  # [2 L, 3]; row 0 is not used
    high: Tensor  # [2 L, 3]
    corners: Tensor  # [L, LEAF, 3, 3] a, b - a, c - a; padding has no area
    escape: Tensor  # [2 L] int64, 0 when the walk is over

    @staticmethod
    def over(vertices: Tensor, faces: Tensor) -> Boxes:
        """Built once per shape; follows `vertices`' device and type, without gradients."""
        with torch.no_grad():
            triangles = vertices.detach()[faces]
            low, high = triangles.reshape(-1, 3).aminmax(dim=0)
            cell = ((triangles.mean(1) - low) / (high - low).clamp(min=1e-12) * 1023).long().clamp(0, 1023)
            triangles = triangles[_morton(cell).argsort()]
            leaves = 1
            while leaves * LEAF < len(triangles):
                leaves *= 2
            padded = triangles[-1:].mean(1, keepdim=True).expand(leaves * LEAF - len(triangles), 3, 3)
            triangles = torch.cat([triangles, padded]).reshape(leaves, LEAF, 3, 3)
            levels = [(triangles.flatten(1, 2).amin(1), triangles.flatten(1, 2).amax(1))]
            while len(levels[-1][0]) > 1:
                small, large = levels[-1]
                levels.append((torch.minimum(small[::2], small[1::2]), torch.maximum(large[::2], large[1::2])))
            spare = levels[0][0][:1]
            lows = torch.cat([spare, *(small for small, _ in reversed(levels))])
            highs = torch.cat([spare, *(large for _, large in reversed(levels))])
            a, b, c = triangles.unbind(2)
            return Boxes(lows, highs, torch.stack([a, b - a, c - a], 2), _escapes(2 * leaves, vertices.device))

    def blocked(self, origins: Tensor, directions: Tensor, start: float = 1e-4) -> Tensor:
        """[N] bool: whether rays [N, 3] meet a triangle farther than `start` from their origins."""
        with torch.no_grad():
            pieces = zip(origins.split(CHUNK), directions.split(CHUNK), strict=True)
            found = [self._walk(o, d, start) for o, d in pieces]
            return torch.cat(found) if found else origins.new_zeros(0, dtype=torch.bool)

    def _walk(self, origins: Tensor, directions: Tensor, start: float) -> Tensor:
        leaves = len(self.corners)
        # A direction along an axis has an infinite inverse; a huge finite one gives the same answer without nan.
        inverse = 1 / torch.where(directions.abs() < 1e-9, 1e-9, directions)
        blocked = torch.zeros(len(origins), dtype=torch.bool, device=origins.device)
        ray = torch.arange(len(origins), device=origins.device)
        node = torch.ones_like(ray)
        while len(ray):
            o, inv = origins[ray], inverse[ray]
            near, far = (self.low[node] - o) * inv, (self.high[node] - o) * inv
            enter = torch.minimum(near, far).amax(-1)
            leave = torch.maximum(near, far).amin(-1) * (1 + 1e-6)
            inside = (leave >= enter) & (leave > start)
            at_leaf = (inside & (node >= leaves)).nonzero()[:, 0]
            struck = ray[at_leaf]
            hit = _meets(self.corners[node[at_leaf] - leaves], origins[struck], directions[struck], start)
            blocked[struck] = hit  # a ray is in one node at a time, and no longer here once it is blocked
            node = torch.where(inside & (node < leaves), 2 * node, self.escape[node])
            going = ((node > 0) & ~blocked[ray]).nonzero()[:, 0]
            ray, node = ray[going], node[going]
        return blocked


def _meets(corners: Tensor, origin: Tensor, direction: Tensor, start: float) -> Tensor:
    """[A] bool: Moeller & Trumbore 1997 against LEAF triangles each, both sides."""
    a, e1, e2 = corners.unbind(2)
    d = direction[:, None].expand_as(a)
    p = torch.linalg.cross(d, e2)
    det = (e1 * p).sum(-1)
    flat = det.abs() < 1e-14
    inv = 1 / torch.where(flat, 1.0, det)
    s = origin[:, None] - a
    u = (s * p).sum(-1) * inv
    q = torch.linalg.cross(s, e1)
    v = (d * q).sum(-1) * inv
    t = (e2 * q).sum(-1) * inv
    return (~flat & (u >= 0) & (v >= 0) & (u + v <= 1) & (t > start)).any(-1)


def _morton(cell: Tensor) -> Tensor:
    """[N] 30-bit codes of cells [N, 3] in 0..1023: the bits of x, y and z in turn."""
    code = torch.zeros_like(cell[:, 0])
    for bit in range(10):
        for axis in range(3):
            code |= (cell[:, axis] >> bit & 1) << (3 * bit + axis)
    return code


def _escapes(count: int, device: torch.device) -> Tensor:
    """Up while a right child, then to the sibling: (i + 1) without its trailing zero bits; 1 means the end."""
    after = torch.arange(count, device=device) + 1
    found = after // (after & -after)
    return torch.where(found == 1, 0, found)
