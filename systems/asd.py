# SPDX-License-Identifier: Apache-2.0
"""Asynchronous score distillation (Ma et al. 2024, ScaleDreamer, arXiv:2407.02040):
g = w(t) (cfg(eps)(z_t, t) - eps_text(z_t+, t+)), the same noise at a later time t+ = t + U(0,1) rho (t - t_min).

A model errs less at more noise, so its own prediction there stands in for VSD's fine-tuned network, without training.
The shift is capped at the table's end before it is multiplied by the draw, as in their code, whose `plus_random: false`
is `fixed` here: the whole shift, undrawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.schedules import Schedule, constant, ramp
from dreamlab.core.settings import setting
from systems.engine.residual import Branch, Look, combine, guiding
from systems.engine.rule import NoiseSettings, Rule


class ASD(Rule["ASD.Settings"]):
    """VSD's idea without a second network: the variational score is the prior's own, a little later in time."""

    paper: ClassVar[str] = "Ma et al. 2024, arXiv:2407.02040"
    cost: ClassVar[str] = "3"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    guided: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        cfg: Schedule = setting(constant(7.5), low=0)
        rho: float = setting(0.1, low=0, high=1, help="largest shift as a share of t - t_min")
        fixed: bool = setting(False, help="every shift is the largest, none is drawn")
        t_min: Schedule = setting(ramp(0.5, 0.02), low=0, high=1)
        t_max: Schedule = setting(ramp(0.98, 0.5), low=0, high=1)

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        t = c.times(look)
        draw = torch.ones(()) if c.fixed else look.at_one(torch.rand(len(t), generator=look.time_stream))
        shift = torch.minimum(c.rho * (t - look.index(c.t_min.at(now))).float(), (len(table) - 1 - t).float())
        later = t + (shift * draw.to(t.device)).long()
        noise = look.noise()
        here, there = look.noised(noise, t), look.noised(noise, later)
        branches = [*guiding(here, c.cfg.at(now)), Branch(there, "text", -1.0)]
        return combine(look, branches, table.weight(c.weight, t))
