# SPDX-License-Identifier: Apache-2.0
"""A user's triangles with their corners written out: turned the same way, cut where a texture begins anew, asked what
of it is shared, welded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cuda_ext.raster import raster
from dreamlab.core.errors import InputError
from dreamlab.core.files import Json
from dreamlab.core.foreign.mesh_parser import GRAY
from dreamlab.core.types import Mesh
from renderers.surface.atlas import Atlas
from renderers.surface.draw import vertex_normals
from renderers.surface.winding import turned_over

MOST_CUT = 400_000  # pieces of triangles whose texture repeats
LOOK = 512  # texels a tile that sharing is looked for at
CLAMP, MIRROR = 33071, 33648  # of a glTF sampler, which else repeats


@dataclass
class Soup:
    """Triangles with their corners written out; everything [F, 3, ...] but `slot`."""

    points: Tensor  # float64
    uv: Tensor
    normals: Tensor
    tint: Tensor
    slot: Tensor  # [F]

    def take(self, rows: Tensor) -> Soup:
        return Soup(self.points[rows], self.uv[rows], self.normals[rows], self.tint[rows], self.slot[rows])


def turned(soup: Soup) -> list[str]:
    """Make all triangles of a part face one way."""
    _, faces = torch.unique(soup.points.reshape(-1, 3).float(), dim=0, return_inverse=True)
    places = torch.zeros(int(faces.max()) + 1, 3).index_copy(0, faces, soup.points.reshape(-1, 3).float())
    faces = faces.reshape(-1, 3)
    lines = _oddities(faces)
    turn = turned_over(places, faces)
    if not bool(turn.any()):
        return lines
    order = torch.where(turn[:, None], torch.tensor([0, 2, 1]), torch.tensor([0, 1, 2]))
    for key in ("points", "uv", "normals", "tint"):
        value = getattr(soup, key)
        setattr(soup, key, value.gather(1, order[..., None].expand_as(value)))
    soup.normals[turn] = -soup.normals[turn]
    return [
        *lines,
        f"{int(turn.sum())} of {len(turn)} triangles face the wrong way; turned over for painting, not in the file",
    ]


def _oddities(faces: Tensor) -> list[str]:
    """What is not as surfaces are, and does no harm here."""
    twice = len(faces) - len(torch.unique(faces.sort(1).values, dim=0))
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(1).values
    many = int((torch.unique(edges, dim=0, return_counts=True)[1] > 2).sum())
    lines = [f"{twice} triangles are there more than once; painted as one"] if twice else []
    return lines + ([f"{many} edges have more than two triangles: not a solid's surface, which painting does not mind"]
                    if many else [])  # fmt: skip


def cut(soup: Soup, wraps: Sequence[Sequence[int]], name: str) -> Soup:
    """Every triangle in the unit square: clamped, or cut along whole numbers and moved."""
    modes = torch.tensor(wraps)[soup.slot]  # [F, 2]
    soup.uv = torch.where(modes[:, None] == CLAMP, soup.uv.clamp(0, 1), soup.uv)
    base = soup.uv.amin(1).floor()
    over = (soup.uv.amax(1) > base + 1).any(-1)
    whole = soup.take(~over)
    whole.uv = _folded(whole.uv, base[~over], modes[~over])
    parts = [whole]
    pieces = 0
    for row in over.nonzero()[:, 0].tolist():
        rings = _cells(soup.uv[row].double().numpy(), MOST_CUT - pieces)
        pieces += sum(len(ring) - 2 for _, ring in rings)
        if pieces >= MOST_CUT:
            raise InputError(f"mesh {name}: its texture repeats too often to be painted; unwrap it anew: --fresh-uv")
        one = soup.take(torch.tensor([row]))
        for cell, ring in rings:
            weights = torch.from_numpy(np.stack([[ring[0], ring[i], ring[i + 1]] for i in range(1, len(ring) - 1)]))
            corners = [weights.to(value) @ value for value in (one.points, one.uv, one.normals, one.tint)]
            fan = Soup(corners[0], corners[1], corners[2], corners[3], one.slot.expand(len(weights)))
            fan.uv = _folded(fan.uv, torch.tensor([cell]).float(), modes[row : row + 1]).clamp(0, 1)
            parts.append(fan)
    keys = ("points", "uv", "normals", "tint", "slot")
    made = Soup(*(torch.cat([getattr(part, key) for part in parts]) for key in keys))
    solid = torch.linalg.cross(*(made.points[:, 1:] - made.points[:, :1]).unbind(1)).norm(dim=-1) > 1e-14
    return made.take(solid)


def _folded(uv: Tensor, cell: Tensor, modes: Tensor) -> Tensor:
    """[F, 3, 2] inside the unit square, of triangles that lie in the square at `cell` [F, 2]."""
    local = uv - cell[:, None]
    turned = (modes == MIRROR) & (cell.long() % 2 != 0)
    return torch.where(turned[:, None], 1 - local, local)


def _cells(uv: np.ndarray, most: int) -> list[tuple[tuple[int, int], np.ndarray]]:
    """A triangle [3, 2] cut along whole numbers: each square that it reaches, and its part there as weights [n, 3] of
    the three corners (Sutherland & Hodgman 1974)."""
    low, high = np.floor(uv.min(0)).astype(int), np.ceil(uv.max(0)).astype(int)
    if float(np.prod((high - low).astype(float))) > max(most, 1):
        return [((0, 0), np.zeros((most + 2, 3)))]
    strips = [(x, _between(np.eye(3), uv[:, 0], x)) for x in range(low[0], high[0])]
    rows = range(low[1], high[1])
    cells = [((x, y), _between(ring, uv[:, 1], y)) for x, ring in strips if len(ring) > 2 for y in rows]
    return [(cell, ring) for cell, ring in cells if len(ring) > 2]


def _between(ring: np.ndarray, axis: np.ndarray, low: int) -> np.ndarray:
    """The part of a polygon, weights [n, 3] of corners with coordinates `axis` [3], between `low` and `low + 1`."""
    for sign, bound in ((1.0, low), (-1.0, -(low + 1))):
        kept = []
        height = sign * (ring @ axis) - bound if len(ring) else np.zeros(0)
        for i in range(len(ring)):
            j = (i + 1) % len(ring)
            if height[i] >= 0:
                kept.append(ring[i])
            if (height[i] > 0 > height[j]) or (height[i] < 0 < height[j]):
                share = height[i] / (height[i] - height[j])
                kept.append(ring[i] + share * (ring[j] - ring[i]))
        ring = np.array(kept).reshape(-1, 3)
    return ring


def sharing(soup: Soup, slots: Sequence[Json]) -> list[str]:
    """Texels that several places share, and whether they are mirrored: said, slot by slot."""
    lines = []
    for number, slot in enumerate(slots):
        uv = soup.uv[soup.slot == number]
        if slot["fresh"]:
            lines.append(f"material {slot['name']!r}: {len(uv)} triangles get texture coordinates, a set of their own")
            continue
        clip = torch.cat([2 * uv - 1, torch.zeros_like(uv[..., :1]), torch.ones_like(uv[..., :1])], -1).reshape(-1, 4)
        faces = torch.arange(len(clip)).reshape(-1, 3)
        # Of equal depths the first is kept: where the last one is another, several lie over one another.
        first, last = raster(clip, faces, (LOOK, LOOK)).triangle, raster(clip, faces.flip(0), (LOOK, LOOK)).triangle
        covered = first > 0
        shared = covered & (first != len(faces) + 1 - last)
        share = float(shared.sum()) / max(float(covered.sum()), 1)
        slot["shared"] = round(share, 4)
        if share > 0.002:
            e, d = (uv[:, 1:] - uv[:, :1]).unbind(1)
            sides = e[:, 0] * d[:, 1] - e[:, 1] * d[:, 0]
            mirrored = " (some of them mirrored)" if bool((sides > 0).any() and (sides < 0).any()) else ""
            slot["mirrored"] = bool(mirrored)
            lines.append(
                f"material {slot['name']!r}: {100 * share:.0f} % of its texels are shared by several places{mirrored}; "
                "they get one colour. --fresh-uv gives each place its own"
            )
    return lines


def welded(soup: Soup) -> tuple[Mesh, Atlas, Tensor]:
    """Corners of equal place and normal are one vertex; those of equal coordinates, too, one row of the atlas."""
    places = soup.points.reshape(-1, 3).float()
    bent = (soup.normals.reshape(-1, 3).nan_to_num(0.0) * 64).round()
    keys, vertex = torch.unique(torch.cat([places, bent], 1), dim=0, return_inverse=True)
    tint = soup.tint.reshape(-1, 3)
    rows = torch.cat([vertex[:, None].double(), soup.uv.reshape(-1, 2).double(), tint.double()], 1)
    corners, row = torch.unique(rows, dim=0, return_inverse=True)
    atlas = Atlas(corners[:, 1:3].float(), row.reshape(-1, 3), corners[:, 0].long())
    vertices, faces = keys[:, :3].contiguous(), vertex.reshape(-1, 3)
    mesh = Mesh(vertices, faces, torch.full_like(vertices, GRAY), vertex_normals(vertices, faces))
    return mesh, atlas, corners[:, 3:].float()
