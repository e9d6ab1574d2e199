# SPDX-License-Identifier: Apache-2.0
"""The order loss of ConsDreamer (arXiv:2504.02316): away from the front, a view must look less and less like it.

L = sum over views in order of azimuth distance of relu(c_next - c_here), c the cosine between the features of a view's
denoised picture x0(null) and those of the front-most one. g = dL/dz with dx0/dz = 1 (the network is held fixed).
Features are CLIP's in the paper; here those of the guidance or of the picture itself (`engine.features`). Use it as a
second term beside a rule that paints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cards import RuleCard
from dreamlab.core.noise import WEIGHTS
from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import setting
from systems.engine.features import of_latents
from systems.engine.residual import Branch, Look, per_row
from systems.engine.rule import NoiseSettings, Rule


class Order(Rule["Order.Settings"]):
    """Punish a back that looks more like the front than the side does: against Janus."""

    paper: ClassVar[str] = "ConsDreamer 2025, arXiv:2504.02316 (features: ours)"
    cost: ClassVar[str] = "1"
    needs: ClassVar[frozenset[str]] = frozenset({"null"})

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        t_max: Schedule = setting(constant(0.5), low=0, high=1)
        weight: str = setting("uniform", choices=WEIGHTS, help="w(t)")

    @classmethod
    def card(cls, settings: Settings) -> RuleCard:
        return replace(super().card(settings), least=3)

    def gradient(self, look: Look) -> Tensor:
        c, table = self.settings, look.guidance.table
        if look.cameras is None:
            raise ValueError("order needs the cameras of a step")
        t = c.times(look)
        state = look.noised(look.noise(), t)
        (eps,) = look.predict([Branch(state, "null")])
        with torch.enable_grad():
            x0 = table.x0(state.z_t, eps, t).requires_grad_()
            loss = disorder(of_latents(look.guidance, x0), look.cameras.azimuth_deg)
            (g,) = torch.autograd.grad(loss, x0)
        return per_row(table.weight(c.weight, t), g) * g


def disorder(found: Tensor, azimuth_deg: Tensor) -> Tensor:
    """By how much likeness to the front-most view rises on the way round; 0 with fewer than three views."""
    away = azimuth_deg.to(found).abs()
    order = away.argsort(stable=True)
    likeness = F.cosine_similarity(found[order[:1]].detach(), found[order[1:]], dim=1)
    return (likeness[1:] - likeness[:-1]).relu().sum()
