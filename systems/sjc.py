# SPDX-License-Identifier: Apache-2.0
"""Score Jacobian chaining (Wang et al. 2022, arXiv:2212.00774): g = -(D(z + sigma n) - centre) / sigma.

With the denoiser D = x - sigma eps of the variance-exploding state x = z + sigma n this is eps - n about the clean
centre z (their default, "variance reduction") and plain eps about the noisy centre x: SDS with w = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.noise import WEIGHTS
from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import setting
from systems.engine.residual import Look, combine, guiding
from systems.engine.rule import NoiseSettings, Rule


class SJC(Rule["SJC.Settings"]):
    """The averaged score of the render, chained through the renderer."""

    paper: ClassVar[str] = "Wang et al. 2022, arXiv:2212.00774"
    cost: ClassVar[str] = "2 (1 at cfg 1)"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    guided: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        cfg: Schedule = setting(constant(101.0), low=0, help="100 in their form eps_text + s (eps_text - eps_null)")
        weight: str = setting("uniform", choices=WEIGHTS, help="w(t)")
        variance_reduced: bool = setting(True, help="centre on the clean render instead of the noisy one")

    def gradient(self, look: Look) -> Tensor:
        s, table = self.settings, look.guidance.table
        t = s.times(look)
        noise = look.noise()
        state = look.noised(noise, t)
        branches, centre = guiding(state, s.cfg.at(look.progress)), -1.0 if s.variance_reduced else 0.0
        return combine(look, branches, table.weight(s.weight, t), noise, centre)
