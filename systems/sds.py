# SPDX-License-Identifier: Apache-2.0
"""Score distillation sampling (Poole et al. 2022, arXiv:2209.14988), eq. 3: g = w(t) (cfg(eps) - noise).

cfg is the house form eps_null + s (eps_text - eps_null); threestudio's 100 is 101 here. The paper draws t per view,
with w = sigma^2, and anneals nothing. Annealed variants that came later are schedules of t_min = t_max: a square root
(HiFA, which has more to it: `hifa`), {from: 0.98, to: 0.3, curve: sqrt}; DreamGaussian (Tang et al. 2023,
arXiv:2309.16653) a line with `shared_t`, t = 1 - step / steps clipped to [0.02, 0.98].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import setting
from systems.engine.residual import Look, combine, guiding
from systems.engine.rule import NoiseSettings, Rule


class SDS(Rule["SDS.Settings"]):
    """Pull the render towards what the model would denoise it to; seeks modes."""

    paper: ClassVar[str] = "Poole et al. 2022, arXiv:2209.14988"
    cost: ClassVar[str] = "2 (1 at cfg 1)"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    guided: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        cfg: Schedule = setting(constant(101.0), low=0, help="guidance scale, eps_null + s (eps_text - eps_null)")
        shared_t: bool = setting(False, help="one time for all views of a step")

    def gradient(self, look: Look) -> Tensor:
        s, table = self.settings, look.guidance.table
        t = s.times(look, s.shared_t)
        noise = look.noise()
        state = look.noised(noise, t)
        return combine(look, guiding(state, s.cfg.at(look.progress)), table.weight(s.weight, t), noise, -1.0)
