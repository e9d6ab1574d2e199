# SPDX-License-Identifier: Apache-2.0
"""The truth: pictures of one known object from any camera, for rules that compare pictures (reconstruction).

As a diffusion model it is the oracle of a world that holds one picture per camera and no doubt:
x0hat = x0, so eps = (z_t - a x0) / s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch

from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import GuidanceCard
from dreamlab.core.noise import TABLES
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt
from guidance.shared.known import CERTAIN, Certain
from guidance.shared.worlds import Sight, Worlds


class Truth(Certain):
    """Exact pictures, masks, depths and normals of the prompt's object in the procedural world, moving if it moves."""

    paper: ClassVar[str] = "known pictures"

    @dataclass(frozen=True)
    class Settings:
        table: str = setting("cosine", choices=TABLES, help="noise table")

    @staticmethod
    def card(settings: Settings) -> GuidanceCard:
        return GuidanceCard(CERTAIN, world=True)

    @staticmethod
    def build(settings: Settings, worlds: Worlds | None) -> Truth:
        assert worlds is not None
        return Truth(settings, cache(worlds.truth))

    def __init__(self, settings: Settings, worlds: Callable[[Prompt], Sight]) -> None:
        super().__init__(settings.table)
        self._worlds = worlds
        self._sight: tuple[Prompt, Sight] | None = None

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        """What these cameras see, over the same background as the frames."""
        if self._sight is None or self._sight[0] != prompt:
            self._sight = (prompt, self._worlds(prompt))
        with torch.no_grad():
            shown = self._sight[1](cameras, frames.rgb.shape[1])
            rgb = shown.rgb[0] + (1 - shown.alpha[0]) * frames.background[:, None, None]
        rows = {"rgb": rgb, "alpha": shown.alpha[0], "depth": shown.depth[0], "normal": shown.normal[0]}
        return {"truth": Condition(rows)}
