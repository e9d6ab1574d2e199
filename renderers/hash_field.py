# SPDX-License-Identifier: Apache-2.0
"""A field of density and colour on a hash grid (Mueller et al. 2022, arXiv:2201.05989), volume-rendered through an
occupancy grid. With `density: volsdf` or `neus` its head gives a signed distance that starts as a sphere.

The heads are one hidden layer without biases (threestudio). Levels come in one after another, coarse to fine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import linear

from cuda_ext.hashgrid import encode, position_gradient
from cuda_ext.march import refresh_density
from cuda_ext.packages import for_op
from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import SceneCard
from dreamlab.core.safemath import safe_normalize
from dreamlab.core.schedules import Progress, Schedule, When, constant, ramp
from dreamlab.core.settings import setting
from dreamlab.core.streams import by_view
from dreamlab.core.triangles import scattered
from dreamlab.core.types import Depths, Frames, LevelSet, Mesh, Offer, ParamGroup, Rows, Training
from renderers.backing import GridSettings, backend_setting, backing, while_building
from renderers.field import density as densities
from renderers.field import volume
from renderers.gaussian.seeds import Seeds, from_field
from renderers.light import shading
from renderers.light.background import Background, BackgroundSettings
from renderers.light.shading import ShadingSettings
from renderers.surface.files import read_mesh
from renderers.surface.fusion import WAYS
from renderers.surface.isosurface import level_set
from renderers.surface.shapes import signed_distances

BEGIN_STEPS, BEGIN_POINTS = 250, 40_000  # of learning a file's surface
LOOKS = 4  # at every cell, afterwards
NEAR, EDGE = 0.05, 0.02  # parts of the box: where a surface is learnt most, and half the way from empty to solid
SOLID = 60.0  # density of a file's inside, times the box's half side
NORMALS = ("none", "analytic", "finite", "central", "predicted")
# Colours of Stable Diffusion 1.x latents to a linear fit, for looking at a latent field (Latent-NeRF arXiv:2211.07600).
LATENT_TO_RGB = ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))


@dataclass(frozen=True)
class FieldSettings:
    """Defaults fit an object in [-1, 1]^3 on a CPU; papers on a GPU use 16 levels, 2^19 rows, finest 2048 to 4096."""

    radius: float = setting(1.0, above=0, high=100, help="half side of the box that holds everything")
    levels: int = setting(10, low=1, high=32)
    features: int = setting(2, low=1, high=8, help="per level: 1, 2, 4 or 8")
    log2_entries: int = setting(15, low=3, high=24)
    base: int = setting(8, low=1, high=1024, help="cells per axis of the coarsest level")
    finest: int = setting(256, low=1, high=65536)
    smoothstep: bool = setting(False, help="gradients without jumps between cells")
    hashgrid: GridSettings = field(default_factory=GridSettings)
    backend: str = backend_setting()
    active: Schedule = setting(ramp(5, 10, end=When(0.3)), low=1, high=32, help="levels in use, coarse to fine")
    hidden: int = setting(32, low=1, high=256, help="width of the heads")
    density: str = setting("softplus", choices=densities.ACTIVATIONS)
    bias: str = setting("magic3d", choices=densities.BIASES, help="a body to start from; a distance starts as a sphere")
    bias_scale: float | None = setting(None, help="of the bias; the paper's when missing")
    bias_deviation: float | None = setting(None, above=0, help="metres; the paper's when missing")
    sphere: float = setting(0.5, above=0, help="radius a distance field starts with")
    beta: float = setting(0.05, above=0, high=1, help="metres over which a distance turns solid, at the start")
    noise: Schedule = setting(constant(0.0), low=0, help="normal noise on the density before its activation")
    normals: str = setting("none", choices=NORMALS, help="distance fields always have analytic ones")
    epsilon: float = setting(0.01, above=0, help="step of finite differences, metres")
    latent: bool = setting(False, help="four channels of a latent model instead of colour (frames.extra['latent'])")
    step: float = setting(0.02, above=0, help="metres between samples")
    samples_per_ray: int | None = setting(None, low=1, help="fixed, so that a GPU never waits; else all seen")
    occupancy: int = setting(48, low=2, high=512, help="cells per axis of the grid that skips empty space")
    refresh: int = setting(16, low=1, help="steps between refreshes of the occupancy")
    file: str = setting("", file="mesh", help="a mesh to start from, with its colours; a field that stands still")
    surface: str = setting("density", choices=WAYS, help="how a mesh is found: a level of the density, fused depths")
    background: BackgroundSettings = field(default_factory=BackgroundSettings)
    shading: ShadingSettings = field(default_factory=ShadingSettings)
    lr_table: Schedule = setting(ramp(0.02, 0.002, curve="exp"), low=0)
    lr_heads: Schedule = setting(ramp(0.005, 0.0005, curve="exp"), low=0)
    lr_beta: Schedule = setting(constant(0.002), low=0)


@dataclass(frozen=True)
class Shot:
    """The field at M points. `raw` is what the density head gives plus its bias: a distance in the distance modes."""

    raw: Tensor  # [M]
    colour: Tensor  # [M, C]
    normal: Tensor | None  # [M, 3] unit, outward
    slope: Tensor | None  # [M, 3] of a distance, for the eikonal penalty


@dataclass(frozen=True)
class Seen:
    """The field along the rays of a batch of views, at M samples."""

    found: volume.Cast
    sigma: Tensor  # [M] per metre
    colour: Tensor  # [M, C] as lit
    shot: Shot


class HashField:
    """Density and colour on a multiresolution hash grid, volume-rendered."""

    kind: ClassVar[str] = "field"
    paper: ClassVar[str] = "Mueller et al. 2022, arXiv:2201.05989"
    penalties: ClassVar[tuple[str, ...]] = tuple(volume.PENALTIES)
    Settings: ClassVar[type] = FieldSettings
    moves: ClassVar[bool] = False  # the occupancy is a maximum over time, which hides nothing

    @classmethod
    def card(cls, settings: FieldSettings) -> SceneCard:
        s = settings
        distance = s.density in ("volsdf", "neus")
        normals = distance or s.normals != "none"
        lacking = {} if distance else {"eikonal": "density: volsdf or neus"}
        lacking |= {} if normals else {"orient": "normals: analytic"}
        dark = max(s.shading.lit.values) > 0 and not normals
        complaint = "shading.lit: a lit field needs normals; set normals to analytic or finite" if dark else ""
        complaint = complaint or s.hashgrid.complaint(s.backend, _shape(s))
        runs = (backing(s.backend, "hashgrid", "march"),)
        said = (cls.penalties, lacking, cls.moves, normals, s.latent)
        return SceneCard(*said, backing=runs, group=s.background.group, complaint=complaint)

    def __init__(self, settings: FieldSettings, generator: torch.Generator) -> None:
        s = self.settings = settings
        self.backend = while_building(s.backend)
        self.grid = s.hashgrid.made(*_shape(s), s.smoothstep)
        self.distance = s.density in ("volsdf", "neus")
        self.bounds = volume.box(s.radius)
        channels = 4 if s.latent else 3
        heads = {"density": 1, "color": channels} | ({"normal": 3} if s.normals == "predicted" else {})
        self.params = {"table": self.grid.init_table(generator)}
        for name, width in heads.items():
            self.params[f"{name}.hidden"] = _weights(s.hidden, self.grid.width, generator)
            self.params[f"{name}.out"] = _weights(width, s.hidden, generator)
        if self.distance:
            self.params["beta"] = torch.tensor([math.log(s.beta)])
        self.background = Background(s.background, channels, generator)
        self.active = min(s.levels, int(s.active.at(Progress(0, 1))))
        self._own(self.params)
        self.occupancy = torch.zeros((s.occupancy,) * 3)  # running maximum of the density per cell
        self.occupied: Tensor  # [X, Y, Z] bool, follows from it
        self.core: Tensor  # [X, Y, Z] what is surely dense, follows from it
        self._refresh(0)
        if s.file and not self.moves:
            self._begin_as(read_mesh(s.file), generator)
        self.backend = s.backend

    def _begin_as(self, mesh: Mesh, stream: torch.Generator) -> None:
        """Learn a surface: distances where the field has them, else a density, SOLID inside and none outside; and its
        colours, a little to either side of it."""
        s, device = self.settings, self.params["table"].device
        leaves = list(self.params.values())
        optimiser = torch.optim.Adam(leaves, betas=(0.9, 0.99), eps=1e-15)
        near = _around(mesh, BEGIN_POINTS, NEAR * s.radius, stream)
        where = torch.cat([near, _anywhere(BEGIN_POINTS, s.radius, stream)])
        spots = scattered(mesh.vertices, mesh.faces, BEGIN_POINTS, stream)
        on = spots.read(mesh.vertices) + EDGE * s.radius * torch.randn(BEGIN_POINTS, 3, generator=stream)
        wanted = spots.read(mesh.colours).to(device)
        distance = signed_distances(mesh, where, BEGIN_POINTS)
        target, side = (each.to(device) for each in self._raw_of(distance))
        where, on = where.to(device), on.to(device)
        for step in range(BEGIN_STEPS):
            optimiser.param_groups[0]["lr"] = 0.02 * 0.05 ** (step / BEGIN_STEPS)
            rows, some = (torch.randint(len(each), (4096,), generator=stream).to(device) for each in (where, on))
            error = self.raw(where[rows]) - target[rows]
            error = torch.where(side[rows] == 0, error, (side[rows] * error).clamp(max=0))  # fuller, emptier is as well
            loss = error.square().mean() / target.square().mean()
            if not s.latent:
                loss = (
                    loss + (self.colour(self.features(self.unit(on[some]), None, None)) - wanted[some]).square().mean()
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        self._own(self.params)
        self.occupancy = torch.zeros_like(self.occupancy)  # it holds the largest that was
        for turn in range(LOOKS):
            self._refresh(turn)

    def _raw_of(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """What is wanted before the activation at such distances, and whether that is a least (1) or a most (-1)."""
        s = self.settings
        if self.distance:
            return distance, torch.zeros_like(distance)
        depth = (-distance / (EDGE * s.radius)).clamp(-1, 1)
        top, bottom = (SOLID / s.radius, -10.0) if s.density == "softplus" else (math.log(SOLID / s.radius), -6.0)
        return bottom + (top - bottom) * (depth + 1) / 2, depth * (depth.abs() == 1)

    def _own(self, params: Mapping[str, Tensor]) -> None:
        self.params = {name: params[name].detach().clone().requires_grad_() for name in self.params}

    def to(self, device: torch.device | str) -> Self:
        self._own({name: value.detach().to(device) for name, value in self.params.items()})
        self.background.to(device)
        self._look_up(self.occupancy.to(device))
        return self

    def groups(self) -> Mapping[str, ParamGroup]:
        s = self.settings
        rates = {"table": s.lr_table, "beta": s.lr_beta, "temporal": s.lr_table}
        groups = {name: ParamGroup(value, rates.get(name, s.lr_heads)) for name, value in self.params.items()}
        return groups | {f"background.{name}": group for name, group in self.background.groups().items()}

    # ---- the function of space --------------------------------------------------------------------------------------
    def features(self, unit: Tensor, view: Tensor | None, time: Tensor | None) -> Tensor:
        """[M, width] at points of the unit cube; `view` [M] and `time` [B] are for fields that move."""
        return encode(unit, self.params["table"], self.grid, active_levels=self.active, backend=self.runs("hashgrid"))

    def slope(self, unit: Tensor, grad: Tensor, view: Tensor | None, time: Tensor | None) -> Tensor:
        """[M, 3] gradient of features . grad in the unit cube."""
        table, how = self.params["table"], self.runs("hashgrid")
        return position_gradient(unit, table, grad, self.grid, active_levels=self.active, backend=how)

    def runs(self, op: str) -> str:
        """Which backend an op of this scene has."""
        return for_op(self.backend, op)

    def unit(self, points: Tensor) -> Tensor:
        return points / (2 * self.settings.radius) + 0.5

    def head(self, name: str, features: Tensor) -> Tensor:
        return linear(linear(features, self.params[f"{name}.hidden"]).relu(), self.params[f"{name}.out"])

    def body(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The bias of the density, or the sphere a distance starts from, with its gradient."""
        s = self.settings
        if self.distance:
            return densities.sphere(points, s.sphere)
        scale, deviation = densities.BIAS_DEFAULTS[s.bias]
        scale = scale if s.bias_scale is None else s.bias_scale
        return densities.bias(
            s.bias, points, scale, s.radius * deviation if s.bias_deviation is None else s.bias_deviation
        )

    def raw(self, points: Tensor, view: Tensor | None = None, time: Tensor | None = None) -> Tensor:
        """[M] before the activation."""
        return self.head("density", self.features(self.unit(points), view, time))[:, 0] + self.body(points)[0]

    def sigma(self, raw: Tensor, cosine: Tensor | None = None, width: Tensor | None = None) -> Tensor:
        """Density per metre from `raw`. NeuS also asks at which angle the ray meets the surface, and for how long."""
        kind = self.settings.density
        if kind == "volsdf":
            return densities.volsdf(raw, self.params["beta"].exp())
        if kind == "neus":
            cosine = -torch.ones_like(raw) if cosine is None else cosine
            width = torch.full_like(raw, self.settings.step) if width is None else width
            return densities.neus(raw, cosine, 1 / self.params["beta"].exp(), width)
        return densities.activate(kind, raw)

    def colour(self, features: Tensor) -> Tensor:
        value = self.head("color", features)
        return value if self.settings.latent else value.sigmoid()

    def shot(
        self, points: Tensor, view: Tensor | None, time: Tensor | None, normals: bool, noise: Tensor | None
    ) -> Shot:
        """The field at points [M, 3]; `noise` [M] is added before the activation."""
        kind = "analytic" if self.distance else self.settings.normals
        unit, keep_graph = self.unit(points), torch.is_grad_enabled()
        with torch.set_grad_enabled(keep_graph or (normals and kind == "analytic")):
            features = self.features(unit, view, time)
            body, body_slope = self.body(points)
            raw = self.head("density", features)[:, 0] + body
            raw = raw if noise is None else raw + noise
            normal = slope = None
            if normals and kind == "analytic":
                value = raw if self.distance else -self.sigma(raw)
                tip, through = torch.autograd.grad(value.sum(), (features, raw), create_graph=keep_graph)
                slope = self.slope(unit, tip, view, time) / (2 * self.settings.radius) + through[:, None] * body_slope
                normal = safe_normalize(slope)
        if normals and kind == "predicted":
            normal = safe_normalize(self.head("normal", features))
        elif normals and kind in ("finite", "central"):
            normal = safe_normalize(self._differences(points, raw, kind == "central", view, time))
        return Shot(raw, self.colour(features), normal, slope if self.distance else None)

    def _differences(
        self, points: Tensor, raw: Tensor, central: bool, view: Tensor | None, time: Tensor | None
    ) -> Tensor:
        """[M, 3] minus the gradient of the density, by differences of `epsilon`."""
        step = self.settings.epsilon
        ahead = points[:, None] + step * torch.eye(3, device=points.device)
        behind = points[:, None] - step * torch.eye(3, device=points.device)
        many = None if view is None else view[:, None].expand(-1, 3).reshape(-1)

        def at(where: Tensor) -> Tensor:
            limit = self.settings.radius
            return self.sigma(self.raw(where.reshape(-1, 3).clamp(-limit, limit), many, time)).reshape(-1, 3)

        if central:
            return (at(behind) - at(ahead)) / (2 * step)
        return (self.sigma(raw)[:, None] - at(ahead)) / step

    # ---- pictures ---------------------------------------------------------------------------------------------------
    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        if not torch.is_grad_enabled() and len(cameras) > 1:
            each = (self.render(cameras[i : i + 1], size, background[i : i + 1]) for i in range(len(cameras)))
            return Frames.cat(list(each), ("latent",))
        return self.show(self.see(cameras, size, training), cameras, size, background, training)

    def begin(self, training: Training | None) -> None:
        """What a training step changes before it draws."""
        if training is not None:
            self.active = min(self.settings.levels, int(self.settings.active.at(training.progress)))

    def see(self, cameras: Cameras, size: int, training: Training | None = None) -> Seen:
        """The field along all rays, nothing summed up yet."""
        s = self.settings
        self.begin(training)
        how = self.runs("march")
        found = volume.cast(cameras, size, self.occupied, self.bounds, s.step, training, s.samples_per_ray, how)
        if s.samples_per_ray is None:
            with torch.no_grad():
                if not self.moves:
                    found = found.before(self.core, self.bounds)
                found = found.only(self.sigma(self.raw(found.points, found.view, cameras.time)))
        lit = training is not None and shading.wanted(s.shading, training.progress)
        if lit and not self.distance and s.normals == "none":
            raise ValueError("scene.shading.lit: a lit field needs normals; set scene.normals to analytic or finite")
        normals = self.distance or s.normals != "none"
        shot = self.shot(found.points, found.view, cameras.time, normals, self._noise(found.points, training))
        colour = shot.colour
        if lit and shot.normal is not None and training is not None:
            light = shading.draw(s.shading, cameras, training)
            colour = light.apply(colour, shot.normal, found.points, found.view)
        cosine = width = None
        if s.density == "neus" and shot.normal is not None:
            cosine = -(-(shot.normal * found.directions).sum(-1)).relu()
            width = found.samples.t_end - found.samples.t_start
        return Seen(found, self.sigma(shot.raw, cosine, width), colour, shot)

    def show(
        self, seen: Seen, cameras: Cameras, size: int, background: Tensor, training: Training | None = None
    ) -> Frames:
        """Pictures of what `see` found, with what the penalties read."""
        s, found, shot = self.settings, seen.found, seen.shot
        values = seen.colour if shot.normal is None else torch.cat([seen.colour, shot.normal], 1)
        layers = volume.compose(seen.sigma, values, found, cameras, size)
        channels = seen.colour.shape[1]
        drawn = background if not s.latent else background.new_zeros(len(background), channels)
        sky = self.background.behind(found.rays.reshape(len(cameras), size, size, 3), drawn, training)
        shown = layers.values[..., :channels] + (1 - layers.alpha) * sky
        extra = volume.traces(found, layers.sums)
        extra |= {"normals": shot.normal} if shot.normal is not None else {}
        extra |= {"slope": shot.slope} if shot.slope is not None else {}
        if s.latent:
            extra["latent"] = shown
            shown = (shown @ shown.new_tensor(LATENT_TO_RGB) + 1) / 2
        normal = None if shot.normal is None else layers.values[..., channels:]
        return Frames(shown, layers.alpha, layers.depth, background, normal, None, extra)

    def _noise(self, points: Tensor, training: Training | None) -> Tensor | None:
        if training is None or (strength := self.settings.noise.at(training.progress)) == 0:
            return None
        return strength * by_view(torch.randn, len(points), stream=training.stream, uneven=True).to(points)

    def penalty(self, name: str, frames: Frames) -> Tensor:
        return volume.penalty(name, frames)

    # ---- between steps ----------------------------------------------------------------------------------------------
    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor) -> Rows | None:
        """Refresh the occupancy now and then; a field has no rows that move."""
        if progress.step % self.settings.refresh == 0:
            self._refresh(progress.step // self.settings.refresh, healthy)
        return None

    def _refresh(self, turn: int, healthy: Tensor | None = None) -> None:
        """Look at every cell once more; where `healthy` is false the answer is not taken."""
        points = volume.refresh_points(self.settings.occupancy, self.bounds, turn, self.occupancy.device)
        with torch.no_grad():
            fresh = self.cell_density(points, turn)
        renewed = refresh_density(self.occupancy, fresh)
        self._look_up(renewed if healthy is None else torch.where(healthy, renewed, self.occupancy))

    def _look_up(self, density: Tensor) -> None:
        self.occupancy, self.core = density, volume.core(density)
        self.occupied = volume.occupied(density, self.settings.step)

    def cell_density(self, points: Tensor, turn: int) -> Tensor:
        """[M] density for the occupancy grid."""
        return self.sigma(self.raw(points))

    def state_dict(self) -> dict[str, Tensor]:
        state = {name: value.detach() for name, value in self.params.items()}
        state |= {f"background.{name}": value.detach() for name, value in self.background.params.items()}
        state |= {"occupancy": self.occupancy, "active": torch.tensor([self.active]), "levels": self._levels()}
        return state

    def _levels(self) -> Tensor:
        """What says which function a table is, though another had as many rows."""
        return torch.tensor([*self.grid.scales, self.grid.shift])

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        device = self.params["table"].device
        for name, value in {**self.params, "levels": self._levels()}.items():
            if name == "levels" and name not in state and self.settings.hashgrid.layout == "own":
                continue  # of before there was another layout
            found = state[name]
            if found.shape != value.shape or (name == "levels" and not torch.equal(found.to(value), value)):
                raise ValueError(
                    f"field: {name} is {list(found.shape)} in the state and {list(value.shape)} in the recipe; "
                    "levels, features, log2_entries, base, finest, hashgrid and hidden must be equal"
                )
        self._own({name: state[name].to(device) for name in self.params})
        own = self.background.params
        self.background.load({name: state[f"background.{name}"].to(device) for name in own})
        self._look_up(state["occupancy"].to(device).clone())
        self.active = int(state["active"])

    def offer(self, resolution: int) -> Offer:
        """A level of the density, a distance's zero, or fused depths."""
        s = self.settings
        if s.surface != "density":
            return Depths(s.surface, s.radius)
        if self.distance:
            return self.level_set(resolution, 0.0)
        # A quarter of the box's half side takes half the light; what nobody sees inside keeps the density of the body
        # it started from, so the level must lie below that. From a haze to what is opaque within a 30th of the box.
        return self.level_set(resolution, 3 / s.radius, tuple(level / s.radius for level in (1.5, 3.0, 10.0, 30.0)))

    def level_set(
        self, resolution: int, usual: float, worth: tuple[float, ...] = (), time: Tensor | None = None
    ) -> LevelSet:
        """Of the density, or of minus the distance; `time` [1] is for fields that move."""

        def inside(points: Tensor) -> Tensor:
            raw = self.raw(points, None, time)
            return -raw if self.distance else self.sigma(raw)

        def colour(points: Tensor) -> Tensor:
            return self.colour_at(points, time)

        return level_set(inside, colour, self.bounds, resolution, self.params["table"].device, usual, worth)

    def colour_at(self, points: Tensor, time: Tensor | None = None) -> Tensor:
        """[M, 3] sRGB of points [M, 3]."""
        colour = self.colour(self.features(self.unit(points), None, time))
        return (colour @ colour.new_tensor(LATENT_TO_RGB) + 1) / 2 if self.settings.latent else colour

    def seeds(self, count: int, stream: torch.Generator) -> Seeds:
        """Points where the field is dense and can be seen, for Gaussians to start from."""
        device = self.params["table"].device

        def density(points: Tensor) -> Tensor:
            return self.sigma(self.raw(points.to(device))).cpu()

        def colour(points: Tensor) -> Tensor:
            return self.colour_at(points.to(device)).cpu()

        return from_field(density, colour, self.settings.radius, count, stream)


def _shape(s: FieldSettings) -> tuple[int, int, int, int, int]:
    return s.levels, s.features, s.log2_entries, s.base, s.finest


def _weights(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """He initialisation."""
    return torch.randn(rows, columns, generator=generator) * (2 / columns) ** 0.5


def _around(mesh: Mesh, count: int, spread: float, stream: torch.Generator) -> Tensor:
    """[count, 3] points near a surface."""
    places = scattered(mesh.vertices, mesh.faces, count, stream).read(mesh.vertices)
    return places + spread * torch.randn(count, 3, generator=stream)


def _anywhere(count: int, radius: float, stream: torch.Generator) -> Tensor:
    """[count, 3] points of the box."""
    return (2 * torch.rand(count, 3, generator=stream) - 1) * radius
