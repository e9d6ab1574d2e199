# SPDX-License-Identifier: Apache-2.0
"""What is behind a scene: the stage's plain colour, a learned colour, or an environment seen by direction.

While training, a learned background gives way to the stage's plain colour with probability `augment`, so that the
object does not hide in it; one draw serves `group` successive views, because multi-view priors expect one background.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import setting
from dreamlab.core.streams import by_view
from dreamlab.core.types import ParamGroup, Training
from renderers.light.harmonics import harmonics

KINDS = ("plain", "solid", "environment")
HIDDEN = 16


@dataclass(frozen=True)
class BackgroundSettings:
    """`plain` is the colour that the stage draws (its `background`), and learns nothing."""

    kind: str = setting("plain", choices=KINDS)
    augment: Schedule = setting(constant(0.5), low=0, high=1, help="probability of the plain colour instead")
    group: int = setting(1, low=1, high=64, help="successive views that share a plain colour and the coin")
    lr: Schedule = setting(constant(0.005), low=0)


class Background:
    """Parameters of a background, and its colour by direction."""

    def __init__(self, settings: BackgroundSettings, channels: int, generator: torch.Generator) -> None:
        self.settings, self.channels = settings, channels
        self.params: dict[str, Tensor] = {}
        if settings.kind == "solid":
            self.params["color"] = torch.zeros(channels)
        elif settings.kind == "environment":
            shapes = {"first": (HIDDEN, 9), "second": (HIDDEN, HIDDEN), "last": (channels, HIDDEN)}
            for name, shape in shapes.items():
                self.params[name] = torch.randn(shape, generator=generator) * (2 / shape[1]) ** 0.5
        self.load({name: value for name, value in self.params.items()})

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.params = {name: state[name].detach().clone().requires_grad_() for name in self.params}

    def to(self, device: torch.device | str) -> None:
        self.load({name: value.to(device) for name, value in self.params.items()})

    def groups(self) -> dict[str, ParamGroup]:
        return {name: ParamGroup(value, self.settings.lr) for name, value in self.params.items()}

    def plain(self, drawn: Tensor) -> Tensor:
        """The stage's colours [B, C], the first of each group for the whole group."""
        return drawn[torch.arange(len(drawn), device=drawn.device) // self.settings.group * self.settings.group]

    def behind(self, directions: Tensor, drawn: Tensor, training: Training | None) -> Tensor:
        """[B, H, W, C] behind rays [B, H, W, 3]; without training the plain colour, so that the object stands free."""
        plain = self.plain(drawn)[:, None, None]
        if training is None or self.settings.kind == "plain":
            return plain
        own = self.colour(directions)
        coin = by_view(torch.rand, len(drawn), 1, stream=training.stream).to(drawn)
        swap = self.plain(coin) < self.settings.augment.at(training.progress)
        return torch.where(swap[:, None, None], plain, own)

    def colour(self, directions: Tensor) -> Tensor:
        """[..., C] in [0, 1] by unit direction [..., 3]."""
        if self.settings.kind == "solid":
            return self.params["color"].sigmoid().expand(*directions.shape[:-1], self.channels)
        p, linear = self.params, torch.nn.functional.linear
        hidden = linear(harmonics(directions), p["first"]).relu()
        return linear(linear(hidden, p["second"]).relu(), p["last"]).sigmoid()
