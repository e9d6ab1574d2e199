# SPDX-License-Identifier: Apache-2.0
"""From one scene to another: `from:` in a recipe. Every change says how much of the picture it kept.

| to | from | how |
| --- | --- | --- |
| the same kind | - | its state, if the sizes agree |
| dmtet | dmtet of half the resolution | subdivided, exact |
| dmtet | anything with a surface | signed distances of its mesh; colours learnt from the mesh |
| mesh | anything with a surface | floaters dropped, simplified, unwrapped, painted with pictures of the old scene |
| gaussians | a field | seeds where it is dense and can be seen, with its colours |
| gaussians | anything else with a surface | opaque discs on it, uniform by area, with its colours |
| gaussians4d, field4d | gaussians, field | their state, without motion yet |

The surface of a cloud or field is a level of its density, chosen by silhouettes and by how much of it can be seen, or
with `surface: fusion` on it what its depth pictures show.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, OrbitSettings, fixed_orbit
from dreamlab.core.errors import Diverged
from dreamlab.core.safemath import inverse_sigmoid
from dreamlab.core.types import Frames, Mesh, Scene
from renderers.gaussian.seeds import Seeds
from renderers.surface.draw import NEAR, Surface, View, compose, look
from renderers.surface.fusion import fuse, fuse_open3d
from renderers.surface.shapes import area_of, sample_surface, without_floaters

VIEWS, SIZE = 24, 96  # of the comparison before and after
AROUND = OrbitSettings(distance=(3.2, 3.2), fovy_deg=(42.0, 42.0), elevation_deg=(-60.0, 75.0))
RESOLUTION = 96  # of the grid on which a surface is found when the target does not say
HIDDEN = 0.5  # of overlap that a surface loses where no view sees any of it: pits are dug where nobody looks
SLACK = 2.0  # pixels by which a vertex may lie behind what is seen there
REFINED = 2  # rounds of looking between the levels that a scene names
FUSED = 36  # views whose depths are fused
THIN, OPAQUE = 0.15, 0.9  # of discs on a surface: thickness in their width, opacity at least
SURFACES = ("dmtet", "mesh")  # kinds that can take any scene's surface
SEEDED = ("gaussians",)  # kinds that start from points
BEGIN_TO_MOVE = (("gaussians", "gaussians4d"), ("field", "field4d"))  # the moving kind takes the state of the still one


class Kept(NamedTuple):
    """What a change of representation kept, over views from all around."""

    psnr: float  # dB between the pictures over white, mean over views
    iou: float  # of the silhouettes, mean over views
    views: int = VIEWS


@runtime_checkable
class Levelled(Protocol):
    """A scene whose surface is a level of some density: the level can be chosen."""

    @property
    def levels(self) -> tuple[float, ...]: ...  # worth trying, low to high; none: the scene knows best

    def surfaces(self, resolution: int) -> Callable[[float], Mesh]: ...  # by level


@runtime_checkable
class Gathering(Protocol):
    """A scene of several objects, some of which start from scenes of earlier stages."""

    members: Mapping[str, Scene]

    @property
    def taking(self) -> Mapping[str, str]:
        """The stages that objects start from, by object."""

    def take(self, name: str, source: Scene, stream: torch.Generator) -> Kept | None:
        """Object `name` takes over from a scene, in its own frame."""


@runtime_checkable
class Seeding(Protocol):
    """A scene that knows where it is dense, better than a surface of it would."""

    def seeds(self, count: int, stream: torch.Generator) -> Seeds: ...


def can_become(source: str, target: str) -> bool:
    """Whether a scene of one kind can start from one of another."""
    return source == target or (source, target) in BEGIN_TO_MOVE or target in SURFACES or target in SEEDED


def become(source: Scene, target: Scene, stream: torch.Generator) -> tuple[Scene, Kept | None]:
    """`target`, just built from its settings, takes over from `source`; and what was kept, unless nothing changed."""
    kind = target.kind
    before = {name: value.shape for name, value in source.state_dict().items()}
    same = {name: value.shape for name, value in target.state_dict().items()} == before
    moves = (source.kind, kind) in BEGIN_TO_MOVE
    if moves or (source.kind == kind and (same or kind in SEEDED or kind not in SURFACES)):
        target.load_state_dict(source.state_dict())
        return target, None
    made: Any = target
    if kind in SEEDED:
        count = made.settings.count
        if isinstance(source, Seeding):
            made = type(made)(made.settings, stream, source.seeds(count, stream))
        else:
            points, normals, colors = sample_surface(surface := surface_of(source, RESOLUTION), count, stream)
            spacing = (area_of(surface) / count) ** 0.5
            made = type(made)(made.settings, stream, Seeds(points, torch.full((count,), spacing), colors))
            lay_flat(made.params, normals)
        made = made.to(device_of(source))
    else:
        made.adopt(source, stream)
    return made, compare(source, made)


def lay_flat(params: dict[str, Tensor], normals: Tensor) -> None:
    """Gaussians on a surface become opaque discs along it: turned so that their third axis is the normal, and thin."""
    x, y, z = normals.unbind(-1)
    turn = torch.stack([1 + z, -y, x, torch.zeros_like(z)], -1)  # from +Z to the normal, half-way
    over = z < -1 + 1e-6
    turn[over] = turn.new_tensor([0.0, 1.0, 0.0, 0.0])
    with torch.no_grad():
        params["quats"].copy_(torch.nn.functional.normalize(turn, dim=-1))
        params["log_scales"][:, 2] += math.log(THIN)
        params["logit_opacity"].clamp_(min=float(inverse_sigmoid(OPAQUE)))


def surface_of(scene: Scene, resolution: int) -> Mesh:
    """The scene's surface without floaters; of a density, at the level that `fitting` finds."""
    if not isinstance(scene, Levelled) or not scene.levels:
        found = scene.mesh(resolution)
        # Texture coordinates repeat vertices along their seams, so that charts would pass for parts.
        return found if found.uv is not None else without_floaters(found)
    # One grid for all levels: Gaussians thinner than its cells are widened to them, which moves the level.
    whole: Any = scene
    mesh_at, levels = whole.surfaces(resolution), whole.levels
    level = levels[0] if len(levels) == 1 else fitting(whole, levels, mesh_at, lambda a, b: math.sqrt(a * b))
    return without_floaters(mesh_at(level))


def fitting(
    scene: Scene,
    levels: tuple[float, ...],
    mesh_at: Callable[[float], Mesh],
    middle: Callable[[float, float], float],
) -> float:
    """The level whose surface covers what the scene's own pictures cover: the best of those named, then twice the
    middles between it and its neighbours. Silhouettes do not see pits, and a surface all pitted inside fits them best
    where its outside does; so what lies out of every view counts against a level."""
    cameras = all_around(12).to(device_of(scene))
    with torch.no_grad():
        truth = scene.render(cameras, SIZE, background(cameras)).alpha
    scores: dict[float, float] = {}

    def measure(level: float) -> None:
        try:
            mesh = without_floaters(mesh_at(level))
        except Diverged:
            return
        view = look(Surface.of(mesh.vertices.to(truth.device), mesh.faces.to(truth.device)), cameras, SIZE)
        scores[level] = silhouette_iou(outline(view), truth) - HIDDEN * unseen(view)

    for level in levels:
        measure(level)
    if not scores:
        raise Diverged("empty geometry: no level of the density gives a surface; train longer")
    for _ in range(REFINED):
        tried = sorted(scores)
        at = tried.index(max(tried, key=scores.__getitem__))
        for low, high in itertools.pairwise(tried[max(at - 1, 0) : at + 2]):
            measure(middle(low, high))
    return max(scores, key=scores.__getitem__)


def fused(scene: Scene, way: str, resolution: int, extent: float) -> Mesh:
    """The surface that the scene's depth pictures show from all around, in [-extent, extent]^3, without floaters. Its
    level, too, is found by `fitting`: the mean depth of what is soft lies behind its outside."""
    cameras, size = all_around(FUSED).to(device_of(scene)), max(SIZE, 5 * resolution // 4)
    arguments = (shown(scene, size), cameras, size, resolution, extent)
    if way == "open3d":
        return without_floaters(fuse_open3d(*arguments))
    found = fuse(*arguments)
    level = fitting(scene, (0.0, 0.3, 0.6), found.surface, lambda a, b: (a + b) / 2)
    return without_floaters(found.surface(level))


def outline(view: View) -> Tensor:
    """[B, H, W, 1] coverage of a surface."""
    device = view.clip.device
    return view.over(torch.ones(len(view.hit), 1, device=device), torch.zeros(len(view.cameras), 1, device=device))


def unseen(view: View) -> float:
    """The share of a surface's vertices that no camera sees: in each view they lie behind what is seen there."""
    views, height, width = view.raster.triangle.shape
    x, y, _, away = view.clip.unbind(-1)  # [B, V]; the camera's z is clip w
    clear = away.clamp(min=NEAR)
    column = ((x / clear + 1) * width / 2).long().clamp(0, width - 1)
    row = ((1 - y / clear) * height / 2).long().clamp(0, height - 1)
    front = view.depth.reshape(views, -1).gather(1, row * width + column)
    seen = away < front + SLACK * clear / view.cameras.focal_px(height)[:, None]
    return float((~seen.any(0)).float().mean())


def compare(before: Scene, after: Scene) -> Kept:
    """PSNR and silhouette IoU over VIEWS views spread around both."""
    cameras = all_around(VIEWS).to(device_of(after))
    white = background(cameras)
    with torch.no_grad():
        return _kept(before.render(cameras, SIZE, white), after.render(cameras, SIZE, white))


def compare_mesh(scene: Scene, mesh: Mesh) -> Kept:
    """The same of a scene and a surface with the colours of its vertices."""
    cameras = all_around(VIEWS).to(device := device_of(scene))
    with torch.no_grad():
        view = look(Surface.of(mesh.vertices.to(device), mesh.faces.to(device)), cameras, SIZE)
        colors, normals = (view.read(value.to(device)) for value in (mesh.colors, mesh.normals))
        return _kept(
            scene.render(cameras, SIZE, background(cameras)), compose(view, colors, normals, background(cameras))
        )


def _kept(a: Frames, b: Frames) -> Kept:
    return Kept(psnr(a.rgb[..., :3].clamp(0, 1), b.rgb[..., :3].clamp(0, 1)), silhouette_iou(a.alpha, b.alpha))


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over views [B, ...] of -10 log10 of the mean squared difference, at most 100."""
    error = (a - b).square().flatten(1).mean(1).clamp(min=1e-10)
    return float(-10 * error.log10().mean())


def silhouette_iou(a: Tensor, b: Tensor) -> float:
    """Mean over views of intersection over union where alpha [B, H, W, 1] is above a half; two empty views agree."""
    solid_a, solid_b = a.flatten(1) > 0.5, b.flatten(1) > 0.5
    both, either = (solid_a & solid_b).sum(1), (solid_a | solid_b).sum(1)
    return float(torch.where(either > 0, both / either.clamp(min=1), 1.0).mean())


def all_around(count: int) -> Cameras:
    """Cameras spread evenly over the sphere but its poles, the same every time."""
    return fixed_orbit(AROUND, count)


def background(cameras: Cameras) -> Tensor:
    """White [B, 3]."""
    return torch.ones(len(cameras), 3, device=cameras.camera_to_world.device)


def device_of(scene: Scene) -> torch.device:
    return next(iter(scene.groups().values())).tensor.device


def shown(scene: Scene, size: int) -> Callable[[Cameras], Frames]:
    """How `scene` looks over white, for projecting and fusing."""

    def show(cameras: Cameras) -> Frames:
        with torch.no_grad():
            return scene.render(cameras, size, background(cameras))

    return show
