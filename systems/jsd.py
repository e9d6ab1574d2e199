# SPDX-License-Identifier: Apache-2.0
"""Joint score distillation (Jiang et al. 2024, JointDreamer, arXiv:2407.12291), in closed form:
g = w(t) (cfg(eps_blind)(z_t) - n + lambda (sigma / a) (m / B) (x0_blind_null - x0_aware)), m the opacity.

A 2D model that does not know the camera (`blind`) paints; one that does (`text`; MVDream in the paper) says what the
view must show, and the difference of their clean pictures couples the views. lambda starts at step 600 of 5000.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.schedules import Schedule, When, constant, ramp
from dreamlab.core.settings import setting
from systems.engine.residual import Branch, Look, per_row
from systems.engine.rule import NoiseSettings, Rule


class JSD(Rule["JSD.Settings"]):
    """A camera-blind score, corrected where a camera-aware one disagrees about the view: against Janus."""

    paper: ClassVar[str] = "Jiang et al. 2024, arXiv:2407.12291"
    cost: ClassVar[str] = "3"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "blind", "blind_null"})
    frames: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        cfg: Schedule = setting(constant(31.0), low=0, help="30 in their form")
        coupling: Schedule = setting(ramp(0.0, 5.0, begin=When(0.12), end=When(0.1201), curve="jump"), low=0)

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        t = c.times(look)
        noise = look.noise()
        state = look.noised(noise, t)
        names = ("blind", "blind_null", "aware")
        blind, null, aware = look.predict([Branch(state, name) for name in names])
        a, s = table.signal_noise(t, look.z)
        apart = (s / a) * (aware - null)  # x0_blind_null - x0_aware
        guided = look.settled(state, null + c.cfg.at(now) * (blind - null), blind)
        pull = c.coupling.at(now) / len(look.z) * opacity_of(look) * (s / a) * apart
        return per_row(table.weight(c.weight, t), apart) * (guided - noise + pull)


def opacity_of(look: Look) -> Tensor:
    """[B, 1, h, w] of the render, at the latents' size."""
    if look.frames is None:
        return look.z.new_ones(len(look.z), 1, 1, 1)
    alpha = look.frames.alpha.detach().permute(0, 3, 1, 2).to(look.z)
    return F.interpolate(alpha, look.z.shape[-2:], mode="area")
