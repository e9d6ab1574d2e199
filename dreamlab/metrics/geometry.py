# SPDX-License-Identifier: Apache-2.0
"""Volumetric IoU and Chamfer distance against the truth, after the same alignment for everything that is measured.

An asset's volume is what its exported surface encloses (the extraction's own threshold, chosen without the truth);
hollows that nothing outside reaches are filled. Alignment: both volumes are moved to their centroid and scaled to
equal spread; no rotation, for the cameras told everyone where the front is. A prompt does not fix the proportions, so
an asset is compared with several instances and the nearest counts, for trivial answers as for earnest ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.triangles import scattered
from dreamlab.core.types import Mesh
from dreamlab.toybox.mesh import mesh as surface_of
from dreamlab.toybox.program import Program

CELLS = 48  # per side of the grid over [-HALF, HALF]^3
HALF = 1.05
POINTS = 3000  # sampled on each surface
RESOLUTION = 64  # of the extraction


@dataclass(frozen=True)
class Body:
    """A volume on a common grid, and points of its surface."""

    filled: Tensor  # [G, G, G] bool
    points: Tensor  # [P, 3]
    centre: Tensor  # [3] of the volume
    spread: float  # root mean square distance from the centre


@dataclass(frozen=True)
class Likeness:
    """How near an asset is to the truth; the best of several instances."""

    iou: float  # as they stand
    iou_aligned: float
    chamfer: float  # mean of both directions, aligned, in metres: the object's radius is 0.9


def centres(cells: int = CELLS) -> Tensor:
    """[G, G, G, 3] cell centres."""
    line = (torch.arange(cells) + 0.5) * (2 * HALF / cells) - HALF
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)


def shape(filled: Tensor, points: Tensor) -> Body:
    from scipy.ndimage import binary_fill_holes

    whole = torch.from_numpy(np.asarray(binary_fill_holes(filled.numpy())))
    inside = centres(len(filled))[whole]
    if not len(inside):
        return Body(whole, points, torch.zeros(3), 0.0)
    centre = inside.mean(0)
    return Body(whole, points, centre, float((inside - centre).square().sum(-1).mean().sqrt()))


def shape_of_mesh(found: Mesh) -> Body:
    vertices, faces = found.vertices.cpu(), found.faces.cpu()
    return shape(voxels(vertices, faces), surface_points(vertices, faces))


def shape_of_program(program: Program) -> Body:
    """Exact inside test; surface points from marching cubes."""
    inside = program.sdf(centres().reshape(1, -1, 3))[0][0] < 0
    found = surface_of(program, RESOLUTION)
    return shape(inside.reshape(CELLS, CELLS, CELLS), surface_points(found.vertices, found.faces))


def voxels(vertices: Tensor, faces: Tensor, cells: int = CELLS) -> Tensor:
    """[G, G, G] bool: cells whose centre a closed mesh encloses, by counting signed crossings along +Z."""
    step = 2 * HALF / cells
    # A hair off the grid, so that no column passes through a vertex or an edge of a mesh made on a like grid.
    corners = ((vertices.double() + HALF + torch.tensor([1.7e-5, 2.9e-5, 0.0])) / step - 0.5)[faces].numpy()
    x, y = corners[..., 0], corners[..., 1]
    low = np.ceil(np.stack([x.min(1), y.min(1)], 1)).clip(0).astype(int)
    high = np.floor(np.stack([x.max(1), y.max(1)], 1)).clip(max=cells - 1).astype(int)
    crossings = np.zeros((cells, cells, cells + 1))
    wide, tall = (high - low + 1).clip(0).T
    for dx in range(int(wide.max(initial=0))):
        for dy in range(int(tall.max(initial=0))):
            some = (dx < wide) & (dy < tall)
            _cross(crossings, corners[some], low[some] + (dx, dy))
    return torch.from_numpy(np.cumsum(crossings, 2)[..., :cells] > 0.5)


def _cross(crossings: np.ndarray, corners: np.ndarray, column: np.ndarray) -> None:
    """Add to `crossings`: +1 where the column [F, 2] enters a triangle [F, 3, 3] coming from -Z, -1 where it leaves."""
    a, b, c = (corners[:, i, :2] - column for i in range(3))
    areas = [p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0] for p, q in ((b, c), (c, a), (a, b))]
    total = areas[0] + areas[1] + areas[2]
    signs = np.sign(total)
    hit = (signs != 0) & np.all([area * signs > 0 for area in areas], 0)
    height = sum(area[hit] * corners[hit, i, 2] for i, area in enumerate(areas)) / total[hit]
    first = np.ceil(height).clip(0, crossings.shape[2] - 1).astype(int)  # the first centre above the crossing
    np.add.at(crossings, (column[hit, 0], column[hit, 1], first), -signs[hit])  # outward up: the column leaves


def surface_points(vertices: Tensor, faces: Tensor, count: int = POINTS) -> Tensor:
    """[P, 3], uniform by area, the same for the same mesh."""
    if not len(faces):
        return torch.zeros(0, 3)
    return scattered(vertices, faces, count, torch.Generator().manual_seed(0)).read(vertices)


def compare(found: Body, truths: Sequence[Body]) -> Likeness:
    """Each figure against the nearest of the true instances."""
    rows = [_compare(found, truth) for truth in truths]
    raw, aligned, chamfer = zip(*rows, strict=True)
    return Likeness(max(raw), max(aligned), min(chamfer))


def _compare(found: Body, truth: Body) -> tuple[float, float, float]:
    raw = iou(found.filled, truth.filled)
    if found.spread <= 0 or not len(found.points):
        return raw, 0.0, float("inf")
    factor = truth.spread / found.spread
    # Where the truth's cells lie in the asset: the inverse of the alignment.
    source = (centres() - truth.centre) / factor + found.centre
    moved = torch.nn.functional.grid_sample(
        found.filled.float()[None, None], (source / HALF).flip(-1)[None], align_corners=False
    )
    points = (found.points - found.centre) * factor + truth.centre
    return raw, iou(moved[0, 0] > 0.5, truth.filled), chamfer(points, truth.points)


def iou(a: Tensor, b: Tensor) -> float:
    either = float((a | b).sum())
    return float((a & b).sum()) / either if either else 0.0


def chamfer(a: Tensor, b: Tensor) -> float:
    """Mean distance to the nearest point of the other set, averaged over both directions."""
    from scipy.spatial import cKDTree

    there, back = cKDTree(b.numpy()).query(a.numpy())[0], cKDTree(a.numpy()).query(b.numpy())[0]
    return 0.5 * float(there.mean() + back.mean())
