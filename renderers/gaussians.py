# SPDX-License-Identifier: Apache-2.0
"""3D Gaussians (Kerbl et al. 2023, arXiv:2308.04079) as an optimisable scene, on the `splat` op."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from cuda_ext.splat import SplatStats, Splatted, splat
from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import SceneCard
from dreamlab.core.safemath import inverse_sigmoid
from dreamlab.core.schedules import Progress, Schedule, constant, ramp
from dreamlab.core.settings import setting
from dreamlab.core.types import Depths, Frames, LevelSet, Offer, ParamGroup, Rows, Splats, Training
from renderers.backing import backend_setting, backing
from renderers.gaussian import densify
from renderers.gaussian.densify import DensifySettings
from renderers.gaussian.density import LEVEL, density_of, level_set
from renderers.gaussian.placed import SH0, degree_of
from renderers.gaussian.seeds import Seeds, ball, from_file, shell
from renderers.surface.fusion import WAYS

STATS = ("grad_norm", "count", "radius_max")
STARTS = ("ball", "sphere", "file")
WORTH = (0.2, LEVEL, 1.2)  # optical densities worth trying for a surface


@dataclass(frozen=True)
class GaussianSettings:
    count: int = setting(4096, low=1, high=5_000_000)
    start: str = setting("ball", choices=STARTS, help="where the Gaussians are seeded")
    file: str | None = setting(None, file="cloud", help="start: file: a mesh, a point cloud or Gaussians")
    radius: float = setting(0.6, above=0, high=2, help="of the ball or sphere the Gaussians are seeded in or on")
    opacity: float = setting(0.1, above=0, high=0.99, help="at the start")
    sh_degree: int = setting(0, low=0, high=4, help="of the colour's dependence on the view")
    sh_active: Schedule | None = setting(
        None, low=0, high=5, help="degree in use, up to sh_degree; by itself one more each quarter (of 4: each fifth)"
    )
    lr_means: Schedule = setting(ramp(0.012, 0.002, curve="exp"), low=0)
    lr_scales: Schedule = setting(constant(0.02), low=0)
    lr_quats: Schedule = setting(constant(0.02), low=0)
    lr_opacity: Schedule = setting(constant(0.05), low=0)
    lr_color: Schedule = setting(constant(0.05), low=0)
    lr_sh: Schedule = setting(constant(0.005), low=0, help="of the harmonics above degree 0")
    dilation: float = setting(0.3, low=0, high=10, help="px^2 of low-pass added to every footprint")
    compensate: bool = setting(True, help="opacity scaled by what the low-pass took (Mip-splatting)")
    surface: str = setting("density", choices=WAYS, help="how a mesh is found: a level of the density, fused depths")
    slender: float = setting(
        0.0, low=0, high=1000, help="longest axis over shortest, at most; 0: as it comes", tacit=True
    )
    densify: DensifySettings = field(default_factory=DensifySettings)
    backend: str = backend_setting()


class Gaussians:
    """N Gaussians seeded in a ball, on a sphere or from a file; they can multiply and be pruned."""

    kind: ClassVar[str] = "gaussians"
    paper: ClassVar[str] = "Kerbl et al. 2023, arXiv:2308.04079"
    penalties: ClassVar[tuple[str, ...]] = ("opacity_mean", "scale_mean")
    Settings: ClassVar[type] = GaussianSettings

    @classmethod
    def card(cls, settings: GaussianSettings) -> SceneCard:
        named = settings.start == "file"
        return SceneCard(
            cls.penalties,
            normals=True,
            backing=(backing(settings.backend, "splat"),),
            complaint="start: file needs `file: FILE`" if named and not settings.file else "",
        )

    def __init__(self, settings: GaussianSettings, generator: torch.Generator, seeds: Seeds | None = None) -> None:
        """`seeds`: points to start from instead of what the settings say."""
        s = self.settings = settings
        if seeds is None:
            if s.start == "file":
                seeds = from_file(s.file, s.count, generator)
            else:
                seeds = (ball if s.start == "ball" else shell)(s.count, s.radius, generator)
        n = len(seeds.points)
        quats = torch.randn(n, 4, generator=generator)
        colour = 0.1 * torch.randn(n, 3, generator=generator)
        self.params: dict[str, Tensor] = {
            "means": seeds.points,
            "log_scales": (0.7 * seeds.spacing).log()[:, None].repeat(1, 3),
            "quats": torch.nn.functional.normalize(quats, dim=-1),
            "logit_opacity": inverse_sigmoid(s.opacity).expand(n).clone()
            if seeds.opacity is None
            else inverse_sigmoid(seeds.opacity),
            "logit_color": colour if seeds.colours is None else inverse_sigmoid(seeds.colours),
        }
        if s.sh_degree:
            self.params["sh_rest"] = torch.zeros(n, (s.sh_degree + 1) ** 2 - 1, 3)
        if seeds.cloud is not None:
            self._as_they_are(seeds.cloud)
        held = 0 if seeds.cloud is None else degree_of(seeds.cloud)
        self.degree = min(s.sh_degree, held)
        self.stream: torch.Generator | None = None  # of the last training render; growing draws from it
        self.before: SplatStats | None = None  # the statistics as they were before that render
        self._own(self.params)

    def _as_they_are(self, cloud: Splats) -> None:
        """Shapes and, as far as the degree goes, harmonics of Gaussians that a file has."""
        self.params["quats"], self.params["log_scales"] = cloud.quats, cloud.scales.clamp(min=1e-7).log()
        if "sh_rest" in self.params:
            count = min(self.params["sh_rest"].shape[1], cloud.harmonics.shape[1] - 1)
            self.params["sh_rest"][:, :count] = cloud.harmonics[:, 1 : count + 1]

    def _own(self, params: Mapping[str, Tensor]) -> None:
        self.params = {name: params[name].detach().clone().requires_grad_() for name in self.params}
        means = self.params["means"]
        self.stats = SplatStats.zeros(len(means), means.device)

    def to(self, device: torch.device | str) -> Self:
        self._own({name: value.detach().to(device) for name, value in self.params.items()})
        return self

    def groups(self) -> Mapping[str, ParamGroup]:
        s = self.settings
        rates = {
            "means": s.lr_means, "log_scales": s.lr_scales, "quats": s.lr_quats,
            "logit_opacity": s.lr_opacity, "logit_color": s.lr_color, "sh_rest": s.lr_sh,
        }  # fmt: skip
        return {name: ParamGroup(p, rates[name], rowwise=True) for name, p in self.params.items() if name in rates}

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        self.begin(training)
        p = self.params
        shown = self.splat(p["means"], p["quats"], cameras, size, background, training)
        return Frames(shown.rgb, shown.alpha, shown.depth, background, shown.normal, shown.visible)

    def begin(self, training: Training | None) -> None:
        """What a training step changes before it draws."""
        if training is None:
            return
        self.stream = training.stream
        s = self.settings
        if s.slender:
            self.shorten()
        active = ramp(0.0, max(s.sh_degree, 3) + 0.99) if s.sh_active is None else s.sh_active
        self.degree = min(s.sh_degree, int(active.at(training.progress)))
        if training.progress.step == 0:  # the counts of an earlier stage are not this one's
            self.stats = SplatStats.zeros(len(self.params["means"]), self.params["means"].device)
        self.before = self.stats.clone() if self.settings.densify.kind == "adaptive" else None

    def shorten(self) -> None:
        """No Gaussian is longer than `slender` times its shortest axis. Who is seen from one camera alone can be a
        needle or the edge of a disc there, and pay for it nowhere."""
        with torch.no_grad():
            sizes = self.params["log_scales"]
            longest = sizes.amin(-1, keepdim=True) + math.log(max(self.settings.slender, 1.0))
            sizes.copy_(sizes.minimum(longest))

    def tallies(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The statistics that growing goes by, while some are kept."""
        if self.before is None:
            return (), ()
        return (self.stats.grad_norm, self.stats.count), (self.stats.radius_max,)

    def splat(
        self,
        means: Tensor,
        quats: Tensor,
        cameras: Cameras,
        size: int,
        background: Tensor,
        training: Training | None,
        log_scales: Tensor | None = None,
    ) -> Splatted:
        """The Gaussians where the arguments put them, with everything else as it is."""
        p, s = self.params, self.settings
        base, sh = p["logit_color"].sigmoid(), None
        if self.degree:
            rest = p["sh_rest"][:, : (self.degree + 1) ** 2 - 1]
            sh = torch.cat([(base[:, None] - 0.5) / SH0, rest], 1)
        return splat(
            means,
            quats,
            (p["log_scales"] if log_scales is None else log_scales).exp(),
            p["logit_opacity"].sigmoid(),
            base if sh is None else None,
            cameras.camera_to_world,
            cameras.focal_px(size),
            (size, size),
            background=background,
            sh=sh,
            dilation=s.dilation,
            compensate=s.compensate,
            stats=self.stats if training is not None and s.densify.kind == "adaptive" else None,
            backend=s.backend,
        )

    def penalty(self, name: str, frames: Frames) -> Tensor:
        """Means over the Gaussians: of the opacity (MCMC), of the standard deviations (MCMC, LucidDreamer)."""
        if name == "opacity_mean":
            return self.params["logit_opacity"].sigmoid().mean()
        if name == "scale_mean":
            return self.params["log_scales"].exp().mean()
        raise ValueError(f"{self.kind} have no penalty {name!r}")

    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor) -> Rows | None:
        """Grow and prune when it is time. Changing the count reads it on the host: once in `densify.every` steps."""
        s, rows = self.settings.densify, None
        if s.kind == "none" or self.stream is None:
            return None
        with torch.no_grad():
            if s.kind == "mcmc":
                means = self.params["means"]
                walked = densify.walk(self.params, s.noise.at(progress), self.stream)
                means.copy_(torch.where(healthy, walked, means))
            elif self.before is not None:
                self.stats = self.stats.where(healthy, self.before)
            if not ((s.due(progress) or s.reset_due(progress)) and bool(healthy)):
                return None
            if s.due(progress):
                detached = {name: value.detach() for name, value in self.params.items() if name in self.groups()}
                if s.kind == "mcmc":
                    grown, rows = densify.relocate_and_add(detached, s, self.stream)
                else:
                    grown, rows = densify.grow_and_prune(detached, self.stats, len(frames.rgb), s, self.stream)
                self._own({**self.params, **grown})
            if s.reset_due(progress):
                lowered, reset = densify.reset_opacity(self.params, s)
                self._own(lowered)
                rows = reset if rows is None else Rows(rows.source, reset.fresh)
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        state = {name: value.detach() for name, value in self.params.items()}
        if self.settings.densify.kind == "adaptive":
            state |= {f"stats.{name}": getattr(self.stats, name) for name in STATS}
        return state | ({"degree": torch.tensor([self.degree])} if self.settings.sh_degree else {})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Accepts any count: a checkpoint's scene may have another size than the recipe's start."""
        device, count = self.params["means"].device, len(state["means"])
        rest = self.params.get("sh_rest")
        if rest is not None and ("sh_rest" not in state or state["sh_rest"].shape[1:] != rest.shape[1:]):
            state = {**state, "sh_rest": torch.zeros(count, *rest.shape[1:])}  # from a scene of another degree
        self._own({name: state[name].to(device) for name in self.params})
        self.degree = int(state["degree"]) if "degree" in state and self.settings.sh_degree else 0
        if "stats.count" in state:
            self.stats = SplatStats(*(state[f"stats.{name}"].to(device).clone() for name in STATS))

    def offer(self, resolution: int) -> Offer:
        """A level of the optical density, or fused depths; the levels of a shell of discs have an inner side where they
        are higher than these."""
        if self.settings.surface != "density":
            return Depths(self.settings.surface, 1.0)
        return self.density(self.params["means"], self.params["quats"], self.params["log_scales"], resolution, WORTH)

    def splats(self, time: float = 0.0) -> Splats:
        """As they are drawn: of the harmonics those in use. These stand still."""
        with torch.no_grad():
            return self.activated(self.params["means"], self.params["quats"], self.params["log_scales"])

    def activated(self, means: Tensor, quats: Tensor, log_scales: Tensor) -> Splats:
        """The Gaussians where the arguments put them, on the host."""
        p = {name: value.detach().cpu() for name, value in self.params.items()}
        constant_part = (p["logit_color"].sigmoid()[:, None] - 0.5) / SH0
        rest = [p["sh_rest"][:, : (self.degree + 1) ** 2 - 1]] if self.degree else []
        turns = torch.nn.functional.normalize(quats.detach().cpu(), dim=-1)
        return Splats(
            means.detach().cpu(),
            turns,
            log_scales.detach().cpu().exp(),
            p["logit_opacity"].sigmoid(),
            torch.cat([constant_part, *rest], 1),
            self.settings.compensate,
        )

    def density(
        self, means: Tensor, quats: Tensor, log_scales: Tensor, resolution: int, worth: tuple[float, ...]
    ) -> LevelSet:
        """Of the Gaussians where the arguments put them."""
        opacity, colour = (self.params[name].detach().sigmoid() for name in ("logit_opacity", "logit_color"))
        shapes = (means.detach(), quats.detach(), log_scales.detach().exp())
        return level_set(density_of(*shapes, opacity, colour, resolution), worth)
