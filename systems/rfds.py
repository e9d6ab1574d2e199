# SPDX-License-Identifier: Apache-2.0
"""Rectified-flow distillation (Yang et al. 2024, RFDS, arXiv:2406.03293): g = u (cfg(v)(z_s, s) - (n - z)),
u = sigmoid(N(0, 1)), z_s = (1 - s) z + s n; and RFDS-Rev (`rev`), which first replaces the noise by what one unguided
pass believes it was, n' = n + (1 - s)(v_text(z_s) + z - n), and has no random weight.

Through the flow adapter (`core.noise`) it runs on any prior: v = (eps - z_s) / (1 - s), so v - (n - z) is
(eps - n) / (1 - s), SDS with another weight; and n' is the model's own eps(z_s), one fixed-point step of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.noise import cfg, flow_state, rescaled
from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import setting
from systems.engine.residual import Branch, Look, State, paired, per_row
from systems.engine.rule import GradientSettings, Rule


class RFDS(Rule["RFDS.Settings"]):
    """SDS in the words of rectified flow."""

    paper: ClassVar[str] = "Yang et al. 2024, arXiv:2406.03293"
    cost: ClassVar[str] = "2 (3 with rev)"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    guided: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(GradientSettings):
        cfg: Schedule = setting(constant(100.0), low=0)
        s_min: Schedule = setting(constant(0.3), low=0, high=1, help="flow time, 0 clean, 1 noise")
        s_max: Schedule = setting(constant(0.98), low=0, high=1)
        rev: bool = setting(False, help="RFDS-Rev: the noise is the model's own")

    def gradient(self, look: Look) -> Tensor:
        c, now = self.settings, look.progress
        t, s = flow_times(look, c.s_min.at(now), c.s_max.at(now))
        noise = look.noise()
        if c.rev:
            (v_text,) = velocities(look, (1 - s) * look.z + s * noise, s, t, guided=False)
            noise = noise + (1 - s) * (v_text + look.z - noise)
        z_s, scale = (1 - s) * look.z + s * noise, c.cfg.at(now)
        v = velocities(look, z_s, s, t, guided=scale != 1.0)
        guided = v[0] if scale == 1.0 else cfg(v[1], v[0], scale)
        if share := look.asking.how.rescale:  # x0 = z_s - s v
            guided = (z_s - rescaled(z_s - s * guided, z_s - s * v[0], share)) / s
        residual = guided - (noise - look.z)
        if c.rev:
            return residual
        u = torch.randn(len(look.z), generator=look.time_stream).sigmoid().to(look.z)
        return per_row(u, residual) * residual


def flow_times(look: Look, low: float, high: float) -> tuple[Tensor, Tensor]:
    """t_index [B] whose flow time s is nearest to a uniform draw, and that s [B, 1, 1, 1]."""
    bar = look.guidance.table.alpha_bar
    known = flow_state(bar, bar)[1]  # [T], rising
    draw = low + (high - low) * torch.rand(len(look.z), generator=look.time_stream)
    t = torch.searchsorted(known, draw.to(known)).clamp(1, len(known) - 1)
    t = torch.where((draw.to(known) - known[t - 1]) < (known[t] - draw.to(known)), t - 1, t)
    return t, per_row(known[t], look.z)


def velocities(look: Look, z_s: Tensor, s: Tensor, t: Tensor, guided: bool) -> list[Tensor]:
    """The model's v of the text (and null) at rectified-flow states, through its eps: v = (eps - z_s) / (1 - s)."""
    a, sigma = look.guidance.table.signal_noise(t, z_s)
    state = State(z_s * (a + sigma), t)
    branches = paired(state) if guided else [Branch(state, "text")]
    return [(eps - z_s) / (1 - s) for eps in look.predict(branches)]
