# SPDX-License-Identifier: Apache-2.0
"""A given picture as pretrained models look at it: before a plain background, as CLIP's picture towers take it, and
encoded once for a run, after which the encoder is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.types import Prompt, Reference

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, of pictures in [0, 1]


def before(given: Reference, gray: float) -> Tensor:  # [1, H, W, 3]
    """The picture's object before a background of one gray."""
    return (given.rgb * given.alpha + gray * (1 - given.alpha))[None]


def clip_pixels(rgb: Tensor, side: int, sharp: bool = False) -> Tensor:
    """[B, H, W, 3] -> [B, 3, side, side], bicubic and normalised as CLIP's are. `sharp` is Zero123's own way, which it
    was trained with: corners aligned, nothing averaged when the picture shrinks."""
    x, size = rgb.permute(0, 3, 1, 2), (side, side)
    if sharp:
        x = F.interpolate(2 * x - 1, size, mode="bicubic", align_corners=True) / 2 + 0.5
    else:
        x = F.interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 1)
    return normalised(x)


def normalised(x: Tensor) -> Tensor:
    """[B, 3, H, W] in [0, 1] as CLIP's pictures are."""
    mean, std = (x.new_tensor(value)[:, None, None] for value in (MEAN, STD))
    return (x - mean) / std


def softened(picture: Tensor, size: int) -> Tensor:
    """[1, 3, H, W] -> [1, 3, size, size] as Stable Video Diffusion was trained to see it: a Gaussian that grows with
    the factor of shrinking, then cubic with corners on corners."""
    for axis in (3, 2):
        factor = picture.shape[axis] / size
        sigma = max((factor - 1) / 2, 1e-3)
        taps = int(max(4 * sigma, 3)) | 1
        x = torch.arange(taps, device=picture.device) - taps // 2
        weights = torch.exp(-x.square() / (2 * sigma**2))
        shape = [1, 1, 1, 1]
        shape[axis] = taps
        kernel = (weights / weights.sum()).to(picture.dtype).reshape(shape).expand(3, 1, -1, -1)
        edge = (taps // 2, taps // 2, 0, 0) if axis == 3 else (0, 0, taps // 2, taps // 2)
        picture = F.conv2d(F.pad(picture, edge, mode="reflect"), kernel, groups=3)
    return F.interpolate(picture, (size, size), mode="bicubic", align_corners=True)


def followed(prompt: Prompt, name: str) -> Reference:
    """The prompt's picture, for a model that follows one."""
    if prompt.image is None:
        raise InputError(f"{name}: follows a picture and the prompt has none; give one with --image")
    return prompt.image


class SeenPictures:
    """What given pictures are to a model, as tables on its device; `look` has the encoder in memory for a while."""

    def __init__(self, look: Callable[[Reference], Mapping[str, Tensor]]) -> None:
        self._look, self._tables = look, WeakKeyDictionary[Reference, Mapping[str, Tensor]]()  # as long as the run
        self.times_looked = 0

    def __getitem__(self, given: Reference) -> Mapping[str, Tensor]:
        if given not in self._tables:
            with torch.no_grad():
                self._tables[given] = self._look(given)
            self.times_looked += 1
        return self._tables[given]

    def forget(self) -> None:
        """The device has changed."""
        self._tables.clear()
