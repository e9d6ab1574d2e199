# SPDX-License-Identifier: Apache-2.0
"""3D Gaussians (Kerbl et al. 2023, arXiv:2308.04079) as an optimisable scene, on the `splat` op."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cuda_ext.splat import splat
from dreamlab.core.cameras import Cameras
from dreamlab.core.safemath import inverse_sigmoid
from dreamlab.core.schedules import Progress, Schedule, constant, ramp
from dreamlab.core.settings import setting
from dreamlab.core.types import Frames, Mesh, ParamGroup, Training
from renderers.convert import gaussians_to_mesh

_NAMES = ("means", "log_scales", "quats", "logit_opacity", "logit_color")


class Gaussians:
    """N Gaussians seeded uniformly in a ball; parameters are stored before their activations."""

    kind: ClassVar[str] = "gaussians"
    paper: ClassVar[str] = "Kerbl et al. 2023, arXiv:2308.04079"
    penalties: ClassVar[tuple[str, ...]] = ()

    @dataclass(frozen=True)
    class Settings:
        count: int = setting(4096, low=1, high=5_000_000)
        radius: float = setting(0.6, above=0, high=2, help="of the ball the Gaussians are seeded in")
        opacity: float = setting(0.1, above=0, high=0.99, help="at the start")
        lr_means: Schedule = setting(ramp(0.012, 0.002, curve="exp"), low=0)
        lr_scales: Schedule = setting(constant(0.02), low=0)
        lr_quats: Schedule = setting(constant(0.02), low=0)
        lr_opacity: Schedule = setting(constant(0.05), low=0)
        lr_color: Schedule = setting(constant(0.05), low=0)
        dilation: float = setting(0.3, low=0, high=10, help="px^2 of low-pass added to every footprint")
        compensate: bool = setting(True, help="opacity scaled by what the low-pass took (Mip-splatting)")

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        self.settings = settings
        n = settings.count
        direction = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
        radius = settings.radius * torch.rand(n, 1, generator=generator) ** (1 / 3)
        # Spacing of n points in the ball: neighbours overlap at one standard deviation each.
        spacing = settings.radius * (4.19 / n) ** (1 / 3)
        quats = torch.randn(n, 4, generator=generator)
        self.params: dict[str, Tensor] = {
            "means": direction * radius,
            "log_scales": torch.full((n, 3), spacing * 0.7).log(),
            "quats": torch.nn.functional.normalize(quats, dim=-1),
            "logit_opacity": inverse_sigmoid(settings.opacity).expand(n).clone(),
            "logit_color": 0.1 * torch.randn(n, 3, generator=generator),
        }
        self._own(self.params)

    def _own(self, params: Mapping[str, Tensor]) -> None:
        self.params = {name: params[name].detach().clone().requires_grad_() for name in _NAMES}

    def to(self, device: torch.device | str) -> Gaussians:
        self._own({name: value.detach().to(device) for name, value in self.params.items()})
        return self

    def groups(self) -> Mapping[str, ParamGroup]:
        s, p = self.settings, self.params
        rates = (s.lr_means, s.lr_scales, s.lr_quats, s.lr_opacity, s.lr_color)
        return {name: ParamGroup(p[name], rate, rowwise=True) for name, rate in zip(_NAMES, rates, strict=True)}

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        p = self.params
        shown = splat(
            p["means"],
            p["quats"],
            p["log_scales"].exp(),
            p["logit_opacity"].sigmoid(),
            p["logit_color"].sigmoid(),
            cameras.camera_to_world,
            cameras.focal_px(size),
            (size, size),
            background=background,
            dilation=self.settings.dilation,
            compensate=self.settings.compensate,
        )
        return Frames(shown.rgb, shown.alpha, shown.depth, background, shown.normal, shown.visible)

    def penalty(self, name: str, frames: Frames) -> Tensor:
        raise ValueError(f"gaussians have no penalty {name!r}")

    def adapt(self, progress: Progress, frames: Frames) -> None:
        """The count is fixed: nothing grows or is pruned."""

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.params.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Accepts any count: a checkpoint's scene may have another size than the recipe's start."""
        device = self.params["means"].device
        self._own({name: state[name].to(device) for name in _NAMES})

    def mesh(self, resolution: int) -> Mesh:
        p = {name: value.detach() for name, value in self.params.items()}
        return gaussians_to_mesh(
            p["means"],
            p["quats"],
            p["log_scales"].exp(),
            p["logit_opacity"].sigmoid(),
            p["logit_color"].sigmoid(),
            resolution,
        )
