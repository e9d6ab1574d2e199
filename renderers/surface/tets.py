# SPDX-License-Identifier: Apache-2.0
"""Marching tetrahedra on Kuhn grids of any resolution.

Convention: a signed distance is negative inside; a corner is outside when its distance is > 0. A tetrahedron (v0, v1,
v2, v3) is positive when det[v1 - v0, v2 - v0, v3 - v0] > 0. With both, triangles are counter-clockwise seen from
outside. The Kuhn (Freudenthal) triangulation cuts each cube into the six paths from its lowest to its highest
corner; neighbouring cubes agree on their common faces, and cutting every edge in two gives the grid of twice the
resolution.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from dreamlab.core.gather import taken

SIGNS = ("negative", "positive")  # of the distance inside


class Crossing(NamedTuple):
    """Where a surface crosses a grid: it has one corner on each of `edges`."""

    edges: Tensor  # [N, 2] grid vertices, the lower index first
    faces: Tensor  # [F, 3] rows of `edges`, counter-clockwise seen from outside


def _even(order: tuple[int, ...]) -> bool:
    return sum(order[i] > order[j] for i, j in itertools.combinations(range(len(order)), 2)) % 2 == 0


def _triangles(case: int) -> list[tuple[tuple[int, int], ...]]:
    """Triangles of a positive tetrahedron, corners are edges (inside end, outside end); bit i of `case`: i is outside.

    One corner i alone: the triangle through its edges to (j, k, l) faces away from it when (i, j, k, l) is even. Two
    and two: with (a, b, c, d) even and a, b inside, the quad ac, ad, bd, bc faces c and d.
    """
    inside = [i for i in range(4) if not case >> i & 1]
    outside = [i for i in range(4) if case >> i & 1]
    if not inside or not outside:
        return []
    if len(inside) == 2:
        a, b = inside
        c, d = outside if _even((*inside, *outside)) else outside[::-1]
        return [((a, c), (a, d), (b, d)), ((a, c), (b, d), (b, c))]
    alone, rest = (inside[0], outside) if len(inside) == 1 else (outside[0], inside)
    j, k, m = rest if _even((alone, *rest)) else (rest[1], rest[0], rest[2])
    if len(inside) == 1:
        return [((alone, j), (alone, k), (alone, m))]
    return [((j, alone), (m, alone), (k, alone))]


# [16, 2, 3, 2]: two triangles of three corners of two local vertices; -1 where a case has fewer triangles.
_TABLE = torch.full((16, 2, 3, 2), -1, dtype=torch.int64)
for _case in range(16):
    for _row, _found in enumerate(_triangles(_case)):
        _TABLE[_case, _row] = torch.tensor(_found)


def cross(sdf: Tensor, tets: Tensor) -> Crossing:
    """Topology of the zero surface of `sdf` [V] in positive `tets` [T, 4]; nothing here is differentiable.

    The number of triangles depends on the data, so on a GPU this waits for the device once.
    """
    with torch.no_grad():
        outside = sdf[tets] > 0  # [T, 4]
        case = (outside * torch.tensor([1, 2, 4, 8], device=sdf.device)).sum(-1)
        local = _TABLE.to(sdf.device)[case]  # [T, 2, 3, 2]
        tet, which = (local[:, :, 0, 0] >= 0).nonzero(as_tuple=True)
        ends = tets[tet][:, None].expand(-1, 3, -1).gather(2, local[tet, which])  # [F, 3, 2]
        low, high = ends.aminmax(dim=-1)
        key, corner = torch.unique(low * len(sdf) + high, return_inverse=True)
        return Crossing(torch.stack([key // len(sdf), key % len(sdf)], -1), corner)


def place(ends: Tensor, distances: Tensor) -> Tensor:  # [N, 2, 3], [N, 2] -> [N, 3]
    """Where the distance is zero between two ends of opposite sign: (a d_b - b d_a) / (d_b - d_a)."""
    gap = distances[:, 1] - distances[:, 0]
    # Two distances that are almost zero leave the quotient open: the middle is as good as any place.
    flat = gap.abs() < 1e-12
    along = torch.where(flat, 0.5, -distances[:, 0] / torch.where(flat, 1.0, gap))
    return ends[:, 0] + along[:, None] * (ends[:, 1] - ends[:, 0])


def marching_tetrahedra(
    points: Tensor,  # [V, 3]
    sdf: Tensor,  # [V]
    tets: Tensor,  # [T, 4]
    inside: str = "negative",
) -> tuple[Tensor, Tensor]:
    """Vertices [N, 3] and outward faces [F, 3] of the surface sdf = 0; differentiable in points and sdf.

    `inside` is the sign of the distance in the object. Tetrahedra of negative determinant are turned round first.
    """
    if inside not in SIGNS:
        raise ValueError(f"marching_tetrahedra: inside is {inside!r}, it must be one of {', '.join(SIGNS)}")
    sdf = sdf if inside == "negative" else -sdf
    with torch.no_grad():
        a, b, c, d = points[tets].unbind(1)
        turned = (torch.linalg.cross(b - a, c - a) * (d - a)).sum(-1) < 0
        tets = torch.where(turned[:, None], tets[:, [0, 1, 3, 2]], tets)
    edges, faces = cross(sdf, tets)
    return place(taken(points, edges), taken(sdf, edges)), faces


@dataclass(frozen=True)
class KuhnGrid:
    """`resolution` cubes per side over [-extent, extent]^3, six tetrahedra each; vertex (x, y, z) is row
    (x (R + 1) + y) (R + 1) + z."""

    resolution: int
    extent: float = 1.0

    def __post_init__(self) -> None:
        if self.resolution < 1 or self.extent <= 0:
            raise ValueError(f"KuhnGrid: resolution must be >= 1 and extent positive, got {self}")

    @property
    def side(self) -> int:
        return self.resolution + 1

    @property
    def count(self) -> int:
        return self.side**3

    @property
    def cell(self) -> float:
        return 2 * self.extent / self.resolution

    def points(self, rows: Tensor) -> Tensor:
        """[..., 3] positions of vertices, computed instead of stored."""
        steps = torch.stack([rows // self.side**2, rows // self.side % self.side, rows % self.side], -1)
        return steps * self.cell - self.extent

    def vertices(self, device: torch.device | str = "cpu") -> Tensor:
        """[V, 3]"""
        return self.points(torch.arange(self.count, device=device))

    @cached_property
    def corners(self) -> Tensor:
        """[6, 4] row offsets of a cube's tetrahedra from its lowest corner, all positive."""
        strides = (self.side**2, self.side, 1)
        found = []
        for order in itertools.permutations(range(3)):
            path = [0, *itertools.accumulate(strides[axis] for axis in order)]
            found.append(path if _even(order) else [path[0], path[1], path[3], path[2]])
        return torch.tensor(found)

    def tets(self, cubes: Tensor | None = None) -> Tensor:
        """[T, 4] tetrahedra of the cubes whose lowest corners are given; of all without."""
        if cubes is None:
            line = torch.arange(self.resolution)
            x, y, z = torch.meshgrid(line, line, line, indexing="ij")
            cubes = ((x * self.side + y) * self.side + z).reshape(-1)
        return (cubes[:, None, None] + self.corners.to(cubes.device)).reshape(-1, 4)

    def cross(self, sdf: Tensor) -> Crossing:
        """`cross` of the whole grid, looking only into cubes with both signs: the surface is a small part of them."""
        with torch.no_grad():
            outside = (sdf > 0).reshape(1, self.side, self.side, self.side).to(torch.uint8)
            some, every = outside, outside
            for axis in (1, 2, 3):
                low, high = some.narrow(axis, 0, self.resolution), some.narrow(axis, 1, self.resolution)
                some = low | high
                low, high = every.narrow(axis, 0, self.resolution), every.narrow(axis, 1, self.resolution)
                every = low & high
            _, x, y, z = (some != every).nonzero(as_tuple=True)
            return cross(sdf, self.tets((x * self.side + y) * self.side + z))

    def border(self, device: torch.device | str = "cpu") -> Tensor:
        """[V] bool: the outermost vertices; a surface that stays off them is closed."""
        mask = torch.ones(self.side, self.side, self.side, dtype=torch.bool, device=device)
        mask[1:-1, 1:-1, 1:-1] = False
        return mask.reshape(-1)

    def lonely(self, sdf: Tensor, share: float) -> Tensor:
        """[V] bool: vertices on the wrong side. Specks are parts inside with less than `share` of the vertices of the
        largest part; bubbles are parts outside that do not reach the border. Parts hang together along edges."""
        from scipy.ndimage import label

        steps = torch.stack(torch.meshgrid(*[torch.arange(-1, 2)] * 3, indexing="ij"), -1)
        edges = ((steps >= 0).all(-1) | (steps <= 0).all(-1)).numpy()  # of a vertex: all of one direction
        inside = (sdf <= 0).reshape((self.side,) * 3).cpu()
        solid, count = label(inside.numpy(), edges)
        size = torch.bincount(torch.from_numpy(solid).long().flatten(), minlength=count + 1)
        size[0] = 0
        small = size < share * size.max()
        hollow, count = label(~inside.numpy(), edges)
        parts = torch.from_numpy(hollow).long().flatten()
        shut = torch.ones(count + 1, dtype=torch.bool)
        shut[parts[self.border()]] = False
        wrong = torch.where(inside.flatten(), small[torch.from_numpy(solid).long().flatten()], shut[parts])
        return wrong.to(sdf.device)

    def refine(self, values: Tensor) -> tuple[KuhnGrid, Tensor]:
        """The grid of twice the resolution with `values` [V, ...] at its vertices: means of the two ends of an edge.

        A cube's face and body diagonals of the triangulation run from low to high, so a new vertex lies between its
        coordinates rounded down and rounded up; the piecewise linear function stays the same.
        """
        finer = KuhnGrid(2 * self.resolution, self.extent)
        line = torch.arange(finer.side, device=values.device)
        low, high = line // 2, (line + 1) // 2

        def rows(steps: Tensor) -> Tensor:
            x, y, z = torch.meshgrid(steps, steps, steps, indexing="ij")
            return ((x * self.side + y) * self.side + z).reshape(-1)

        return finer, (values[rows(low)] + values[rows(high)]) / 2
