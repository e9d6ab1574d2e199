# SPDX-License-Identifier: Apache-2.0
"""Pictures as vectors, for rules that ask how alike two are: the guidance's own features where it sees any, else the
picture's 8 x 8 means about their own mean."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.types import Featuring, Guidance


def of_pictures(guidance: Guidance, rgb: Tensor) -> Tensor:
    """[B, F] of pictures [B, H, W, 3]."""
    return guidance.features(rgb) if isinstance(guidance, Featuring) else means(rgb.permute(0, 3, 1, 2))


def of_latents(guidance: Guidance, z: Tensor) -> Tensor:
    """[B, F] of clean latents [B, C, h, w], decoded only for a guidance that sees features."""
    return guidance.features(guidance.decode(z)) if isinstance(guidance, Featuring) else means(z)


def means(maps: Tensor) -> Tensor:  # [B, C, H, W] -> [B, F]
    """Of 8 x 8 parts; of the whole where there are fewer pixels than that."""
    small = F.adaptive_avg_pool2d(maps, 8 if min(maps.shape[-2:]) >= 8 else 1).flatten(1)
    return small - small.mean(1, keepdim=True)
