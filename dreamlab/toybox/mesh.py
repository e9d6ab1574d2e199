# SPDX-License-Identifier: Apache-2.0
"""Ground truth of an object's shape: a watertight coloured mesh, the exact inside test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cuda_ext.reference import sdf as layout
from dreamlab.toybox.program import Program


@dataclass(frozen=True)
class ToyMesh:
    """Triangles wound counter-clockwise seen from outside; closed, so every edge has two faces."""

    vertices: Tensor  # [V, 3]
    faces: Tensor  # [F, 3] int64
    colours: Tensor  # [V, 3] sRGB base colour, unlit
    part: Tensor  # [V] int64

    def volume(self) -> float:
        a, b, c = self.vertices[self.faces].double().unbind(1)
        return float((a * torch.linalg.cross(b, c)).sum() / 6)


def inside(program: Program, points: Tensor) -> Tensor:
    """[K, N] bool, exact: the sign of the distance does not depend on any grid."""
    return program.sdf(points)[0] < 0


def grid(program: Program, resolution: int) -> tuple[Tensor, float, Tensor]:
    """Distances [R, R, R] of one object on a grid around its ball, the spacing, the first corner [3]."""
    if len(program) != 1:
        raise ValueError(f"mesh: give one object, not a batch of {len(program)}: programs[i : i + 1]")
    centre, radius = program.bound[0, :3], float(program.bound[0, 3])
    spacing = 2 * radius / (resolution - 3)  # one empty cell beyond the ball on every side
    corner = centre - spacing * (resolution - 1) / 2
    line = torch.arange(resolution) * spacing
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(1, -1, 3) + corner
    return program.sdf(points)[0].reshape(resolution, resolution, resolution), spacing, corner


def mesh(program: Program, resolution: int = 128) -> ToyMesh:
    """Marching cubes on `resolution`^3 distances of one object; what is thinner than a cell may be lost."""
    from skimage.measure import marching_cubes

    field, spacing, corner = grid(program, resolution)
    # A corner exactly on the surface would make needles of zero area.
    field = torch.where(field.abs() < 1e-6, torch.full_like(field, 1e-6), field)
    found, faces, _, _ = marching_cubes(field.numpy(), 0.0, spacing=(spacing,) * 3, gradient_direction="descent")
    vertices = torch.from_numpy(np.ascontiguousarray(found)).float() + corner
    colours, part = paint(program, vertices)
    return ToyMesh(vertices, torch.from_numpy(faces.astype(np.int64)), colours, part)


def paint(program: Program, points: Tensor) -> tuple[Tensor, Tensor]:
    """Unlit sRGB colour [N, 3] and part [N] of points [N, 3] at the surface of one object."""
    _, winner = layout.evaluate(program.rows, points[None])
    colour, _ = layout.albedo(program.rows, program.parts, points[None], winner)
    part = program.rows[..., layout.PART_ID].long().gather(1, winner)
    return layout.to_srgb(colour[0]), part[0]
