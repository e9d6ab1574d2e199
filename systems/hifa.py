# SPDX-License-Identifier: Apache-2.0
"""HiFA (Zhu et al. 2023, arXiv:2305.18766): SDS seen as reconstruction, in the latents and in the picture, with one
time that falls as the square root of progress: g = w(t) (cfg(eps)(z_t) - n) on the latents and, with
x0 = (z_t - sigma eps) / a, g_image = w(t) (a / sigma) (x - decode(x0)) on the picture x, `image` times as much.

The first is w (a / sigma) (z - x0), so both pull towards the same clean picture; the second does not pass the encoder.
Numbers as in threestudio's first release of it (its scale 100 is 101 here; 0.01 of the picture); its third part, the
variance of depth along a ray, is the field's own `z_variance`. One decoding per step is added, no evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cards import RuleCard
from dreamlab.core.schedules import Schedule, constant, ramp
from dreamlab.core.settings import setting
from systems.engine.residual import Look, loss_from_gradient, per_row, predict_cfg
from systems.engine.rule import NoiseSettings, Rule


class HiFA(Rule["HiFA.Settings"]):
    """SDS that also pulls the picture itself towards the decoded clean one, at ever finer noise."""

    paper: ClassVar[str] = "Zhu et al. 2023, arXiv:2305.18766"
    cost: ClassVar[str] = "2 (1 at cfg 1)"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    frames: ClassVar[bool] = True
    guided: ClassVar[bool] = True
    rescales: ClassVar[bool] = True
    colours: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        cfg: Schedule = setting(constant(101.0), low=0, help="100 in their form")
        t_min: Schedule = setting(ramp(0.98, 0.3, curve="sqrt"), low=0, high=1)
        t_max: Schedule = setting(ramp(0.98, 0.3, curve="sqrt"), low=0, high=1)
        image: Schedule = setting(constant(0.01), low=0, help="weight of the loss on the picture")

    @classmethod
    def card(cls, settings: Settings) -> RuleCard:
        return replace(super().card(settings), colours=True)

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        t = c.times(look)
        noise = look.noise()
        state = look.noised(noise, t)
        eps = predict_cfg(look, state, c.cfg.at(now))
        w = table.weight(c.weight, t)
        if (share := c.image.at(now)) > 0:
            with torch.no_grad():
                clean = look.guidance.decode(table.x0(state.z_t, eps, t))
            with torch.enable_grad():
                look.beside = share * self.picture_loss(look, clean, w, t)
        return per_row(w, eps) * (eps - noise)

    def picture_loss(self, look: Look, clean: Tensor, w: Tensor, t: Tensor) -> Tensor:
        """[], its gradient on each picture w (a / sigma) (x - clean) over the number of views."""
        if look.frames is None:
            raise ValueError("hifa: needs the frames, give them to Look")
        x = look.frames.rgb.permute(0, 3, 1, 2)
        target = clean.permute(0, 3, 1, 2)
        if x.shape[-2:] != target.shape[-2:]:
            x = F.interpolate(x, target.shape[-2:], mode="bilinear", antialias=True)
        a, s = look.guidance.table.signal_noise(t, target)
        loss, _ = loss_from_gradient(x, per_row(w, target) * (a / s) * (x - target), self.clip(look.progress))
        return loss
