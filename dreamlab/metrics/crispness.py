# SPDX-License-Identifier: Apache-2.0
"""How crisp an asset is at the size people look at it: pictures of 512 pixels a side, held against the world's own.

The prior draws 64 pixels a side, so that a judge of 64 pixels cannot see what a person does: edges that are ramps, and
specks around thin things. Energies of gradients say it: an edge that is spread over w pixels has a w-th of the energy
of one that is spread over a single pixel, wherever it lies. What is compared is the nearest of several true instances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.metrics.asset import DISTANCE, ELEVATIONS, FOVY_DEG, Asset

SIZE = 512  # pixels a side
VIEWS = 6
COARSE = 96  # pixels a side of the silhouettes by which the nearest instance is found
NEAR = 8  # pixels beyond the true outline that are not yet astray: the instance's proportions are free
FAINT = 0.1  # alpha of what can be seen at all


@dataclass(frozen=True)
class Crispness:
    """Means over views. 1 is as crisp as the world, less is softer."""

    psnr: float  # dB on the pixels of either object, over white
    iou: float  # of the silhouettes
    rim: float  # gradient energy of alpha over the truth's
    inner: float  # gradient energy of colours inside both outlines over the truth's
    stray: float  # alpha farther than NEAR pixels from the true outline, over the object's
    specks: float  # parts of what can be seen that do not hang together with the largest


def crisp_cameras(count: int = VIEWS) -> Cameras:
    """Evenly around, off the axes, elevations low and high in turn."""
    azimuth = [20.0 + 360.0 * i / count for i in range(count)]
    return orbit(azimuth, [ELEVATIONS[i % len(ELEVATIONS)] for i in range(count)], DISTANCE, FOVY_DEG)


def pictured(asset: Asset, cameras: Cameras, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Premultiplied colour over white [B, S, S, 3] and alpha [B, S, S, 1], on the host, a view at a time."""
    found = []
    with torch.no_grad():
        for i in range(len(cameras)):
            some = cameras[i : i + 1].to(asset.device)
            frames = asset.render(some, size, torch.ones(1, 3, device=asset.device))
            found.append((frames.rgb[..., :3].cpu().clamp(0, 1), frames.alpha.cpu().clamp(0, 1)))
    rgb, alpha = zip(*found, strict=True)
    return torch.cat(rgb), torch.cat(alpha)


def nearest(asset: Asset, truths: Sequence[Asset], cameras: Cameras) -> int:
    """Which of the true instances has most of the asset's silhouettes."""
    mine = pictured(asset, cameras, COARSE)[1] > 0.5
    found = [pictured(truth, cameras, COARSE)[1] > 0.5 for truth in truths]
    overlaps = [float((mine & one).sum()) / max(float((mine | one).sum()), 1.0) for one in found]
    return overlaps.index(max(overlaps))


def energy(pictures: Tensor, where: Tensor | None = None) -> Tensor:
    """[B] summed squares of the differences between neighbours of pictures [B, H, W, C]; of those inside `where`
    [B, H, W] alone, if it is given."""
    total = pictures.new_zeros(len(pictures))
    for axis in (1, 2):
        count = pictures.shape[axis] - 1
        step = (pictures.narrow(axis, 1, count) - pictures.narrow(axis, 0, count)).square().sum(-1)
        if where is not None:
            step = step * (where.narrow(axis, 1, count) & where.narrow(axis, 0, count))
        total += step.sum((1, 2))
    return total


def grown(mask: Tensor, pixels: int) -> Tensor:
    """[B, H, W] bool mask with all that is within so many pixels of it, in squares."""
    side = 2 * pixels + 1
    return F.max_pool2d(mask.float()[:, None], side, 1, pixels)[:, 0] > 0.5


def specks(alpha: Tensor) -> float:
    """Mean number of parts beside the largest of what can be seen, of alpha [B, H, W, 1]."""
    from scipy.ndimage import label

    eight = np.ones((3, 3), bool)
    return sum(max(label(one[..., 0].numpy() > FAINT, eight)[1] - 1, 0) for one in alpha) / len(alpha)


def crispness(mine: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor]) -> Crispness:
    """Of pictures (colour over white, alpha) against the true ones."""
    (rgb, alpha), (true_rgb, true_alpha) = mine, truth
    solid, true_solid = alpha[..., 0] > 0.5, true_alpha[..., 0] > 0.5
    either = solid | true_solid
    off = ((rgb - true_rgb).square().mean(-1) * either).sum((1, 2)) / either.sum((1, 2)).clamp(min=1)
    both = ~grown(~(solid & true_solid), 3)
    inner = energy(rgb, both).sum() / energy(true_rgb, both).sum().clamp(min=1e-9)
    away = (alpha[..., 0] * ~grown(true_solid, NEAR)).sum((1, 2)) / true_alpha.sum((1, 2, 3)).clamp(min=1)
    return Crispness(
        psnr=float(-10 * off.clamp(min=1e-10).log10().mean()),
        iou=float(((solid & true_solid).sum((1, 2)) / either.sum((1, 2)).clamp(min=1)).mean()),
        rim=float(energy(alpha).sum() / energy(true_alpha).sum().clamp(min=1e-9)),
        inner=float(inner),
        stray=float(away.mean()),
        specks=specks(alpha),
    )


def mean(found: Sequence[Crispness]) -> Crispness:
    """Of several assets."""
    return Crispness(*(sum(getattr(one, each.name) for one in found) / len(found) for each in fields(Crispness)))
