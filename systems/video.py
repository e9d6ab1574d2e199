# SPDX-License-Identifier: Apache-2.0
"""Distillation of a video model on clips of a moving scene (4D-fy, Bahmani et al. 2023, arXiv:2311.17984; motion
amplifier of Align Your Gaussians, Ling et al. 2023, arXiv:2312.13763): one time for a clip, noise of its own per frame.

sds: g = w (cfg(eps) - n); csd: g = w (eps_text - eps_null). The amplifier adds `amplify` times what a frame's text
direction differs by from the mean of its clip, d_i <- d_i + amplify (d_i - mean d), which adds up to nothing. Rows are
clips of `frames`, in order of time; the guidance must say that it scores clips (`clip`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from dreamlab.core.cards import RuleCard
from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import setting
from systems.engine.residual import Look, paired, per_row
from systems.engine.rule import NoiseSettings, Rule


class Video(Rule["Video.Settings"]):
    """SDS or CSD of whole clips, with the motion in the model's answer turned up."""

    paper: ClassVar[str] = "Bahmani et al. 2023, arXiv:2311.17984; Ling et al. 2023, arXiv:2312.13763"
    cost: ClassVar[str] = "2"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        form: str = setting("sds", choices=("sds", "csd"))
        cfg: Schedule = setting(constant(101.0), low=0, help="sds: 100 in their form; csd: the factor of its direction")
        frames: int = setting(16, low=2, high=256, help="of one clip")
        amplify: Schedule = setting(constant(0.0), low=0, help="of the motion in the text's direction")

    @classmethod
    def card(cls, settings: Settings) -> RuleCard:
        return replace(super().card(settings), views=settings.frames, clip=True, rescales=settings.form == "sds")

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        folded, moments = look.fold
        rows = c.frames // folded  # of a clip: its frames, or one where the model's latents are whole clips
        if len(look.z) % rows or c.frames % folded:
            raise ValueError(f"video: {len(look.z) * folded} views are not clips of {c.frames} frames")
        clips = look.timesteps(c.t_min.at(now), c.t_max.at(now)).reshape(-1, rows)
        t = clips[:, :1].expand(-1, rows).reshape(-1)
        noise = look.noise()
        state = look.noised(noise, t)
        text, null = look.predict(paired(state))
        direction = amplified(text - null, rows, c.amplify.at(now), moments)
        g = c.cfg.at(now) * direction + (null - noise if c.form == "sds" else 0.0)
        if c.form == "sds":
            g = g + (look.settled(state, g + noise, text) - (g + noise))
        return per_row(table.weight(c.weight, t), g) * g


def amplified(direction: Tensor, rows: int, strength: float, moments: int = 1) -> Tensor:
    """Of [clips rows, C moments, h, w]: each frame's difference from its clip's mean, 1 + strength times as large."""
    clips = direction.unflatten(0, (-1, rows)).unflatten(2, (-1, moments))
    moved = clips + strength * (clips - clips.mean((1, 3), keepdim=True))
    return moved.flatten(2, 3).flatten(0, 1)
