# SPDX-License-Identifier: Apache-2.0
"""The prompt's picture as a pretrained model is shown it: once for a picture, over one backdrop, as rows of a condition
that stay on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.types import Prompt, Reference

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's pictures


class Pictured:
    """What `show` makes of the prompt's picture [1, 3, H, W] in [0, 1], kept for as long as the picture is the same."""

    def __init__(self, backdrop: float, show: Callable[[Tensor], Mapping[str, Tensor]]) -> None:
        self.backdrop, self.show = backdrop, show
        self._kept: tuple[Reference, torch.device, dict[str, Tensor]] | None = None

    def rows(self, prompt: Prompt, device: torch.device) -> Mapping[str, Tensor]:
        """[1, ...] each."""
        image = prompt.image
        if image is None:
            raise InputError("the model follows a picture and the prompt has none; give one with --image")
        if self._kept is None or self._kept[:2] != (image, device):
            rgb = image.rgb * image.alpha + self.backdrop * (1 - image.alpha)
            with torch.no_grad():
                made = self.show(rgb.permute(2, 0, 1)[None].to(device).float())
            self._kept = (image, device, dict(made))
        return self._kept[2]


def clip_pixels(picture: Tensor, size: int) -> Tensor:
    """[1, 3, H, W] in [0, 1] as CLIP's own preprocessing: the shorter side to `size`, the middle of it, normalised."""
    height, width = picture.shape[-2:]
    if min(height, width) != size:
        scale = size / min(height, width)
        shape = (max(size, round(height * scale)), max(size, round(width * scale)))
        picture = F.interpolate(picture, shape, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (picture.shape[-2] - size) // 2, (picture.shape[-1] - size) // 2
    return clip_normal(picture[..., top : top + size, left : left + size])


def clip_normal(picture: Tensor) -> Tensor:
    mean, std = (picture.new_tensor(value).reshape(1, 3, 1, 1) for value in (MEAN, STD))
    return (picture - mean) / std


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
