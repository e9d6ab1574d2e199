# SPDX-License-Identifier: Apache-2.0
"""Category-score distillation, after Sparse3D (Zou et al. 2023, arXiv:2308.14078): g = w(t) (cfg(eps_control)(z_t) -
eps_category(z_t)).

The model that sees the input views (`control`, `control_null`) says what this object looks like; subtracting what the
plain model says of its category leaves what the views add. A reconstruction: the paper's code was not found, scale and
times are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.schedules import Schedule, constant, ramp
from dreamlab.core.settings import setting
from systems.engine.residual import Branch, Look, combine, guiding
from systems.engine.rule import NoiseSettings, Rule


class CSDS(Rule["CSDS.Settings"]):
    """Only what the input views know beyond the category (reconstruction)."""

    paper: ClassVar[str] = "Zou et al. 2023, arXiv:2308.14078 (reconstructed)"
    cost: ClassVar[str] = "3"
    needs: ClassVar[frozenset[str]] = frozenset({"control", "control_null", "category"})
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        cfg: Schedule = setting(constant(7.5), low=0)
        t_max: Schedule = setting(ramp(0.98, 0.5), low=0, high=1)

    def gradient(self, look: Look) -> Tensor:
        c, table = self.settings, look.guidance.table
        t = c.times(look)
        state = look.noised(look.noise(), t)
        branches = guiding(state, c.cfg.at(look.progress), "control", "control_null")
        return combine(look, [*branches, Branch(state, "category", -1.0)], table.weight(c.weight, t))
