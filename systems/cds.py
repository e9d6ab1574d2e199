# SPDX-License-Identifier: Apache-2.0
"""Consistency distillation sampling (Wu et al. 2024, Consistent3D, arXiv:2401.09050):
g = w(t) (cfg(eps)(z_t, t) - cfg(eps)(z_t', t')), t' < t, z_t' one step of the probability-flow ODE from z_t.

One noise, drawn once, serves all views and steps; it is part of the checkpoint, or a resumed run would chase another
target. Their Euler step in x = z_t / a is DDIM's step. Difference: their optional std-rescale of x0 is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.noise import WEIGHTS
from dreamlab.core.schedules import Schedule, When, constant, ramp
from dreamlab.core.settings import setting
from systems.engine.inversion import at
from systems.engine.residual import Look, State, per_row, predict_cfg
from systems.engine.rule import Configured, GradientSettings


class CDS(Configured["CDS.Settings"]):
    """Two neighbouring points of one deterministic path must predict the same picture."""

    paper: ClassVar[str] = "Wu et al. 2024, arXiv:2401.09050"
    cost: ClassVar[str] = "4 (2 at cfg 1)"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    guided: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(GradientSettings):
        cfg: Schedule = setting(ramp(101.0, 51.0, end=When(3000, "steps")), low=0, help="100 to 50 in their form")
        t_near: Schedule = setting(
            ramp(0.7, 0.1, end=When(3000, "steps"), curve="sqrt"), low=0, high=1, help="t', annealed"
        )
        gap: float = setting(0.1, low=0, high=1, help="least t - t', fraction of the table")
        perturb: float = setting(0.2, low=0, high=1, help="the gap varies by this much")
        t_min: float = setting(0.1, low=0, high=1)
        t_max: float = setting(0.98, low=0, high=1)
        weight: str = setting("uniform", choices=WEIGHTS, help="w(t)")
        clip: Schedule | None = setting(constant(8.0), above=0)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.fixed_noise: Tensor | None = None  # [1, C, h, w]

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        if self.fixed_noise is None or self.fixed_noise.shape[1:] != look.z.shape[1:]:
            self.fixed_noise = look.noise()[:1]
        steps = len(table)
        last, gap = look.index(c.t_max), look.index(c.gap)
        near = min(max(look.index(c.t_near.at(now)), look.index(c.t_min)), last - gap)
        spread = max(look.index(c.perturb), 1)
        far = min(near + gap + look.draw_int(0, spread - 1), last, steps - 1)
        noise = self.fixed_noise.to(look.z).expand_as(look.z)
        scale = c.cfg.at(now)
        z_far = table.add_noise(look.z, noise, at(look, far))
        look.heed([far] * len(look.z))
        eps_far = predict_cfg(look, State(z_far, at(look, far)), scale)
        z_near = table.ddim_move(z_far, eps_far, at(look, far), at(look, near))
        look.heed([near] * len(look.z))
        eps_near = predict_cfg(look, State(z_near, at(look, near)), scale)
        return per_row(table.weight(c.weight, at(look, far)), eps_far) * (eps_far - eps_near)

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.fixed_noise is None else {"fixed_noise": self.fixed_noise}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.fixed_noise = torch.clone(state["fixed_noise"]) if "fixed_noise" in state else None
