# SPDX-License-Identifier: Apache-2.0
"""Semantic-geometric calibration, after TV-3DG (Yang et al. 2024, arXiv:2410.21299): L = a (1 - cos(f(render),
f(reference))) + b mean |d(render) - d(reference)|, against pictures of the same cameras.

A reconstruction from a figure of the paper. d is depth over the covered pixels, its mean taken out and its mean
deviation set to one, so that scale and shift are free. f are the features of the guidance or of the picture itself
(`engine.features`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cards import RuleCard
from dreamlab.core.schedules import Schedule, ramp
from dreamlab.core.settings import setting
from systems.engine.features import of_pictures
from systems.engine.residual import Look
from systems.engine.rule import Rule, RuleSettings


class SGC(Rule["SGC.Settings"]):
    """What is shown and how deep it lies, as in reference views (reconstruction)."""

    paper: ClassVar[str] = "Yang et al. 2024, arXiv:2410.21299 (reconstructed)"
    cost: ClassVar[str] = "0"
    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    @dataclass(frozen=True)
    class Settings(RuleSettings):
        semantic: Schedule = setting(ramp(0.5, 0.0), low=0, help="a; strongest in the first half")
        geometric: Schedule = setting(ramp(0.5, 0.0), low=0, help="b")

    @classmethod
    def card(cls, settings: Settings) -> RuleCard:
        maps = frozenset({"depth"}) if max(settings.geometric.values) > 0 else frozenset()
        return replace(super().card(settings), colours=True, maps=maps)

    def loss(self, look: Look) -> Tensor:
        c, frames, truth = self.settings, look.frames, look.conditions["truth"].rows
        if frames is None:
            raise ValueError("sgc: needs the frames, give them to Look")
        mine, theirs = (of_pictures(look.guidance, rgb) for rgb in (frames.rgb, truth["rgb"]))
        alike = F.cosine_similarity(mine, theirs.detach(), dim=1).mean()
        there = (frames.alpha.detach() > 0.5) & (truth["alpha"] > 0.5)
        apart = (levelled(frames.depth, there) - levelled(truth["depth"], there)).abs()
        apart = (apart * there).sum() / there.sum().clamp(min=1)
        return c.semantic.at(look.progress) * (1 - alike) + c.geometric.at(look.progress) * apart


def levelled(depth: Tensor, there: Tensor) -> Tensor:
    """Depth about its mean over the pixels `there`, in units of its mean deviation."""
    weight = there.to(depth)
    count = weight.sum((1, 2, 3), keepdim=True).clamp(min=1)
    centred = weight * (depth - (weight * depth).sum((1, 2, 3), keepdim=True) / count)
    return centred / (centred.abs().sum((1, 2, 3), keepdim=True) / count).clamp(min=1e-6)
