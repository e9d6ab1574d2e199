# SPDX-License-Identifier: Apache-2.0
"""Several named objects in one scene, each of Gaussians in its own frame, placed by scale, turn about +Y and position.

They are drawn together by one rasterisation, with a mask and a semantic code per object (GALA3D, arXiv:2402.07207;
SemanticSDS, arXiv:2410.09009), or one of them alone in its own frame, where compositional methods optimise it.
`over` composes frames of scenes of any kinds by depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from cuda_ext.splat import splat
from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import RecipeError
from dreamlab.core.safemath import inverse_sigmoid, safe_divide
from dreamlab.core.schedules import Progress, Schedule, constant, ramp
from dreamlab.core.settings import setting
from dreamlab.core.types import Frames, Mesh, ParamGroup, Training
from renderers.convert import gaussians_to_mesh

NAMES = ("means", "log_scales", "quats", "logit_opacity", "logit_color")


@dataclass(frozen=True)
class Placement:
    """One object: what it is made of, and where it stands. Its point p stands at scale * turn p + position."""

    count: int = setting(1024, low=1, high=5_000_000, help="Gaussians")
    radius: float = setting(0.6, above=0, high=2, help="of the ball they are seeded in, in the object's own frame")
    position: tuple[float, float, float] = setting((0.0, 0.0, 0.0), help="in the world, metres")
    turn_deg: float = setting(0.0, low=-360, high=360, help="about +Y, counter-clockwise seen from above")
    scale: float = setting(1.0, above=0, high=10)
    box: tuple[float, float, float] = setting((0.8, 0.8, 0.80001), above=0, help="half sides, in its own frame")
    code: tuple[float, float, float] = setting((1.0, 1.0, 1.00001), help="semantic code, rendered like a colour")


class Several:
    """Objects by name; masks and codes come with the frames."""

    kind: ClassVar[str] = "several"
    paper: ClassVar[str] = "Zhou et al. 2024, arXiv:2402.07207; Yang et al. 2024, arXiv:2410.09009"
    penalties: ClassVar[tuple[str, ...]] = ("box",)

    @dataclass(frozen=True)
    class Settings:
        objects: Mapping[str, Placement] = field(default_factory=lambda: {"object": Placement()})
        alone: Schedule = setting(constant(0.0), low=0, high=1, help="how often a step shows one object by itself")
        opacity: float = setting(0.1, above=0, high=0.99, help="at the start")
        lr_means: Schedule = setting(ramp(0.012, 0.002, curve="exp"), low=0)
        lr_scales: Schedule = setting(constant(0.02), low=0)
        lr_quats: Schedule = setting(constant(0.02), low=0)
        lr_opacity: Schedule = setting(constant(0.05), low=0)
        lr_color: Schedule = setting(constant(0.05), low=0)

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        self.settings = settings
        if not settings.objects:
            raise RecipeError("scene several: objects: name at least one")
        self.names = tuple(settings.objects)
        made: dict[str, Tensor] = {}
        for name, placed in settings.objects.items():
            if "." in name:
                raise RecipeError(f"scene several: objects: {name!r}: a name has no dot")
            made |= {f"{name}.{key}": value for key, value in _seeded(placed, settings.opacity, generator).items()}
        self._own(made)

    def _own(self, params: Mapping[str, Tensor]) -> None:
        self.params = {name: value.detach().clone().requires_grad_() for name, value in params.items()}

    def to(self, device: torch.device | str) -> Several:
        self._own({name: value.detach().to(device) for name, value in self.params.items()})
        return self

    def groups(self) -> Mapping[str, ParamGroup]:
        s = self.settings
        rates = dict(zip(NAMES, (s.lr_means, s.lr_scales, s.lr_quats, s.lr_opacity, s.lr_color), strict=True))
        return {name: ParamGroup(value, rates[name.split(".")[1]]) for name, value in self.params.items()}

    def part(self, name: str, placed: bool = True) -> dict[str, Tensor]:
        """The Gaussians of one object before their activations, in the world or in its own frame."""
        mine = {key: self.params[f"{name}.{key}"] for key in NAMES}
        if not placed:
            return mine
        at = self.settings.objects[name]
        turn = torch.deg2rad(mine["means"].new_tensor(at.turn_deg))
        cos, sin, zero = turn.cos(), turn.sin(), torch.zeros_like(turn)
        about_y = torch.stack([cos, zero, sin, zero, zero + 1, zero, -sin, zero, cos]).reshape(3, 3)
        half = torch.stack([(turn / 2).cos(), zero, (turn / 2).sin(), zero])
        means = at.scale * mine["means"] @ about_y.T + mine["means"].new_tensor(at.position)
        bigger = mine["log_scales"] + mine["means"].new_tensor(at.scale).log()
        return mine | {"means": means, "log_scales": bigger, "quats": _product(half, mine["quats"])}

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        """All objects; in training sometimes one alone. `extra`: masks [B, H, W, objects], codes [B, H, W, 3], and
        `present` [objects], which of them are shown."""
        shown = torch.ones(len(self.names), dtype=torch.bool)
        if training is not None:
            stream = training.stream
            coin, which = torch.rand(2, generator=stream, device=stream.device).tolist()
            if coin < self.settings.alone.at(training.progress):
                one = min(int(which * len(self.names)), len(self.names) - 1)
                return self.render_alone(self.names[one], cameras, size, background)
        return self._draw({name: self.part(name) for name in self.names}, shown, cameras, size, background)

    def render_alone(self, name: str, cameras: Cameras, size: int, background: Tensor) -> Frames:
        """One object, in its own frame."""
        shown = torch.tensor([each == name for each in self.names])
        return self._draw({name: self.part(name, placed=False)}, shown, cameras, size, background)

    def _draw(
        self, parts: dict[str, dict[str, Tensor]], shown: Tensor, cameras: Cameras, size: int, background: Tensor
    ) -> Frames:
        joined = {key: torch.cat([part[key] for part in parts.values()]) for key in NAMES}
        labels = []
        for name, part in parts.items():
            mask = joined["means"].new_zeros(len(self.names))
            mask[self.names.index(name)] = 1
            code = joined["means"].new_tensor(self.settings.objects[name].code)
            labels.append(torch.cat([mask, code]).expand(len(part["means"]), -1))
        drawn = splat(
            joined["means"],
            joined["quats"],
            joined["log_scales"].exp(),
            joined["logit_opacity"].sigmoid(),
            joined["logit_color"].sigmoid(),
            cameras.camera_to_world,
            cameras.focal_px(size),
            (size, size),
            background=background,
            extra=torch.cat(labels),
            compensate=True,
        )
        assert drawn.extra is not None
        masks, codes = drawn.extra.split([len(self.names), 3], -1)
        extra = {"masks": masks, "codes": codes, "present": shown.to(masks.device)}
        return Frames(drawn.rgb, drawn.alpha, drawn.depth, background, drawn.normal, extra=extra)

    def penalty(self, name: str, frames: Frames) -> Tensor:
        """How far Gaussians are outside their object's box, squared, mean over all."""
        total = frames.rgb.new_zeros(())
        for each, placed in self.settings.objects.items():
            means = self.params[f"{each}.means"]
            total = total + (means.abs() - means.new_tensor(placed.box)).clamp(min=0).square().sum(-1).mean()
        return total / len(self.names)

    def adapt(self, progress: Progress, frames: Frames) -> None:
        """The counts are fixed."""

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.params.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        device = next(iter(self.params.values())).device
        self._own({name: state[name].to(device) for name in self.params})

    def mesh(self, resolution: int) -> Mesh:
        """All objects in the world, as one surface."""
        parts = [self.part(name) for name in self.names]
        p = {key: torch.cat([part[key] for part in parts]).detach() for key in NAMES}
        shapes = (p["means"], p["quats"], p["log_scales"].exp(), p["logit_opacity"].sigmoid())
        return gaussians_to_mesh(*shapes, p["logit_color"].sigmoid(), resolution)


def _seeded(placed: Placement, opacity: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Uniform in a ball (DreamGaussian), neighbours overlapping."""
    n = placed.count
    direction = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    means = direction * placed.radius * torch.rand(n, 1, generator=generator) ** (1 / 3)
    spacing = placed.radius * (4.19 / n) ** (1 / 3)
    return {
        "means": means,
        "log_scales": torch.full((n, 3), 0.7 * spacing).log(),
        "quats": torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=-1),
        "logit_opacity": inverse_sigmoid(opacity).expand(n).clone(),
        "logit_color": 0.1 * torch.randn(n, 3, generator=generator),
    }


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Quaternions wxyz: first b, then a; [4] and [N, 4]."""
    w, x, y, z = a
    p, q, r, s = b.unbind(-1)
    return torch.stack(
        [w * p - x * q - y * r - z * s, w * q + x * p + y * s - z * r,
         w * r - x * s + y * p + z * q, w * s + x * r - y * q + z * p], -1
    )  # fmt: skip


def over(parts: Sequence[Frames], background: Tensor) -> tuple[Frames, Tensor]:
    """Frames of single objects over their own backgrounds as one picture over `background` [B, 3]: nearest first, pixel
    by pixel. And what each object covers there, [B, H, W, objects].

    Objects that stand in each other are sorted by their mean depth in a pixel.
    """
    rgb = torch.stack([f.rgb - (1 - f.alpha) * f.background[:, None, None] for f in parts])  # premultiplied
    alpha, depth = torch.stack([f.alpha for f in parts]), torch.stack([f.depth for f in parts])
    distance = torch.where(alpha > 1e-3, depth.detach(), torch.inf)
    order = distance.argsort(dim=0, stable=True)
    near_alpha = alpha.gather(0, order)
    ahead = torch.cumprod(torch.cat([torch.ones_like(near_alpha[:1]), 1 - near_alpha[:-1]]), 0)
    light = torch.zeros_like(ahead).scatter(0, order, ahead)  # what reaches each object past those before it
    covered = light * alpha
    total = covered.sum(0)
    picture = (light * rgb).sum(0) + (1 - total) * background[:, None, None]
    normal = None
    if all(f.normal is not None for f in parts):
        normal = (light * torch.stack([f.normal for f in parts if f.normal is not None])).sum(0)
    mean_depth = safe_divide((covered * depth).sum(0), total)
    return Frames(picture, total, mean_depth, background, normal), covered[..., 0].movedim(0, -1)
