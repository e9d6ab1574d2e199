# SPDX-License-Identifier: Apache-2.0
"""Interval score matching (Liang et al. 2023, LucidDreamer, arXiv:2311.11284):
g = 0.1 w(t) (cfg(eps)(z_t, t) - eps_null(z_s, s)), s = t - interval, both states on one DDIM inversion of the render.

Differences: the engine divides a term by the number of views, their injected gradient is not divided (set the term's
weight to `views` for their scale); t_index counts from 0, theirs is one higher. Their `denoise_guidance_scale` c > 1
is `cfg_inversion`: the inversion, and so the target, follows eps_null + c (eps_negative - eps_null). Their weights of
Perp-Neg are the term's `prompting: {perp_neg: 1, perp_neg_curves: lucid}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.schedules import Schedule, When, constant, ramp
from dreamlab.core.settings import setting
from systems.engine.inversion import PathSettings, at, invert, on_path
from systems.engine.residual import Look, State, per_row, predict_cfg
from systems.engine.rule import Rule

WARM = When(1500, "steps")


class ISM(Rule["ISM.Settings"]):
    """Match two neighbouring points of the render's own inversion path: a target that repeats from draw to draw."""

    paper: ClassVar[str] = "Liang et al. 2023, arXiv:2311.11284"
    cost: ClassVar[str] = "at most 5 + 1 + 2"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    guided: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(PathSettings):
        cfg: Schedule = setting(constant(7.5), low=0)
        interval: Schedule = setting(ramp(0.1, 0.08, end=WARM), low=0, high=1, help="t - s, fraction of the table")
        strength: float = setting(0.1, above=0, help="factor of g")
        cfg_inversion: float = setting(1.0, low=1, help="of the inversion, towards the negative prompt; 1: none")

        def asks(self) -> frozenset[str]:
            return super().asks() | ({"negative"} if self.cfg_inversion != 1.0 else set())

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        t = c.time(look)
        s = max(t - look.index(c.interval.at(now)), 0)
        low = invert(look, s, c, c.cfg_inversion)
        eps_s = on_path(look, low, c.cfg_inversion)
        z_t = table.ddim_move(low.z_t, eps_s, at(look, s), at(look, t))
        eps_t = predict_cfg(look, State(z_t, at(look, t)), c.cfg.at(now), c.against)
        return c.strength * per_row(table.weight(c.weight, at(look, t)), eps_t) * (eps_t - eps_s)
