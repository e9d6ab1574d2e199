# SPDX-License-Identifier: Apache-2.0
"""Score Jacobian chaining (Wang et al. 2022, arXiv:2212.00774): g = -(D(z + sigma n) - centre) / sigma.

With the denoiser D = x - sigma eps of the variance-exploding state x = z + sigma n this is eps - n about the clean
centre z (their default, "variance reduction") and plain eps about the noisy centre x: SDS with w = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import setting
from systems.residual import Branch, Look, State, Stateless, combine


class SJC(Stateless):
    """The averaged score of the render, chained through the renderer."""

    paper: ClassVar[str] = "Wang et al. 2022, arXiv:2212.00774"
    cost: ClassVar[str] = "2 (1 at cfg 1)"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    guided: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings:
        cfg: Schedule = setting(constant(101.0), low=0, help="100 in their form eps_text + s (eps_text - eps_null)")
        t_min: Schedule = setting(constant(0.02), low=0, high=1)
        t_max: Schedule = setting(constant(0.98), low=0, high=1)
        variance_reduced: bool = setting(True, help="centre on the clean render instead of the noisy one")
        clip: float | None = setting(None, above=0)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def gradient(self, look: Look) -> Tensor:
        s, now, table = self.settings, look.progress, look.guidance.table
        t = look.timesteps(s.t_min.at(now), s.t_max.at(now))
        noise = look.noise()
        state = State(table.add_noise(look.z, noise, t), t)
        scale = s.cfg.at(now)
        branches = [Branch(state, "text", scale), Branch(state, "null", 1.0 - scale)]
        return combine(look, branches, table.weight("uniform", t), noise, -1.0 if s.variance_reduced else 0.0)
