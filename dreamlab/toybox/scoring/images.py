# SPDX-License-Identifier: Apache-2.0
"""The image role's score: pictures that a prior draws of held-out prompts, judged one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.metrics import colours
from dreamlab.metrics.asset import DISTANCE, FOVY_DEG, instances
from dreamlab.metrics.judge import Judge, judge
from dreamlab.metrics.judge_net import SIZE, with_silhouette
from dreamlab.metrics.measure import READERS, parse_plain
from dreamlab.toybox.caption import Caption
from dreamlab.toybox.training.sample import sample
from guidance.toybox.prior import Toybox

AZIMUTHS = (30.0, -50.0, 110.0, -140.0)  # in turn
ELEVATION = 20.0
LEAST_SHAPE = 0.3  # of a part's pixels that must differ from the background before the silhouette is believed


@dataclass(frozen=True)
class Judged:
    """One sample and what was found in it."""

    prompt: str
    accepted: bool
    category: str
    score: float
    main_right: bool
    second_right: bool | None

    @property
    def right(self) -> bool:
        """Category accepted and both colours right."""
        return self.accepted and self.main_right and self.second_right is not False


@dataclass(frozen=True)
class ImageScore:
    """Of all samples."""

    count: int
    accepted: float
    colours_right: float
    right: float  # accepted with category and both colours right: the floor's figure
    pictures: tuple[Judged, ...]
    rgb: Tensor  # [N, S, S, 3]


def score_images(
    prompts: Sequence[str],
    prior: Toybox | Path | str,
    *,
    with_judge: Judge | None = None,
    scale: float = 4.0,
    steps: int = 25,
    seed: int = 0,
    device: str = "cpu",
) -> ImageScore:
    """One sample for each prompt, from cameras all around in turn."""
    if not isinstance(prior, Toybox):
        prior = Toybox(Toybox.Settings(weights=str(prior))).to(device)
    cameras = cameras_for(len(prompts))
    rgb = torch.cat(
        [
            sample(prior, prompts[i : i + 16], cameras[i : i + 16], scale, steps, seed + i).cpu()
            for i in range(0, len(prompts), 16)
        ]
    )
    return judged(prompts, rgb, with_judge)


def cameras_for(count: int) -> Cameras:
    """From which so many pictures are drawn and judged."""
    azimuth = [AZIMUTHS[i % len(AZIMUTHS)] for i in range(count)]
    return orbit(azimuth, ELEVATION, DISTANCE, FOVY_DEG)


def judged(prompts: Sequence[str], rgb: Tensor, with_judge: Judge | None = None) -> ImageScore:
    """Pictures [N, S, S, 3] of the prompts from `cameras_for` so many."""
    captions, cameras = [parse_plain(prompt) for prompt in prompts], cameras_for(len(prompts))
    found = [judge_picture(rgb[i], captions[i], cameras[i : i + 1], with_judge) for i in range(len(prompts))]
    pictures = tuple(Judged(prompt, *one) for prompt, one in zip(prompts, found, strict=True))
    count = max(len(pictures), 1)
    return ImageScore(
        len(pictures),
        sum(p.accepted for p in pictures) / count,
        sum(p.main_right and p.second_right is not False for p in pictures) / count,
        sum(p.right for p in pictures) / count,
        pictures,
        rgb,
    )


def judge_picture(
    rgb: Tensor, caption: Caption, camera: Cameras, with_judge: Judge | None = None
) -> tuple[bool, str, float, bool, bool | None]:
    """One picture [S, S, 3] over a solid background: accepted, category, probability, main and second colour right.

    Colours are read where the parts of several true instances project from this camera, within the picture's own
    silhouette where it has one.
    """
    it = with_judge or judge()
    accepted, score = it.pictures(rgb[None], caption.category)
    probability = it.look(rgb[None])
    where = colours.stencil(caption.category, camera, SIZE, instances(caption.category, READERS))
    alpha = (with_silhouette(rgb[None])[..., 3:] + 1) / 2
    alpha = (alpha > 0.5).float()
    region = where.share.amax(0) > 0.5
    if float(alpha[..., 0][region].mean() if bool(region.any()) else 0.0) < LEAST_SHAPE:
        alpha = torch.ones_like(alpha)
    read = colours.read(rgb[None] * alpha, alpha, caption, where)
    second = read[1].right if len(read) > 1 else None
    if len(read) > 1 and not bool((where.share[1] > 0).any()):
        second = None  # hidden from this camera
    return bool(accepted), it.name(int(probability.argmax())), float(score), read[0].right, second
