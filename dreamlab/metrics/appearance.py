# SPDX-License-Identifier: Apache-2.0
"""Saturation and contrast against the true pictures' distribution, and how different the results of seeds are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LUMA = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True)
class Appearance:
    """Means over the covered pixels of an asset's views."""

    saturation: float  # largest minus smallest channel, sRGB
    contrast: float  # standard deviation of luma


def appearance(rgb: Tensor, alpha: Tensor) -> Appearance:
    """Of views premultiplied over black [V, S, S, 3] with alpha [V, S, S, 1]; nothing covered gives zeros."""
    solid = alpha[..., 0] > 0.5
    if int(solid.sum()) < 2:
        return Appearance(0.0, 0.0)
    seen = (rgb / alpha.clamp(min=1e-3)).clamp(0, 1)[solid]
    saturation = (seen.amax(1) - seen.amin(1)).mean()
    return Appearance(float(saturation), float((seen @ seen.new_tensor(LUMA)).std()))


def deviation(value: float, truths: Sequence[float], floor: float = 0.02) -> float:
    """How many standard deviations of the true ones a value is off; `floor` bounds the deviation from below."""
    true = torch.tensor(list(truths), dtype=torch.float64)
    spread = float(true.std()) if len(true) > 1 else 0.0
    return (value - float(true.mean())) / max(spread, floor)


def diversity(features: Sequence[Tensor]) -> float | None:
    """Mean pairwise cosine distance of the results' mean features [F]; None with fewer than two results."""
    if len(features) < 2:
        return None
    unit = torch.nn.functional.normalize(torch.stack(list(features)), dim=1)
    like = unit @ unit.T
    count = len(unit)
    return float((count * count - like.sum()) / (count * (count - 1)))
