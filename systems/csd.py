# SPDX-License-Identifier: Apache-2.0
"""Classifier score distillation (Yu et al. 2023, arXiv:2310.19415), eq. 7 with the coefficients of its code.

g = w(t) (c_text eps_text + c_negative eps_negative + c_null eps_null + c_noise n). The paper's refinement anneals the
null's -1 into -1/2 on the negative prompt; pure CSD keeps the coefficients' sum at 0 and leaves the noise out. SDS is
text s, null 1 - s, noise -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.schedules import Progress, Schedule, constant
from dreamlab.core.settings import setting
from systems.engine.residual import Branch, Look, combine
from systems.engine.rule import NoiseSettings, Rule


class CSD(Rule["CSD.Settings"]):
    """Only the direction in which the text moves the prediction; no pull towards the model's own denoising."""

    paper: ClassVar[str] = "Yu et al. 2023, arXiv:2310.19415"
    cost: ClassVar[str] = "2 (3 with a negative prompt)"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        text: Schedule = setting(constant(1.0), help="coefficient of eps_text")
        negative: Schedule = setting(constant(0.0), help="coefficient of eps_negative")
        null: Schedule = setting(constant(-1.0), help="coefficient of eps_null")
        noise: Schedule = setting(constant(0.0), help="coefficient of the noise")
        normalize: bool = setting(False, help="divide g by its norm over the whole batch (their pixel-space default)")
        clip_first: bool = setting(False, help="with normalize: clip before that, as their code does, and not after")

        def asks(self) -> frozenset[str]:
            return super().asks() | ({"negative"} if any(self.negative.values) else set())

    def clip(self, now: Progress) -> float | None:
        s = self.settings
        return None if s.normalize and s.clip_first else super().clip(now)

    def gradient(self, look: Look) -> Tensor:
        s, now, table = self.settings, look.progress, look.guidance.table
        t = s.times(look)
        noise = look.noise()
        state = look.noised(noise, t)
        negative, null = Branch(state, "negative", s.negative.at(now)), Branch(state, "null", s.null.at(now))
        # Their code takes Perp-Neg's right angles to the negative prompt where that has a say.
        text = Branch(state, "text", s.text.at(now), negative if negative.coef != 0 else null)
        g = combine(look, [text, negative, null], table.weight(s.weight, t), noise, s.noise.at(now))
        if not s.normalize:
            return g
        if s.clip_first and (most := super().clip(now)) is not None:
            g = torch.where(g.isfinite(), g.clamp(-most, most), g)  # what is not finite must still be seen
        return g / (g.norm() + 1e-8)
