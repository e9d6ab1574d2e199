# SPDX-License-Identifier: Apache-2.0
"""Score distillation as a bridge (McAllister et al. 2024, arXiv:2406.09417), two stages:
first SDS, g = w (1 - alpha_bar) (cfg(eps)(z_t) - n); after `switch` the bridge from what the render looks like to what
it should, g = w scale (eps_text - eps_source), without noise and without guidance.

The source is the prompt followed by ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure,
noisy, malformed"; give prompt and words as the recipe's negative prompt. Their code multiplies the first stage by
1 - alpha_bar before the weight: the shipped 3D configuration has w = 1, so that factor alone and then 1; its class
default (`weight: sds`, `scale: 100`) has (1 - alpha_bar)^2 and then 100 (1 - alpha_bar).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.noise import WEIGHTS
from dreamlab.core.schedules import Schedule, When, constant, ramp
from dreamlab.core.settings import setting
from systems.engine.residual import Look, combine, guiding, paired
from systems.engine.rule import NoiseSettings, Rule


class Bridge(Rule["Bridge.Settings"]):
    """SDS for the shape, then only the direction from bad pictures of the object to good ones."""

    paper: ClassVar[str] = "McAllister et al. 2024, arXiv:2406.09417"
    cost: ClassVar[str] = "2"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null", "negative"})
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        cfg: Schedule = setting(constant(100.0), low=0, help="of the first stage")
        switch: float = setting(0.8, low=0, high=1, help="share of the run after which the bridge begins")
        scale: float = setting(1.0, low=0, help="of the second stage")
        t_max: Schedule = setting(ramp(0.98, 0.5, begin=When(5000, "steps"), end=When(5001, "steps")), low=0, high=1)
        weight: str = setting("uniform", choices=WEIGHTS, help="w(t), in the first stage times 1 - alpha_bar")

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        t = c.times(look)
        noise, w = look.noise(), table.weight(c.weight, t)
        state = look.noised(noise, t)
        if now.fraction >= c.switch:
            return combine(look, paired(state, "text", "negative", (c.scale, -c.scale)), w)
        return combine(look, guiding(state, c.cfg.at(now)), w * table.weight("sds", t), noise, -1.0)
