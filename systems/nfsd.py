# SPDX-License-Identifier: Apache-2.0
"""Noise-free score distillation (Katzir et al. 2023, arXiv:2310.17590): g = w(t) (delta_C + delta_D).

delta_C = s (eps_text - eps_null); delta_D = eps_null where t < 200, else eps_null - eps_negative: what pulls towards
the domain of natural pictures, without the noise that SDS leaves in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import setting
from systems.engine.residual import Branch, Look, combine, guiding
from systems.engine.rule import NoiseSettings, Rule


class NFSD(Rule["NFSD.Settings"]):
    """SDS with the noise term replaced by what the model itself says of the domain."""

    paper: ClassVar[str] = "Katzir et al. 2023, arXiv:2310.17590"
    cost: ClassVar[str] = "3"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null", "negative"})
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        cfg: Schedule = setting(constant(7.5), low=0, help="s of delta_C")
        switch: float = setting(0.2, low=0, high=1, help="below this noise delta_D is eps_null alone")

    def gradient(self, look: Look) -> Tensor:
        s, table = self.settings, look.guidance.table
        t = s.times(look)
        state = look.noised(look.noise(), t)
        late = (t >= look.index(s.switch)).to(look.z.dtype)
        branches = [*guiding(state, s.cfg.at(look.progress)), Branch(state, "negative", -late)]
        return combine(look, branches, table.weight(s.weight, t))
