# SPDX-License-Identifier: Apache-2.0
"""Trajectory score matching (Miao et al. 2024, Dreamer XL, arXiv:2405.11252):
g = 0.1 w(t) (cfg(eps)(z_t, t) - eps_null(z_mu, mu)), z_t and z_mu each one DDIM step from the same z_s.

mu = s + gamma (t - s) in the paper (`linear`), s + (t - s) sqrt(1 - gamma^2) in its code (`sqrt`); mu = s is ISM. Their
code caps the hop s -> mu at 200 while it takes the score at mu; here the hop always ends at mu. Their pixel-wise
clipping of the gradient is a setting of the term, `clip_pixel: 0.05`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.schedules import Schedule, When, constant, ramp
from dreamlab.core.settings import setting
from systems.engine.inversion import PathSettings, at, invert, warming
from systems.engine.residual import Branch, Look, State, per_row, predict_cfg
from systems.engine.rule import Rule

WARM = When(750, "steps")


class TSM(Rule["TSM.Settings"]):
    """ISM with both ends reached from one point, so that the inversion's error does not pile up between them."""

    paper: ClassVar[str] = "Miao et al. 2024, arXiv:2405.11252"
    cost: ClassVar[str] = "at most 5 + 1 + 1 + 2"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    guided: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(PathSettings):
        cfg: Schedule = setting(constant(7.5), low=0)
        gamma: float = setting(0.3, low=0, high=1, help="where mu lies between s and t")
        mu_rule: str = setting("linear", choices=("linear", "sqrt"), help="the paper's rule, or its code's")
        interval: Schedule = setting(ramp(0.1, 0.08, end=WARM), low=0, high=1, help="t - s, fraction of the table")
        t_max: Schedule = setting(warming(750), low=0, high=1)
        strength: float = setting(0.1, above=0, help="factor of g")

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        t = c.time(look)
        s = max(t - look.index(c.interval.at(now)), 0)
        share = c.gamma if c.mu_rule == "linear" else math.sqrt(1 - c.gamma**2)
        mu = round(s + (t - s) * share)
        low = invert(look, s, c)
        (eps_s,) = look.predict([Branch(low, "null")])
        z_t, z_mu = (table.ddim_move(low.z_t, eps_s, at(look, s), at(look, end)) for end in (t, mu))
        target = eps_s if mu == s else look.predict([Branch(State(z_mu, at(look, mu)), "null")])[0]
        eps_t = predict_cfg(look, State(z_t, at(look, t)), c.cfg.at(now), c.against)
        return c.strength * per_row(table.weight(c.weight, at(look, t)), eps_t) * (eps_t - target)
