# SPDX-License-Identifier: Apache-2.0
"""Classifier score matching, after TV-3DG (Yang et al. 2024, arXiv:2410.21299): g = s w(t) (eps_text - eps_null)(z_t),
z_t by DDIM inversion instead of random noise.

A reconstruction from the abstract and a figure: no code and no weights are published. With no denoising force the
residual vanishes where text and null agree; keep t_max at 0.5 late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.noise import WEIGHTS
from dreamlab.core.schedules import Schedule, When, constant, ramp
from dreamlab.core.settings import setting
from systems.inversion import at, invert, offset_noise
from systems.residual import Branch, Look, Stateless, combine

WARM = When(1500, "steps")


class CSM(Stateless):
    """The text's direction alone, read at a noisy state that the render itself leads to (reconstruction)."""

    paper: ClassVar[str] = "Yang et al. 2024, arXiv:2410.21299 (reconstructed)"
    cost: ClassVar[str] = "at most 5 + 2"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})

    @dataclass(frozen=True)
    class Settings:
        scale: Schedule = setting(constant(7.5), low=0, help="s")
        against: str = setting("null", choices=("null", "negative"), help="what is subtracted")
        t_min: Schedule = setting(constant(0.02), low=0, high=1)
        t_max: Schedule = setting(ramp(0.98, 0.5, end=WARM), low=0, high=1)
        stride: float = setting(0.2, above=0, high=1, help="of the inversion's steps, fraction of the table")
        max_steps: int = setting(5, low=1, high=100)
        offset: float = setting(0.1, low=0, help="strength of the channel-wise offset noise")
        weight: str = setting("ism", choices=WEIGHTS, help="w(t)")
        clip: float | None = setting(None, above=0)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        t = look.time_index(c.t_min.at(now), c.t_max.at(now))
        walk = invert(look, t, offset_noise(look, c.offset), look.index(c.stride), c.max_steps)
        scale = c.scale.at(now)
        branches = [Branch(walk.state, "text", scale), Branch(walk.state, c.against, -scale)]
        return combine(look, branches, table.weight(c.weight, at(look, t)))
