# SPDX-License-Identifier: Apache-2.0
"""Score distillation via reparametrised DDIM (Lukoianov et al. 2024, SDI, arXiv:2405.15891):
g = (sigma / a) (cfg(eps)(z_t, t) - kappa), kappa the noise that DDIM inversion of the render finds at t.

Inversion walks up with guidance against the text (-7.5 in their form, -6.5 here) in steps of a tenth of the table, with
0.3 of DDIM's own noise. (sigma / a)(eps - kappa) is z - x0: their loss on the denoised picture. t falls with the step;
each is moved up by less than one stride. Differences: their code asks the model about t while the state is at the moved
time, here both are at the moved one; their loss is a mean over elements, ours a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.noise import WEIGHTS
from dreamlab.core.schedules import Schedule, constant, ramp
from dreamlab.core.settings import setting
from systems.engine.inversion import at
from systems.engine.residual import Look, State, per_row, predict_cfg
from systems.engine.rule import GradientSettings, Rule


class SDI(Rule["SDI.Settings"]):
    """SDS with the noise that the render itself would have come from."""

    paper: ClassVar[str] = "Lukoianov et al. 2024, arXiv:2405.15891"
    cost: ClassVar[str] = "at most 2 x 10 + 2"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    guided: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(GradientSettings):
        cfg: Schedule = setting(constant(8.5), low=0, help="7.5 in their form")
        cfg_inversion: float = setting(-6.5, help="guidance on the way up, -7.5 in their form")
        steps: int = setting(10, low=1, high=100, help="of an inversion through the whole table")
        eta: float = setting(0.3, low=0, high=1, help="share of DDIM's noise on the way up")
        t: Schedule = setting(ramp(0.98, 0.2), low=0, high=1)
        weight: str = setting("ism", choices=WEIGHTS, help="w(t)")

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        stride = max(len(table) // c.steps, 1)
        t = min(look.index(c.t.at(now)) + look.draw_int(0, stride - 1), len(table) - 1)
        z_t = self.invert(look, t, stride)
        a, s = table.signal_noise(at(look, t), z_t)
        kappa = (z_t - a * look.z) / s
        look.heed([t] * len(look.z))
        eps = predict_cfg(look, State(z_t, at(look, t)), c.cfg.at(now))
        return per_row(table.weight(c.weight, at(look, t)), eps) * (eps - kappa)

    def invert(self, look: Look, target: int, stride: int) -> Tensor:
        """z at `target`, from the clean latents at 0."""
        c, table = self.settings, look.guidance.table
        t, z_t = 0, look.z
        while t < target:
            look.heed([t] * len(look.z))
            eps = predict_cfg(look, State(z_t, at(look, t)), c.cfg_inversion)
            after = min(t + stride, target)
            z_t = table.ddim_move(z_t, eps, at(look, t), at(look, after))
            if c.eta > 0:
                z_t = z_t + c.eta * ddim_deviation(table.alpha_bar, t, after) * look.noise()
            t = after
        return z_t


def ddim_deviation(alpha_bar: Tensor, low: int, high: int) -> Tensor:
    """sigma of DDIM at eta = 1 between two times (Song et al. 2021, eq. 16)."""
    here, there = alpha_bar[low], alpha_bar[high]
    return torch.sqrt((1 - here) / (1 - there) * (1 - there / here))
