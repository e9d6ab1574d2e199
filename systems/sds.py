# SPDX-License-Identifier: Apache-2.0
"""Score distillation sampling (Poole et al. 2022, arXiv:2209.14988), eq. 3: g = w(t) (cfg(eps) - noise).

cfg is the house form eps_null + s (eps_text - eps_null); threestudio's 100 is 101 here. The paper draws t per view,
with w = sigma^2, and anneals nothing. The annealed variants that came later are schedules of t_min = t_max:
HiFA (Zhu et al. 2023, arXiv:2305.18766) a square root, {from: 0.98, to: 0.3, curve: sqrt}; DreamGaussian (Tang et al.
2023, arXiv:2309.16653) a line with `shared_t`, t = 1 - step / steps clipped to [0.02, 0.98].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.noise import WEIGHTS
from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import setting
from systems.residual import Branch, Look, State, Stateless, combine, times_in_order


class SDS(Stateless):
    """Pull the render towards what the model would denoise it to; seeks modes."""

    paper: ClassVar[str] = "Poole et al. 2022, arXiv:2209.14988"
    cost: ClassVar[str] = "2 (1 at cfg 1)"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    guided: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings:
        cfg: Schedule = setting(constant(101.0), low=0, help="guidance scale, eps_null + s (eps_text - eps_null)")
        t_min: Schedule = setting(constant(0.02), low=0, high=1, help="lowest noise, fraction of the table")
        t_max: Schedule = setting(constant(0.98), low=0, high=1, help="highest noise, fraction of the table")
        weight: str = setting("sds", choices=WEIGHTS, help="w(t)")
        shared_t: bool = setting(False, help="one time for all views of a step")
        clip: float | None = setting(None, above=0, help="clamp of each element of g")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @staticmethod
    def check(settings: Settings) -> str | None:
        """What is wrong between the settings, or None."""
        return times_in_order(settings.t_min, settings.t_max)

    def gradient(self, look: Look) -> Tensor:
        s, table = self.settings, look.guidance.table
        t = look.timesteps(s.t_min.at(look.progress), s.t_max.at(look.progress), s.shared_t)
        noise = look.noise()
        state = State(table.add_noise(look.z, noise, t), t)
        scale = s.cfg.at(look.progress)
        branches = [Branch(state, "text", scale), Branch(state, "null", 1.0 - scale)]
        return combine(look, branches, table.weight(s.weight, t), noise, -1.0)
