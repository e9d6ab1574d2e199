# SPDX-License-Identifier: Apache-2.0
"""Shapes with known surfaces, and scenes that show them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import trimesh
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.schedules import constant
from dreamlab.core.types import Frames, LevelSet, Mesh, ParamGroup
from renderers.surface.draw import Surface, compose, look, vertex_normals
from renderers.surface.isosurface import isosurface, level_set

Paint = Callable[[Tensor], Tensor]


def of(shape: trimesh.Trimesh, paint: Paint | None = None) -> Mesh:
    vertices = torch.from_numpy(np.array(shape.vertices, np.float32))
    faces = torch.from_numpy(np.array(shape.faces, np.int64))
    colours = torch.full_like(vertices, 0.5) if paint is None else paint(vertices)
    return Mesh(vertices, faces, colours, vertex_normals(vertices, faces))


def ball(radius: float = 0.6, subdivisions: int = 4, paint: Paint | None = None) -> Mesh:
    return of(trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius), paint)


def together(*parts: Mesh) -> Mesh:
    starts = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]]).tolist()
    faces = torch.cat([part.faces + start for part, start in zip(parts, starts, strict=True)])
    joined = (torch.cat([getattr(part, name) for part in parts]) for name in ("vertices", "colours", "normals"))
    vertices, colours, normals = joined
    return Mesh(vertices, faces, colours, normals)


def moved(mesh: Mesh, by: tuple[float, float, float]) -> Mesh:
    return Mesh(mesh.vertices + torch.tensor(by), mesh.faces, mesh.colours, mesh.normals)


def level(distance: Paint, resolution: int) -> Mesh:
    """By marching cubes, of a distance that is negative inside."""
    found = level_set(lambda p: -distance(p), torch.ones_like, ((-1.0,) * 3, (1.0,) * 3), resolution,
                      torch.device("cpu"), 0.0)  # fmt: skip
    vertices, faces = isosurface(found, 0.0)
    return Mesh(vertices, faces, torch.full_like(vertices, 0.5), vertex_normals(vertices, faces))


def bright(points: Tensor) -> Tensor:
    """Smooth colours, all of them different."""
    return 0.5 + 0.35 * torch.sin(3 * points + torch.tensor([0.0, 2.0, 4.0]))


class Shown:
    """Pictures of a mesh whose colours are a function of the place; offers a level of a density that is off by
    `wrong` metres."""

    kind = "shown"

    def __init__(self, mesh: Mesh, distance: Paint, paint: Paint = bright, wrong: float = 0.0) -> None:
        self.surface, self.normals = Surface.of(mesh.vertices, mesh.faces), mesh.normals
        self.distance, self.paint, self.wrong = distance, paint, wrong

    def groups(self) -> dict[str, ParamGroup]:
        return {"place": ParamGroup(self.surface.vertices, constant(0.0))}

    def render(self, cameras: Cameras, size: int, background: Tensor, training: object = None) -> Frames:
        view = look(self.surface, cameras, size)
        return compose(view, self.paint(view.points), view.read(self.normals), background)

    def offer(self, resolution: int) -> LevelSet:
        return level_set(
            lambda p: self.wrong - self.distance(p), self.paint, ((-1.0,) * 3, (1.0,) * 3), resolution,
            torch.device("cpu"), 0.0,
        )  # fmt: skip
