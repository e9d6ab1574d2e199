# SPDX-License-Identifier: Apache-2.0
"""Consistent flow distillation (Yan et al. 2025, arXiv:2501.05445): g = w(t) (cfg(eps)(z_t, t) - n(camera)),
w = sigma / a, the noise n bound to the surface (`surface_noise`) and t falling with the step: SDS along one path.

`refresh` > 0 renews the noise a little each step, n <- sqrt(1 - r) n + sqrt(r) xi, their stochastic version (1e-4 to
1e-2). Differences: 64 texels per face side, not 2048, and `sub` points per pixel side, fit for pictures of 64; the run
of t is a line from 0.98 to 0.02 of ours.
"""

from __future__ import annotations

import math
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
from systems.engine.surface_noise import bound_noise


class CFD(Configured["CFD.Settings"]):
    """SDS with noise that all cameras agree on: every view descends the same flow."""

    paper: ClassVar[str] = "Yan et al. 2025, arXiv:2501.05445"
    cost: ClassVar[str] = "2"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    frames: ClassVar[bool] = True
    guided: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(GradientSettings):
        cfg: Schedule = setting(constant(71.0), low=0, help="70 in their form")
        t: Schedule = setting(ramp(0.98, 0.02), low=0, high=1, help="the one time of a step, fraction of the table")
        refresh: float = setting(0.0, low=0, high=1)
        texels: int = setting(64, low=1, high=2048, help="per side of a cube face")
        layers: int = setting(4, low=1, high=64, help="nested cubes")
        reach: float = setting(1.8, above=0, help="metres; the last layer takes what lies beyond")
        sub: int = setting(3, low=1, high=8, help="surface points per pixel side")
        weight: str = setting("ism", choices=WEIGHTS, help="w(t)")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.field: Tensor | None = None  # [T, C]

    def gradient(self, look: Look) -> Tensor:
        c, table = self.settings, look.guidance.table
        t = min(look.index(c.t.at(look.progress)), len(table) - 1)
        look.heed([t] * len(look.z))
        noise = self.noise(look)
        times = at(look, t)
        eps = predict_cfg(look, State(table.add_noise(look.z, noise, times), times), c.cfg.at(look.progress))
        return per_row(table.weight(c.weight, times), eps) * (eps - noise)

    def noise(self, look: Look) -> Tensor:
        """Bound to what the cameras see."""
        c = self.settings
        if look.cameras is None or look.frames is None:
            raise ValueError("cfd needs the cameras and frames of a step")
        fresh = self.field is None
        self.field = self._fresh(look) if self.field is None else self.field.to(look.z)  # a checkpoint's: on the host
        if c.refresh > 0 and not fresh:
            self.field = math.sqrt(1 - c.refresh) * self.field + math.sqrt(c.refresh) * self._fresh(look)
        shape = (c.texels, c.layers, c.reach, c.sub)
        return bound_noise(self.field, look.noise(), look.frames, look.cameras, *shape)

    def _fresh(self, look: Look) -> Tensor:
        count = 6 * self.settings.layers * self.settings.texels**2
        stream = look.noise_stream
        return torch.randn(count, look.z.shape[1], generator=stream, device=stream.device).to(look.z.device)

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.field is None else {"field": self.field}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.field = torch.clone(state["field"]) if "field" in state else None
