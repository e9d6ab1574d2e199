# SPDX-License-Identifier: Apache-2.0
"""The prompt's picture as the truth of its own camera: colour and mask; depth and normals where somebody knows them.

What it shows is known of the given views alone (`views: given`); its colours are those of every side. As a diffusion
model it is certain, like `truth`: eps = (z_t - a x0) / s.
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
from dreamlab.core.colours import oklab
from dreamlab.core.errors import InputError
from dreamlab.core.noise import TABLES
from dreamlab.core.safemath import srgb_to_linear
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt, Reference
from guidance.shared.known import CERTAIN, Certain
from guidance.shared.worlds import Worlds

ANYWHERE = frozenset({"colours"})  # conditions that hold of any view
LOOKED = 48  # pixels a side from which its colours are read, unmixed
SHADES = 32  # of a channel, in the table of colours
ALIKE = 0.02  # OKLab distance of colours that are one


class Picture(Certain):
    """The given picture, for terms that compare the views of its own camera with it."""

    paper: ClassVar[str] = "the given picture"

    @dataclass(frozen=True)
    class Settings:
        table: str = setting("cosine", choices=TABLES, help="noise table")

    @staticmethod
    def card(settings: Settings) -> GuidanceCard:
        return GuidanceCard(CERTAIN | ANYWHERE, views="given", anywhere=ANYWHERE, picture=True)

    @staticmethod
    def build(settings: Settings, worlds: Worlds | None) -> Picture:
        return Picture(settings)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.table)
        self._fitted: tuple[Reference, int, torch.device, dict[str, Tensor]] | None = None
        self._colours: tuple[Reference, torch.device, Tensor] | None = None

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        """What the picture shows, over each view's own background, at the frames' size; and its colours."""
        if prompt.image is None:
            raise InputError("picture: the prompt has no picture; give one with --image")
        maps = self._at(prompt.image, frames.rgb.shape[1], frames.rgb.device)
        rows = {name: value.expand(len(cameras), -1, -1, -1) for name, value in maps.items()}
        rgb = rows["rgb"] + (1 - rows["alpha"]) * frames.background[:, None, None]
        hidden = (1 - facing(cameras) @ facing(prompt.image.camera.to(rgb.device))[0]) / 2
        near = self._near(prompt.image, rgb.device)
        return {"truth": Condition({**rows, "rgb": rgb}), "colours": Condition({"hidden": hidden}, {"near": near})}

    def _near(self, given: Reference, device: torch.device) -> Tensor:
        """Its table of colours, made once."""
        if self._colours is None or self._colours[:2] != (given, device):
            self._colours = (given, device, near_colours(given).to(device))
        return self._colours[2]

    def _at(self, given: Reference, size: int, device: torch.device) -> dict[str, Tensor]:
        """Its maps at `size`, [1, size, size, C] each; made again only when the size of the frames changes."""
        if self._fitted is None or self._fitted[:3] != (given, size, device):
            self._fitted = (given, size, device, fitted(given, size, device))
        return self._fitted[3]


def facing(cameras: Cameras) -> Tensor:  # [B, 3]
    """Where each looks from, a unit vector."""
    return cameras.camera_to_world[:, :3, 2]


def near_colours(given: Reference) -> Tensor:  # [SHADES, SHADES, SHADES, 3]
    """Of every colour (red, green, blue, at the middle of its cell) what a picture has in its place: the mean of the
    picture's colours by how near they are, and so of those that it has much of before those that it hardly has."""
    places = ((torch.arange(LOOKED) + 0.5) / LOOKED)[:, None]
    rows, columns = ((places[:, 0] * count).long() for count in given.alpha.shape[:2])
    rgb, alpha = (value.cpu()[rows][:, columns] for value in (given.rgb, given.alpha))
    solid = alpha[..., 0] > 0.9
    own = rgb[solid if bool(solid.any()) else alpha[..., 0] > 0]
    line = (torch.arange(SHADES) + 0.5) / SHADES
    every = torch.cartesian_prod(line, line, line)
    apart = torch.cdist(oklab(srgb_to_linear(every)), oklab(srgb_to_linear(own)))
    return ((-apart.square() / (2 * ALIKE**2)).softmax(1) @ own).reshape(SHADES, SHADES, SHADES, 3)


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
