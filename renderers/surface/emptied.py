# SPDX-License-Identifier: Apache-2.0
"""A scene's surface without what is known to be empty inside: new walls behind an outside that stays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.types import Carve, LevelSet, Mesh, Scene
from renderers.surface.draw import Surface, look
from renderers.surface.extraction import LOOKS, Bare, extract, fitting_level, level_of, seen
from renderers.surface.views import SIZE, all_around

DEEP = 0.08  # metres into what is emptied, or into its wall, over which a density changes by its level
FINER = 2  # times as many corners a side: a wall may be hardly thicker than a cell
LOWEST = 0.0  # degrees: what is seen from farther below is a lid that nobody has asked for


@dataclass(frozen=True)
class Emptied:
    """A surface, and points of its outside, closer to each other than a cell; none where nothing was taken out."""

    mesh: Mesh
    outside: Tensor | None  # [N, 3]
    cell: float

    def new(self, vertices: Tensor) -> Tensor:
        """[V] bool: which of the vertices of much the same surface are of a wall that was not there."""
        if self.outside is None:
            return torch.zeros(len(vertices), dtype=torch.bool)
        return _nearest(self.outside, vertices)[0] > self.cell


def emptied(scene: Scene, resolution: int, carve: Carve) -> Emptied:
    """Of a density whose level its pictures chose; any other scene's surface is as it is extracted."""
    with torch.no_grad():
        offer = scene.offer(resolution)
        if not isinstance(offer, LevelSet) or not offer.worth:
            return Emptied(extract(scene, resolution), None, 0.0)
        level, found = fitting_level(scene, offer)
        made, outside = without(offer, level, found, carve)
        return Emptied(made.mesh(), outside, offer.cell)


def without(offer: LevelSet, level: float, found: Bare, carve: Carve) -> tuple[Bare, Tensor | None]:
    """The surface found at a level without what is empty, and what is left of its outside [N, 3]; that surface itself
    and None where nothing goes. Values only fall, and where nothing goes they stay, so that the outside does. New walls
    have the colour of the nearest place that is seen of what was found."""
    field = (offer.values.clamp(min=1e-9) / level).log()
    away = carve(field, torch.tensor(offer.low), offer.cell)
    if away is None:
        return found, None
    values = torch.minimum(_finer(offer.values), level * (1 - _finer(away) / DEEP))
    made = level_of(replace(offer, values=values, cell=offer.cell / FINER), level).clean()
    gap, nearest = _nearest(found.vertices, made.vertices)
    new = gap > offer.cell
    shown = _shown(found)
    nearest[new] = shown[_nearest(found.vertices[shown], made.vertices[new])[1]]
    return Bare(made.vertices, made.faces, lambda: found.colours()[nearest]), made.vertices[~new]


def from_above(cameras: Cameras) -> Cameras:
    """Those that do not look up."""
    return cameras[cameras.elevation_deg > LOWEST]


def _finer(values: Tensor) -> Tensor:
    size = [FINER * (count - 1) + 1 for count in values.shape]
    return F.interpolate(values[None, None], size, mode="trilinear", align_corners=True)[0, 0]


def _shown(found: Bare) -> Tensor:
    """The vertices that are seen from above."""
    view = look(Surface.bare(found.vertices, found.faces), from_above(all_around(2 * LOOKS)), SIZE)
    return seen(view).nonzero()[:, 0]


def led(vertices: Tensor, new: Tensor) -> Tensor:
    """[V] for each vertex of a new wall [V] the nearest of the others, for those themselves: a wall goes where its
    outside goes, and stays as thick as it is."""
    old, out = (~new).nonzero()[:, 0], torch.arange(len(vertices), device=vertices.device)
    if len(old):
        out[new] = old[_nearest(vertices[old], vertices[new])[1]]
    return out


def _nearest(points: Tensor, vertices: Tensor) -> tuple[Tensor, Tensor]:
    """How far the nearest of the points is from each vertex, and which."""
    from scipy.spatial import cKDTree

    gap, index = cKDTree(points.cpu().numpy()).query(vertices.cpu().numpy())
    return torch.from_numpy(gap).to(vertices), torch.from_numpy(index).to(vertices.device)
