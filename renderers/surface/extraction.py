# SPDX-License-Identifier: Apache-2.0
"""From any scene to a clean mesh: what it offers, the level that its pictures ask for, no floaters, fewer faces.

A scene says what it offers (`Scene.offer`); everything else is here. The mesh that comes out is on the host, whatever
device the scene is on: marching cubes, the union of parts and simplifying run there, and files are written there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlab.core.errors import Diverged
from dreamlab.core.types import Depths, LevelSet, Mesh, Offer, Scene, Triangles
from renderers.surface.clean import fewer_faces, named, wanted, without_floaters
from renderers.surface.draw import NEAR, Surface, View, look, vertex_normals
from renderers.surface.fusion import fuse, fuse_open3d
from renderers.surface.isosurface import isosurface
from renderers.surface.views import SIZE, all_around, device_of, shown, silhouette_iou

LOOKS = 12  # views that choose a level
HIDDEN = 0.5  # of overlap that a surface loses where no view sees any of it: pits are dug where nobody looks
SLACK = 2.0  # pixels by which a vertex may lie behind what is seen there
REFINED = 2  # rounds of looking between the levels that an offer names
FUSED = 36  # views whose depths are fused
FRONT = (0.0, 0.3, 0.6)  # levels of fused distances: the mean depth of what is soft lies behind its outside


@dataclass(frozen=True)
class Bare:
    """A surface that may still be discarded: nobody has asked for its colours yet. All on the host."""

    vertices: Tensor  # [V, 3]
    faces: Tensor  # [F, 3]
    colours: Callable[[], Tensor]  # [V, 3]

    def clean(self) -> Bare:
        """Without floaters, and without the vertices that no face names then."""
        rows, faces = named(self.faces[wanted(self.vertices, self.faces)], len(self.vertices))
        return Bare(self.vertices[rows], faces, lambda: self.colours()[rows])

    def mesh(self) -> Mesh:
        colours = self.colours().clamp(0, 1)
        return Mesh(self.vertices, self.faces, colours, vertex_normals(self.vertices, self.faces))


@dataclass(frozen=True)
class Levels:
    """Surfaces by level, and where to look between two levels."""

    at: Callable[[float], Bare]
    worth: Sequence[float]
    middle: Callable[[float, float], float]


def extract(scene: Scene, resolution: int, faces: int | None = None, by_pictures: bool = True) -> Mesh:
    """The scene's surface, on the host, of at most `faces` triangles. Without `by_pictures` a density's level is the
    usual one."""
    with torch.no_grad():
        mesh = _found(scene, scene.offer(resolution), resolution, by_pictures)
    return mesh if faces is None else fewer_faces(mesh, faces)


def _found(scene: Scene, offer: Offer, resolution: int, by_pictures: bool) -> Mesh:
    if isinstance(offer, Triangles):
        mesh = offer.mesh.to("cpu")
        return mesh if offer.whole else without_floaters(mesh)
    if isinstance(offer, LevelSet):
        if offer.worth and by_pictures:
            return fitting_level(scene, offer)[1].mesh()
        return surface(offer)
    return _fused(scene, offer, resolution)


def fitting_level(scene: Scene, offer: LevelSet) -> tuple[float, Bare]:
    """The level of a density that its pictures ask for, and the surface there."""
    return fitting(scene, Levels(lambda level: level_of(offer, level), offer.worth, lambda a, b: math.sqrt(a * b)))


def surface(offer: LevelSet) -> Mesh:
    """The usual level, clean, for those who have no pictures of it."""
    return level_of(offer, offer.usual).clean().mesh()


def level_of(offer: LevelSet, level: float) -> Bare:
    vertices, faces = isosurface(offer, level)
    return Bare(vertices, faces, lambda: offer.colour(vertices.to(offer.values.device)).cpu())


def _fused(scene: Scene, offer: Depths, resolution: int) -> Mesh:
    """The surface that the scene's depth pictures show from all around, in [-extent, extent]^3."""
    cameras, size = all_around(FUSED).to(device_of(scene)), max(SIZE, 5 * resolution // 4)
    arguments = (shown(scene, size), cameras, size, resolution, offer.extent)
    if offer.way == "open3d":
        return without_floaters(fuse_open3d(*arguments))
    found = fuse(*arguments)

    def at(level: float) -> Bare:
        vertices, faces, colours = found.surface(level)
        return Bare(vertices.cpu(), faces.cpu(), lambda: colours.cpu())

    return fitting(scene, Levels(at, FRONT, lambda a, b: (a + b) / 2))[1].mesh()


def fitting(scene: Scene, levels: Levels) -> tuple[float, Bare]:
    """The level whose surface covers what the scene's own pictures cover, and it: the best of the levels worth trying,
    then twice the middles between it and its neighbours. Silhouettes do not see pits, and a surface all pitted inside
    fits them best where its outside does; so what lies out of every view counts against a level."""
    cameras = all_around(LOOKS).to(device_of(scene))
    truth = shown(scene, SIZE)(cameras).alpha
    scores: dict[float, float] = {}
    best: tuple[float, float, Bare] | None = None

    def measure(level: float) -> None:
        nonlocal best
        try:
            bare = levels.at(level).clean()
        except Diverged:
            return
        view = look(Surface.bare(bare.vertices.to(truth.device), bare.faces.to(truth.device)), cameras, SIZE)
        scores[level] = score = silhouette_iou(covered(view), truth) - HIDDEN * unseen(view)
        if best is None or score > best[0]:
            best = (score, level, bare)

    for level in levels.worth:
        measure(level)
    if best is None:
        raise Diverged("empty geometry: no level of the density gives a surface; train longer")
    for _ in range(REFINED):
        tried = sorted(scores)
        at = tried.index(max(tried, key=scores.__getitem__))
        for low, high in itertools.pairwise(tried[max(at - 1, 0) : at + 2]):
            measure(levels.middle(low, high))
    return best[1:]


def covered(view: View) -> Tensor:
    """[B, H, W, 1] 1 where a pixel's middle is on a surface: which side of a half its smooth coverage lies, closely."""
    return (view.raster.triangle > 0).to(view.clip)[..., None]


def unseen(view: View) -> float:
    """The share of a surface's vertices that no camera sees: in each view they lie behind what is seen there."""
    return float((~seen(view)).float().mean())


def seen(view: View) -> Tensor:
    """[V] bool: which vertices of a surface some camera sees."""
    views, height, width = view.raster.triangle.shape
    x, y, _, away = view.clip.unbind(-1)  # [B, V]; the camera's z is clip w
    clear = away.clamp(min=NEAR)
    column = ((x / clear + 1) * width / 2).long().clamp(0, width - 1)
    row = ((1 - y / clear) * height / 2).long().clamp(0, height - 1)
    front = view.depth.reshape(views, -1).gather(1, row * width + column)
    return (away < front + SLACK * clear / view.cameras.focal_px(height)[:, None]).any(0)


def joined(parts: Sequence[Mesh]) -> Mesh:
    """Meshes side by side."""
    starts = itertools.accumulate((len(part.vertices) for part in parts), initial=0)
    faces = torch.cat([part.faces + start for part, start in zip(parts, starts, strict=False)])
    return Mesh(
        torch.cat([part.vertices for part in parts]),
        faces,
        torch.cat([part.colours for part in parts]),
        torch.cat([part.normals for part in parts]),
    )
