# SPDX-License-Identifier: Apache-2.0
"""Multi-view grid distillation, after BoostDream (Yu et al. 2024, arXiv:2401.16764): four views in one 2 x 2 picture,
scored at once, g = w(t) (cfg(eps)(grid_t) - n) cut back into the views.

A plain 2D model asked for "a 2 x 2 grid of views of ..." (`grid`, `grid_null`) couples the four by its attention. Each
view is halved first, so that the grid has the model's own size; g comes back by the transpose of the halving.
Differences: their normal-map control is the guidance's; scale and times are ours, the paper's were not found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cards import RuleCard
from dreamlab.core.noise import cfg
from dreamlab.core.pixels import tiled, untiled
from dreamlab.core.schedules import Schedule, constant, ramp
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition
from systems.engine.residual import Look, State, per_row
from systems.engine.rule import NoiseSettings, Rule


class Grid(Rule["Grid.Settings"]):
    """Views that the model sees side by side in one picture; needs a multiple of four per step."""

    paper: ClassVar[str] = "Yu et al. 2024, arXiv:2401.16764 (settings: ours)"
    cost: ClassVar[str] = "1/2"
    needs: ClassVar[frozenset[str]] = frozenset({"grid", "grid_null"})
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        cfg: Schedule = setting(constant(50.0), low=0)
        t_max: Schedule = setting(ramp(0.75, 0.5), low=0, high=1)

    @classmethod
    def card(cls, settings: Settings) -> RuleCard:
        return replace(super().card(settings), views=4)

    def gradient(self, look: Look) -> Tensor:
        c, table = self.settings, look.guidance.table
        if len(look.z) % 4:
            raise ValueError(f"grid takes views by four; this stage has {len(look.z)}, set `views` to a multiple of 4")
        picture = tiled(F.avg_pool2d(look.z, 2))
        first = torch.arange(0, len(look.z), 4, device=look.z.device)
        t = c.times(look)[first]
        stream = look.noise_stream
        noise = torch.randn(picture.shape, generator=stream, device=stream.device, dtype=picture.dtype).to(
            picture.device
        )
        state = State(table.add_noise(picture, noise, t), t)
        told = Condition.cat([look.conditions[name].take(first) for name in ("grid", "grid_null")])
        text, null = look.asked(torch.cat([state.z_t] * 2), torch.cat([t, t]), told).chunk(2)
        guided = look.settled(state, cfg(null, text, c.cfg.at(look.progress)), text)
        g = per_row(table.weight(c.weight, t), text) * (guided - noise)
        return F.interpolate(untiled(g), scale_factor=2, mode="nearest") / 4
