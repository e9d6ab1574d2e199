# SPDX-License-Identifier: Apache-2.0
"""Diverse score distillation (Xu et al. 2024, DSD, arXiv:2412.06780): the run follows the generation path of its seed,
g = w(t) (cfg(eps)(z_t, t) - cfg'(eps)(z_t+d, t + d)), both states noised with n* = cfg(eps)(x_t+d), x on the DDIM path.

The path starts from one noise, drawn once and kept in checkpoints, and is walked down to t + d in at most ten steps.
t falls as the square root of progress; d = U(0, 0.1 (t - t_min)). Scales 7.5 and 1 are theirs, 8.5 and 2 here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.noise import WEIGHTS
from dreamlab.core.schedules import Schedule, constant, ramp
from dreamlab.core.settings import setting
from systems.engine.inversion import at
from systems.engine.residual import Look, State, per_row, predict_cfg
from systems.engine.rule import Configured, GradientSettings


class DSD(Configured["DSD.Settings"]):
    """Another seed ends in another object: each run is held to its own path from noise."""

    paper: ClassVar[str] = "Xu et al. 2024, arXiv:2412.06780"
    cost: ClassVar[str] = "at most 2 x 10 + 2 + 2 + 2"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(GradientSettings):
        cfg: Schedule = setting(constant(8.5), low=0, help="7.5 in their form")
        cfg_later: float = setting(2.0, low=0, help="at t + d; 1 in their form")
        t: Schedule = setting(ramp(0.98, 0.32, curve="sqrt"), low=0, high=1)
        t_min: float = setting(0.02, low=0, high=1)
        rho: float = setting(0.1, low=0, high=1, help="largest d as a share of t - t_min")
        steps: int = setting(10, low=1, high=100, help="of the path from noise, at most")
        weight: str = setting("sds", choices=WEIGHTS, help="w(t)")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.start: Tensor | None = None  # [1, C, h, w], the seed

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        if self.start is None or self.start.shape[1:] != look.z.shape[1:]:
            self.start = look.noise()[:1]
        self.start = self.start.to(look.z)  # a checkpoint's lies on the host
        last = len(table) - 1
        t = min(look.index(c.t.at(now)), last)
        d = int(c.rho * max(t - look.index(c.t_min), 0) * float(torch.rand((), generator=look.time_stream)))
        later, scale = min(t + d, last), c.cfg.at(now)
        noise = self.path_noise(look, later, scale)
        here, there = (State(table.add_noise(look.z, noise, at(look, k)), at(look, k)) for k in (t, later))
        residual = predict_cfg(look, here, scale) - predict_cfg(look, there, c.cfg_later)
        return per_row(table.weight(c.weight, at(look, t)), residual) * residual

    def path_noise(self, look: Look, target: int, scale: float) -> Tensor:
        """The model's own noise at `target` on the path that starts from this run's seed."""
        assert self.start is not None
        table, last = look.guidance.table, len(look.guidance.table) - 1
        stride = -(-(last + 1) // self.settings.steps)
        t, x = last, self.start.expand_as(look.z)
        while t > target:
            eps = predict_cfg(look, State(x, at(look, t)), scale)
            after = max(t - stride, target)
            x, t = table.ddim_move(x, eps, at(look, t), at(look, after)), after
        return predict_cfg(look, State(x, at(look, t)), scale)

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.start is None else {"start": self.start}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.start = torch.clone(state["start"]) if "start" in state else None
