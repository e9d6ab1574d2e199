# SPDX-License-Identifier: Apache-2.0
"""How large an asset is in its file, and where its origin lies; everything that moves or is a Gaussian goes along."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamlab.core.files import Json
from dreamlab.core.types import Mesh, Skin, Splats, Track
from dreamlab.export.product import Product

Place = tuple[float, float, float, float]  # scale and shift, as recipes have them


@dataclass(frozen=True)
class Placing:
    """From the scene's world into the file's: scale, then shift."""

    scale: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @staticmethod
    def of(said: Json) -> Placing:
        """As `plain` said it."""
        x, y, z = said.get("shift", (0.0, 0.0, 0.0))
        return Placing(said.get("scale", 1.0), (x, y, z))

    def plain(self) -> Json:
        return {"scale": self.scale, "shift": list(self.shift)}

    def points(self, points: Tensor) -> Tensor:
        return self.scale * points + points.new_tensor(self.shift)

    def back(self, points: Tensor) -> Tensor:
        return (points - points.new_tensor(self.shift)) / self.scale


def placing(mesh: Mesh, height: float | None, origin: str, place: Place | None = None) -> Placing:
    """So that the surface is `height` metres high, if that is asked, and stands on the ground in the middle, if that is
    where its `origin` should be; else at its `place`, if it has one."""
    if place is not None and height is None and origin == "centre":
        scale, x, y, z = place
        return Placing(scale, (x, y, z))
    low, high = (each.tolist() for each in mesh.vertices.aminmax(dim=0))
    scale = 1.0 if height is None else height / max(high[1] - low[1], 1e-9)
    if origin == "centre":
        return Placing(scale)
    return Placing(scale, (-scale * (low[0] + high[0]) / 2, -scale * low[1], -scale * (low[2] + high[2]) / 2))


def placed(made: Product, where: Placing) -> Product:
    if where == Placing():
        return made
    return replace(
        made,
        mesh=_mesh(made.mesh, where),
        motion=None if made.motion is None else _motion(made.motion, where),
        levels=tuple(_mesh(level, where) for level in made.levels),
        splats=None if made.splats is None else _splats(made.splats, where),
        frames=tuple(_splats(each, where) for each in made.frames),
    )


def _mesh(mesh: Mesh, where: Placing) -> Mesh:
    return replace(mesh, vertices=where.points(mesh.vertices))


def _motion(motion: Skin | Track, where: Placing) -> Skin | Track:
    """A skin's p -> turn (p - anchor) + anchor + shift keeps its turns; places are moved, ways are scaled."""
    if isinstance(motion, Track):
        return replace(motion, points=where.points(motion.points))
    return replace(motion, anchors=where.points(motion.anchors), shift=where.scale * motion.shift)


def _splats(splats: Splats, where: Placing) -> Splats:
    return replace(splats, means=where.points(splats.means), scales=where.scale * splats.scales)


def metres(mesh: Mesh) -> list[float]:
    """Extent along x, y and z."""
    size = torch.sub(*reversed(mesh.vertices.aminmax(dim=0)))
    return [round(value, 4) if math.isfinite(value) else 0.0 for value in size.tolist()]
