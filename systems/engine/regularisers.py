# SPDX-License-Identifier: Apache-2.0
"""Losses on the frames themselves, by name: one function each; a recipe gives the schedule of its weight."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dreamlab.core.types import Frames, Scene


def opacity(frames: Frames) -> Tensor:
    """Sparsity (DreamFusion): mean sqrt(alpha^2 + 0.01); keeps fog from filling the view."""
    return (frames.alpha.square() + 0.01).sqrt().mean()


def opaque(frames: Frames) -> Tensor:
    """Binary entropy of alpha: a pixel is object or background, not haze."""
    alpha = frames.alpha.clamp(1e-3, 1 - 1e-3)
    return torch.nn.functional.binary_cross_entropy(alpha, alpha)


def smooth_rgb(frames: Frames) -> Tensor:
    """Total variation of the picture (LucidDreamer)."""
    return _total_variation(frames.rgb)


def smooth_depth(frames: Frames) -> Tensor:
    """Total variation of the depth (LucidDreamer)."""
    return _total_variation(frames.depth)


def _total_variation(image: Tensor) -> Tensor:
    across = (image[:, :, 1:] - image[:, :, :-1]).abs().mean()
    return across + (image[:, 1:] - image[:, :-1]).abs().mean()


REGULARISERS: dict[str, Callable[[Frames], Tensor]] = {
    "opacity": opacity,
    "opaque": opaque,
    "smooth_rgb": smooth_rgb,
    "smooth_depth": smooth_depth,
}


def penalty(name: str, scene: Scene, frames: Frames) -> Tensor:
    """A regulariser by its recipe name: of the frames, else one that the scene computes from its own state."""
    return REGULARISERS[name](frames) if name in REGULARISERS else scene.penalty(name, frames)
