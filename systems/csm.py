# SPDX-License-Identifier: Apache-2.0
"""Classifier score matching, after TV-3DG (Yang et al. 2024, arXiv:2410.21299): g = s w(t) (eps_text - eps_null)(z_t),
z_t by DDIM inversion instead of random noise.

A reconstruction from the abstract and a figure: no code and no weights are published. `visual` is their VPCSM: the
guidance answers the prompt with a reference picture in its cross-attention (IP-Adapter's decoupled form). With no
denoising force the residual vanishes where text and null agree; keep t_max at 0.5 late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.schedules import Schedule, When, constant
from dreamlab.core.settings import setting
from systems.engine.inversion import PathSettings, at, invert
from systems.engine.residual import Look, combine, paired
from systems.engine.rule import Rule

WARM = When(1500, "steps")


class CSM(Rule["CSM.Settings"]):
    """The text's direction alone, read at a noisy state that the render itself leads to (reconstruction)."""

    paper: ClassVar[str] = "Yang et al. 2024, arXiv:2410.21299 (reconstructed)"
    cost: ClassVar[str] = "at most 5 + 2"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})

    @dataclass(frozen=True)
    class Settings(PathSettings):
        scale: Schedule = setting(constant(7.5), low=0, help="s")
        visual: bool = setting(False, help="VPCSM: the prompt with a reference picture through decoupled attention")

        def asks(self) -> frozenset[str]:
            return super().asks() | ({"visual"} if self.visual else set())

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        t = c.time(look)
        state = invert(look, t, c)
        scale = c.scale.at(now)
        branches = paired(state, "visual" if c.visual else "text", c.against, (scale, -scale))
        return combine(look, branches, table.weight(c.weight, at(look, t)))
