# SPDX-License-Identifier: Apache-2.0
"""The prompt's picture as the truth of its own camera: colour and mask; depth and normals where somebody knows them.

It answers terms that see the given views alone (`views: given`); elsewhere nothing is known. As a diffusion model it is
certain, like `truth`: eps = (z_t - a x0) / s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import GuidanceCard
from dreamlab.core.errors import InputError
from dreamlab.core.noise import TABLES
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt, Reference
from guidance.shared.known import CERTAIN, Certain
from guidance.shared.worlds import Worlds


class Picture(Certain):
    """The given picture, for terms that compare the views of its own camera with it."""

    paper: ClassVar[str] = "the given picture"

    @dataclass(frozen=True)
    class Settings:
        table: str = setting("cosine", choices=TABLES, help="noise table")

    @staticmethod
    def card(settings: Settings) -> GuidanceCard:
        return GuidanceCard(CERTAIN, views="given", picture=True)

    @staticmethod
    def build(settings: Settings, worlds: Worlds | None) -> Picture:
        return Picture(settings)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.table)
        self._fitted: tuple[Reference, int, torch.device, dict[str, Tensor]] | None = None

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        """What the picture shows, over each view's own background, at the frames' size."""
        if prompt.image is None:
            raise InputError("picture: the prompt has no picture; give one with --image")
        maps = self._at(prompt.image, frames.rgb.shape[1], frames.rgb.device)
        rows = {name: value.expand(len(cameras), -1, -1, -1) for name, value in maps.items()}
        rgb = rows["rgb"] + (1 - rows["alpha"]) * frames.background[:, None, None]
        return {"truth": Condition({**rows, "rgb": rgb})}

    def _at(self, given: Reference, size: int, device: torch.device) -> dict[str, Tensor]:
        """Its maps at `size`, [1, size, size, C] each; made again only when the size of the frames changes."""
        if self._fitted is None or self._fitted[:3] != (given, size, device):
            self._fitted = (given, size, device, fitted(given, size, device))
        return self._fitted[3]


def fitted(given: Reference, size: int, device: torch.device) -> dict[str, Tensor]:
    """rgb and normal premultiplied; depth is a mean over the part of a pixel that the object covers."""
    alpha = given.alpha.to(device)
    maps = {"rgb": given.rgb.to(device) * alpha, "alpha": alpha}
    if given.normal is not None:
        maps["normal"] = given.normal.to(device) * alpha
    if given.depth is not None:
        maps["depth"] = given.depth.to(device) * alpha
    small = {name: resized(value, size) for name, value in maps.items()}
    if "depth" in small:
        small["depth"] = small["depth"] / small["alpha"].clamp(min=1e-6)
    return small


def resized(image: Tensor, size: int) -> Tensor:  # [H, W, C] -> [1, size, size, C]
    picture = image.permute(2, 0, 1)[None]
    if picture.shape[-2:] != (size, size):
        picture = F.interpolate(picture, (size, size), mode="bilinear", antialias=True)
    return picture.permute(0, 2, 3, 1)
