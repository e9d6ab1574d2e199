# SPDX-License-Identifier: Apache-2.0
"""Noise-free score distillation (Katzir et al. 2023, arXiv:2310.17590): g = w(t) (delta_C + delta_D).

delta_C = s (eps_text - eps_null); delta_D = eps_null where t < 200, else eps_null - eps_negative: what pulls towards
the domain of natural pictures, without the noise that SDS leaves in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.noise import WEIGHTS
from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import setting
from systems.residual import Branch, Look, State, Stateless, combine


class NFSD(Stateless):
    """SDS with the noise term replaced by what the model itself says of the domain."""

    paper: ClassVar[str] = "Katzir et al. 2023, arXiv:2310.17590"
    cost: ClassVar[str] = "3"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null", "negative"})

    @dataclass(frozen=True)
    class Settings:
        cfg: Schedule = setting(constant(7.5), low=0, help="s of delta_C")
        switch: float = setting(0.2, low=0, high=1, help="below this noise delta_D is eps_null alone")
        t_min: Schedule = setting(constant(0.02), low=0, high=1)
        t_max: Schedule = setting(constant(0.98), low=0, high=1)
        weight: str = setting("sds", choices=WEIGHTS, help="w(t)")
        clip: float | None = setting(None, above=0)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def gradient(self, look: Look) -> Tensor:
        s, now, table = self.settings, look.progress, look.guidance.table
        t = look.timesteps(s.t_min.at(now), s.t_max.at(now))
        state = State(table.add_noise(look.z, look.noise(), t), t)
        scale = s.cfg.at(now)
        late = (t >= look.index(s.switch)).to(look.z.dtype)
        branches = [Branch(state, "text", scale), Branch(state, "null", 1.0 - scale), Branch(state, "negative", -late)]
        return combine(look, branches, table.weight(s.weight, t))
