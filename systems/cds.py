# SPDX-License-Identifier: Apache-2.0
"""Consistency distillation sampling (Wu et al. 2024, Consistent3D, arXiv:2401.09050):
g = w(t) (cfg(eps)(z_t, t) - cfg(eps)(z_t', t')), t' < t, z_t' one step of the probability-flow ODE from z_t.

One noise, drawn once, serves all views and steps; it is part of the checkpoint, or a resumed run would chase another
target. Their Euler step in x = z_t / a is DDIM's step. Their code draws the gap for each view (`per_view`), and its
weight `mix` is uniform until half of the fall of t', then sds. Difference: their optional std-rescale of x0 is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.noise import WEIGHTS
from dreamlab.core.schedules import Progress, Schedule, When, constant, ramp
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
        per_view: bool = setting(False, help="a gap for each view, not one for all")
        t_min: float = setting(0.1, low=0, high=1)
        t_max: float = setting(0.98, low=0, high=1)
        weight: str = setting("uniform", choices=(*WEIGHTS, "mix"), help="w(t); mix: uniform, later sds")
        clip: Schedule | None = setting(constant(8.0), above=0)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.fixed_noise: Tensor | None = None  # [1, C, h, w]

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        if self.fixed_noise is None or self.fixed_noise.shape[1:] != look.z.shape[1:]:
            self.fixed_noise = look.noise()[:1]
        last, gap = min(look.index(c.t_max), len(table) - 1), look.index(c.gap)
        near = min(max(look.index(c.t_near.at(now)), look.index(c.t_min)), look.index(c.t_max) - gap)
        far, t_near = self.far(look, near + gap, last), at(look, near)
        self.fixed_noise = self.fixed_noise.to(look.z)  # a checkpoint's lies on the host
        noise = self.fixed_noise.expand_as(look.z)
        scale = c.cfg.at(now)
        look.heed(far)
        t_far = torch.tensor(far, device=look.z.device)
        z_far = table.add_noise(look.z, noise, t_far)
        eps_far = predict_cfg(look, State(z_far, t_far), scale)
        look.heed([near] * len(look.z))
        eps_near = predict_cfg(look, State(table.ddim_move(z_far, eps_far, t_far, t_near), t_near), scale)
        return per_row(table.weight(self.weight(now), t_far), eps_far) * (eps_far - eps_near)

    def far(self, look: Look, first: int, last: int) -> list[int]:
        """t of each view, from `first` on; on the host, which adaptive guidance asks."""
        spread = max(look.index(self.settings.perturb), 1)
        drawn = [look.draw_int(0, spread - 1) for _ in range(len(look.z) if self.settings.per_view else 1)]
        return [min(first + extra, last) for extra in drawn] * (len(look.z) // len(drawn))

    def weight(self, now: Progress) -> str:
        """The name of w(t) at this moment."""
        c = self.settings
        if c.weight != "mix":
            return c.weight
        end = c.t_near.points[-1][0].fraction(now.total)
        return "uniform" if now.fraction < end / 2 else "sds"

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.fixed_noise is None else {"fixed_noise": self.fixed_noise}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.fixed_noise = torch.clone(state["fixed_noise"]) if "fixed_noise" in state else None
