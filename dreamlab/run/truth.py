# SPDX-License-Identifier: Apache-2.0
"""How near a scene that forms is to what its prompt means, where the prompt is of the procedural world.

The world's object is drawn from the cameras of a preview. Nothing is turned before the two are compared, as the judge
of finished assets turns nothing: the cameras told everyone where the front is. A prompt does not fix proportions; what
is compared with is the instance of the run's seed, so a prior that learnt from others comes near it and no nearer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.types import Frames, Prompt
from dreamlab.recipe import Recipe
from dreamlab.run.preview import SHOWN, orbit_views, to_bytes
from dreamlab.run.worlds import true_pictures
from renderers.surface.views import silhouette_iou


class TrueViews(NamedTuple):
    """A preview's four views of what a prompt means, over white; on the host."""

    rgb: Tensor  # [4, H, W, 3]
    alpha: Tensor  # [4, H, W, 1]


TruthOf = Callable[[int, int], TrueViews]  # of a prompt, so many pixels a side


def true_views(recipe: Recipe, prompts: Sequence[Prompt]) -> TruthOf | None:
    """The views of each prompt, drawn when they are asked for; none where one of the prompts is not of the world."""
    try:
        looks = [true_pictures(prompt, recipe.seed) for prompt in prompts]
    except InputError:
        return None

    @lru_cache(maxsize=2 * SHOWN)
    def views(which: int, size: int) -> TrueViews:
        with torch.no_grad():
            drawn = looks[which](orbit_views(4), size)
        return TrueViews((drawn.rgb + 1 - drawn.alpha)[0], drawn.alpha[0])

    return views


def nearness(truth: Sequence[TrueViews], seen: Sequence[Frames]) -> dict[str, float]:
    """Overlap of silhouettes, and dB of the pictures over white; means over prompts."""
    pairs = [(true, frames.rgb.cpu(), frames.alpha.cpu()) for true, frames in zip(truth, seen, strict=True)]
    iou = np.mean([silhouette_iou(true.alpha, alpha) for true, _, alpha in pairs])
    off = [float((true.rgb - rgb.clamp(0, 1)).square().mean()) for true, rgb, _ in pairs]
    return {"iou": round(float(iou), 4), "psnr": round(float(np.mean(-10 * np.log10(np.maximum(off, 1e-10)))), 2)}


def sheet(truth: Sequence[TrueViews]) -> list[np.ndarray]:
    """The pictures of a sheet of four columns."""
    return [view for true in truth for view in to_bytes(true.rgb)]
