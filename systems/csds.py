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

from dreamlab.core.noise import WEIGHTS
from dreamlab.core.schedules import Schedule, constant, ramp
from dreamlab.core.settings import setting
from systems.residual import Branch, Look, State, Stateless, combine, times_in_order


class CSDS(Stateless):
    """Only what the input views know beyond the category (reconstruction)."""

    paper: ClassVar[str] = "Zou et al. 2023, arXiv:2308.14078 (reconstructed)"
    cost: ClassVar[str] = "3"
    needs: ClassVar[frozenset[str]] = frozenset({"control", "control_null", "category"})

    @dataclass(frozen=True)
    class Settings:
        cfg: Schedule = setting(constant(7.5), low=0)
        t_min: Schedule = setting(constant(0.02), low=0, high=1)
        t_max: Schedule = setting(ramp(0.98, 0.5), low=0, high=1)
        weight: str = setting("sds", choices=WEIGHTS, help="w(t)")
        clip: float | None = setting(None, above=0)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @staticmethod
    def check(settings: Settings) -> str | None:
        return times_in_order(settings.t_min, settings.t_max)

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        t = look.timesteps(c.t_min.at(now), c.t_max.at(now))
        state = State(table.add_noise(look.z, look.noise(), t), t)
        scale = c.cfg.at(now)
        coefficients = {"control": scale, "control_null": 1.0 - scale, "category": -1.0}
        branches = [Branch(state, name, coefficient) for name, coefficient in coefficients.items()]
        return combine(look, branches, table.weight(c.weight, t))
