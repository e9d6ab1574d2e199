# SPDX-License-Identifier: Apache-2.0
"""Balanced score distillation (Huang et al. 2024, PlacidDreamer, arXiv:2407.13976): the min-norm point between
two objectives (MGDA, Desideri 2012), g = 0.1 sqrt(alpha_bar) (a g_c + (1 - a) g_d),
g_c = lambda (eps_text - eps_against), g_d = eps_against, a = clip(<g_d - g_c, g_d> / |g_d - g_c|^2, 0, 1) per picture.

The paper and its command line say lambda 18, its released code fixes 15; 18 is the default here. `auto` is the mode its
training runs: g_c = eps_text - eps_against, g_d = 1.25 (eps_against - n), and in place of w(t) the norm of
eps_against - n over the whole batch times sqrt(1 - alpha_bar) / 50: neither lambda nor a weight is left to choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.noise import WEIGHTS
from dreamlab.core.schedules import Schedule, When, ramp
from dreamlab.core.settings import setting
from systems.engine.inversion import at, offset_noise
from systems.engine.residual import Look, State, paired, per_row
from systems.engine.rule import NoiseSettings, Rule


class Balanced(Rule["Balanced.Settings"]):
    """Neither the text nor the denoising may win: the step is the shortest vector between them."""

    paper: ClassVar[str] = "Huang et al. 2024, arXiv:2407.13976"
    cost: ClassVar[str] = "2"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        scale: float = setting(18.0, above=0, help="lambda")
        against: str = setting("null", choices=("null", "negative"), help="the paper's null is its negative prompt")
        t_max: Schedule = setting(ramp(0.98, 0.5, end=When(1500, "steps")), low=0, high=1)
        offset: float = setting(0.1, low=0, help="strength of the channel-wise offset noise")
        strength: float = setting(0.1, above=0, help="factor of g")
        weight: str = setting("bsd", choices=WEIGHTS, help="w(t)")
        auto: bool = setting(False, help="both objectives and the weight as the model's own size has it; no scale")

        def asks(self) -> frozenset[str]:
            return frozenset({self.against})

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        t = at(look, look.time_index(c.t_min.at(now), c.t_max.at(now)))
        noise = offset_noise(look, c.offset)
        state = State(table.add_noise(look.z, noise, t), t)
        text, other = look.predict(paired(state, against=c.against))
        if c.auto:
            w = (other - noise).norm() * table.weight("sds", t).sqrt() / 50
            g = min_norm(text - other, 1.25 * (other - noise))
        else:
            w = table.weight(c.weight, t)
            g = min_norm(c.scale * (text - other), other)
        return c.strength * per_row(w, g) * g


def min_norm(g_c: Tensor, g_d: Tensor) -> Tensor:
    """The shortest vector on the segment between g_c and g_d, per picture; equal ends give that end."""
    gap = (g_d - g_c).flatten(1)
    square = gap.square().sum(1)
    inner = (gap * g_d.flatten(1)).sum(1)
    a = (inner / square.clamp(min=1e-20)).clamp(0, 1)
    return per_row(a, g_d) * g_c + per_row(1 - a, g_d) * g_d
