# SPDX-License-Identifier: Apache-2.0
"""What is told of an object, as a small volume, and what each cell of a picture sees of it along its ray.

A network that is told words and a camera must learn for every category how it looks from everywhere. Here tokens that
stand for places of the world attend to the words (as Perceiver's latents do, Jaegle et al. 2021) and become a volume of
16 x 16 x 16 cells; rays collect it as in NeRF (Mildenhall et al. 2020, eq. 3), with features in place of colours. So
what one picture teaches of a shape serves every camera. The volume depends on nothing noisy: of a caption it is made
once.

It can also be made from a picture of the object (its patches are more tokens to attend to; the world is then turned
with that picture's camera), and of a moment of a clip.

In training it is asked, apart from the denoising, what is seen from the batch's cameras: colour, mask, depth, normals
and the second part, at a quarter of the picture's size (`look`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext.volume import volume as look_through
from guidance.toybox.layers import WordBlock, norm, pooled, zero
from guidance.toybox.told import CAMERA_FEATURES

VOLUME_CHANNELS = 20  # the first is density
REACH = 1.0  # half the volume's edge in metres; objects have a radius of 0.9
TOKENS, PATCH = 4, 4  # along an edge; cells along the edge of what one token says
SAMPLES = 14  # along a ray, over the diameter of the volume's ball
SHIFT, GAIN = 2.0, 8.0 * 2 * REACH / SAMPLES  # density per metre is 8 softplus(first channel - 2): at 0 hardly any
GIVEN, GIVEN_PATCH = 32, 4  # a given picture's size, and that of its patches
MASK = 3  # among what is shown
SHOWN = 9  # colour over black (3), mask, distance before the centre, normal in the camera's axes (3), second part


@dataclass(frozen=True)
class Given:
    """A clean picture of each object."""

    picture: Tensor  # [M, S, S, 3] in [-1, 1]
    camera: Tensor  # [M, features]
    there: Tensor  # [M] bool; others have none


class Volume(nn.Module):
    """Words, and what else is told of an object, to cells over the cube of REACH."""

    def __init__(self, words: int, channels: int, moments: int, blocks: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.place = nn.Parameter(0.3 * torch.randn(TOKENS**3, words))
        self.blocks = nn.ModuleList(WordBlock(words) for _ in range(blocks))
        self.out = nn.Linear(words, PATCH**3 * channels)
        self.look = nn.Linear(channels + 1, SHOWN)
        self.given_place = nn.Parameter(0.3 * torch.randn((GIVEN // GIVEN_PATCH) ** 2, words))
        self.patch = nn.Linear(3 * GIVEN_PATCH**2, words)
        self.given_camera = nn.Linear(CAMERA_FEATURES, words, bias=False)
        self.moment = nn.Linear(2 * moments, words, bias=False) if moments else None
        if self.moment is not None:
            zero(self.moment)

    def forward(self, words: Tensor, mask: Tensor, moment: Tensor | None = None, given: Given | None = None) -> Tensor:
        """words [M, L, D] with their mask; moment [M, features] of the frames of a clip -> [M, z, y, x, C]."""
        place = self.place.to(words.dtype).expand(len(words), -1, -1)
        if moment is not None and self.moment is not None:
            place = place + self.moment(moment.to(self.place.dtype))[:, None].to(words.dtype)
        told, masks = [place, words], [mask]
        if given is not None:
            told.append(self._patches(given).to(words.dtype))
            hidden = ~given.there[:, None].expand(-1, told[-1].shape[1])
            masks.append(torch.zeros(hidden.shape, device=mask.device).masked_fill(hidden, -torch.inf))
        x, mask = torch.cat(told, 1), F.pad(torch.cat(masks, 1), (TOKENS**3, 0))
        for block in self.blocks:
            x = block(x, mask)
        said = self.out(norm(x[:, : TOKENS**3])).float().unflatten(-1, (*3 * [PATCH], self.channels))
        said = said.unflatten(1, 3 * [TOKENS]).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return said.reshape(len(x), *3 * [TOKENS * PATCH], self.channels)

    def _patches(self, given: Given) -> Tensor:  # [M, N, D]
        picture = given.picture
        while picture.shape[1] > GIVEN:
            picture = pooled(picture)
        count = picture.shape[1] // GIVEN_PATCH
        cut = picture.reshape(-1, count, GIVEN_PATCH, count, GIVEN_PATCH, 3).permute(0, 1, 3, 2, 4, 5)
        flat = cut.reshape(len(picture), count * count, -1).to(self.place.dtype)
        camera = self.given_camera(given.camera[:, :CAMERA_FEATURES].to(self.place.dtype))
        return self.patch(flat) + self.given_place[: count * count] + camera[:, None]


def seen_along(volume: Tensor, row: Tensor, rays: Tensor) -> Tensor:
    """[K, z, y, x, C], which of them each picture looks at [B], and its `ray_features` [B, h, w, RAY_CHANNELS] ->
    [B, h, w, C + 1]: features, each where the ray ends; how much of it ends; how far before the centre."""
    near, direction = rays[..., :3].flatten(1, 2), rays[..., 3:6].flatten(1, 2)
    seen = look_through(volume, row, near, direction, samples=SAMPLES, reach=REACH, shift=SHIFT, gain=GAIN)
    return seen.unflatten(1, rays.shape[1:3])
