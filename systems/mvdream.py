# SPDX-License-Identifier: Apache-2.0
"""MVDream's x0 reconstruction (Shi et al. 2023, arXiv:2308.16512, section 3.3): L = 0.5 |z - sg(x0)|^2, so g = z - x0,
x0 the guided clean picture with its spread pulled back to the unguided one's (CFG rescale, Lin et al. 2023,
arXiv:2305.08891): x0 <- r x0 std(x0_text) / std(x0) + (1 - r) x0.

It is SDS seen as reconstruction: (eps - n) = (a / sigma)(z - x0), so without rescale g is SDS with w = sigma / a. One t
for all views; the deviation is unbiased and taken over each group of `group` views, as in their code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from dreamlab.core.cards import RuleCard
from dreamlab.core.noise import cfg, rescaled
from dreamlab.core.schedules import Schedule, When, constant, ramp
from dreamlab.core.settings import setting
from systems.engine.residual import Look, paired, times_in_order
from systems.engine.rule import GradientSettings, Rule


class MVDream(Rule["MVDream.Settings"]):
    """Pull the render towards the guided clean picture itself, with the saturation of guidance taken out."""

    paper: ClassVar[str] = "Shi et al. 2023, arXiv:2308.16512"
    cost: ClassVar[str] = "2"
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    guided: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(GradientSettings):
        cfg: Schedule = setting(constant(50.0), low=0)
        against: str = setting("negative", choices=("null", "negative"), help="theirs is the negative prompt")
        rescale: float = setting(0.5, low=0, high=1, help="r; 0.3 where floaters appear")
        group: int = setting(4, low=1, high=64, help="views that share a deviation; the rest of a batch is a group too")
        t_min: Schedule = setting(ramp(0.98, 0.02, end=When(8000, "steps")), low=0, high=1)
        t_max: Schedule = setting(ramp(0.98, 0.5, end=When(8000, "steps")), low=0, high=1)

        def asks(self) -> frozenset[str]:
            return frozenset({self.against})

        def complaint(self) -> str:
            return times_in_order(self.t_min, self.t_max) or ""

    @classmethod
    def card(cls, settings: Settings) -> RuleCard:
        return replace(super().card(settings), group=settings.group)

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        t = look.timesteps(c.t_min.at(now), c.t_max.at(now), shared=True)
        state = look.noised(look.noise(), t)
        text, other = look.predict(paired(state, against=c.against))
        x0 = table.x0(state.z_t, cfg(other, text, c.cfg.at(now)), t)
        return look.z - rescaled(x0, table.x0(state.z_t, text, t), c.rescale, c.group)
