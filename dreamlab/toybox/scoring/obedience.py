# SPDX-License-Identifier: Apache-2.0
"""Whether pictures do what they were told: measures on pictures alone, none of which asks how they were made.

silhouette     pixels unlike the median colour of the border; a part in the background's colour is not seen
shading        correlation of luminance with that of the surface in gray, each over its mean within every part: the
               light tells normals, and a part's colour drops out
depth          a picture has none. So the picture is explained: of many true pictures of other instances and slightly
               other cameras, the nearest one (squared difference, over the picture's own background) lends its depth,
               which is correlated with the given depth where both have some; times the overlap of where they have
flow           of 8 x 8 blocks between two frames, whole pixels, by least squared difference
one object     the nearest of many true objects, one for all pictures of a set, against the nearest for each picture
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.metrics.colours import to_linear

FAR = 0.15  # sum over channels from which a pixel is unlike the border
FEW = 12  # pixels that a part must have to be compared
BLOCK, STRIDE = 8, 4


def ground_of(rgb: Tensor) -> Tensor:  # [..., H, W, 3] -> [..., 3]
    """The median colour of the border."""
    border = torch.cat([rgb[..., 0, :, :], rgb[..., -1, :, :], rgb[..., 1:-1, 0, :], rgb[..., 1:-1, -1, :]], -2)
    return border.median(-2).values


def silhouette(rgb: Tensor) -> Tensor:  # [..., H, W, 3] -> [..., H, W] bool
    return (rgb - ground_of(rgb)[..., None, None, :]).abs().sum(-1) > FAR


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two masks; 0 when both are empty."""
    return float((a & b).sum()) / max(float((a | b).sum()), 1.0)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, 0 where one of them is constant."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-9)) if len(a) else 0.0


def luminance(rgb: Tensor) -> Tensor:  # [..., 3] sRGB -> [...]
    return to_linear(rgb.clamp(0, 1)) @ rgb.new_tensor([0.2126, 0.7152, 0.0722])


def inner(part: Tensor) -> Tensor:  # [..., H, W] int -> the same, -1 in pixels beside another part
    """Pixels at a border show both parts."""
    wide = F.pad(part.float().reshape(-1, 1, *part.shape[-2:]), [1] * 4, mode="replicate")
    low, high = (F.max_pool2d(sign * wide, 3, 1).reshape(part.shape) for sign in (-1, 1))
    return torch.where(-low == high, part, -1)


def shading(rgb: Tensor, gray: Tensor, part: Tensor) -> float:
    """Of a picture [H, W, 3] with the surface in gray [H, W, 3]; `part` [H, W] is -1 where there is no surface."""
    mine, light = luminance(rgb), luminance(gray)
    seen, lit = [], []
    for one in part.unique().tolist():
        here = part == one
        if one >= 0 and int(here.sum()) >= FEW:
            seen.append(mine[here] / mine[here].mean().clamp(min=0.005) - 1)
            lit.append(light[here] / light[here].mean().clamp(min=0.005) - 1)
    return correlation(torch.cat(seen), torch.cat(lit)) if seen else 0.0


def explained(rgb: Tensor, colour: Tensor, alpha: Tensor) -> int:
    """Which of the true pictures, premultiplied [K, H, W, 3] with alpha [K, H, W, 1], is nearest to [H, W, 3]."""
    over = colour + (1 - alpha) * ground_of(rgb)
    return int((over - rgb).square().mean((1, 2, 3)).argmin())


def depth_agreement(mine: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor]) -> float:
    """Correlation of depths where both have some, times the overlap of where; each (depth, alpha) [H, W, 1]."""
    here, there = mine[1] > 0.5, given[1] > 0.5
    both = here & there
    near = correlation(mine[0][both], given[0][both]) if int(both.sum()) >= FEW else 0.0
    return near * overlap(here, there)


def nearest_objects(rgb: Tensor, colour: Tensor, alpha: Tensor) -> tuple[float, float]:
    """Pictures [B, H, W, 3] against K true objects, premultiplied [K, B, H, W, 3] with alpha: PSNR to the one that is
    nearest in all pictures together, and how much more it is when each picture may choose its own."""
    over = colour + (1 - alpha) * ground_of(rgb)[:, None, None]
    error = (over - rgb).square().mean((2, 3, 4)).clamp(min=1e-10)  # [K, B]
    together, apart = (-10 * math.log10(float(value)) for value in (error.mean(1).min(), error.amin(0).mean()))
    return together, apart - together


def trajectory(clip: Tensor) -> Tensor:  # [T, H, W, 3] -> [T, 2]
    """Centre of the silhouette in pixels (across, down) about its mean over time; rests where nothing is seen."""
    mask = silhouette(clip).float()
    total = mask.sum((1, 2)).clamp(min=1)
    rows, columns = (torch.arange(size, dtype=torch.float32) for size in mask.shape[1:])
    at = torch.stack([(mask.sum(1) @ columns) / total, (mask.sum(2) @ rows) / total], -1)
    seen = mask.flatten(1).any(1)
    at = torch.where(seen[:, None], at, at[seen].mean(0) if bool(seen.any()) else at.new_zeros(2))
    return at - at.mean(0)


def flow(clip: Tensor, reach: int) -> Tensor:  # [T, H, W, 3] -> [T, G, G, 2]
    """Displacement (across, down) of every block to the next frame, the last frame's to the first: clips repeat.

    Of displacements that explain a block about equally the shortest is taken, so that what is flat rests.
    """
    now, then = clip.permute(0, 3, 1, 2), clip.roll(-1, 0).permute(0, 3, 1, 2)
    around = F.pad(then, [reach] * 4, mode="replicate")
    high, wide = now.shape[-2:]
    block = min(BLOCK, high // 2)
    ways = [(dx, dy) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
    ways.sort(key=lambda way: way[0] ** 2 + way[1] ** 2)
    best, found = None, None
    for dx, dy in ways:
        moved = around[..., reach + dy : reach + dy + high, reach + dx : reach + dx + wide]
        cost = F.avg_pool2d((moved - now).square().mean(1, keepdim=True), block, max(block // 2, 1))[:, 0]
        if best is None or found is None:
            best, found = cost, torch.zeros(*cost.shape, 2)
            continue
        better = cost < 0.98 * best - 1e-5
        best = torch.where(better, cost, best)
        found = torch.where(better[..., None], torch.tensor([float(dx), float(dy)]), found)
    assert found is not None
    return found


def covered(clip: Tensor) -> Tensor:  # [T, H, W, 3] -> [T, G, G] bool
    """Blocks of `flow` a quarter of which is object, now or in the next frame."""
    mask = silhouette(clip)
    mask = (mask | mask.roll(-1, 0)).float()[:, None]
    block = min(BLOCK, mask.shape[-1] // 2)
    return F.avg_pool2d(mask, block, max(block // 2, 1))[:, 0] > 0.25


def stirring(clip: Tensor) -> Tensor:  # [T, H, W, 3] -> [N]
    """What changes in a clip: coarse luminance about its mean over time."""
    light = luminance(clip)[:, None]
    coarse = F.avg_pool2d(light, max(light.shape[-1] // 16, 1))[:, 0]
    return (coarse - coarse.mean(0)).flatten()


def likeness(a: Tensor, b: Tensor) -> float:
    """Cosine, 0 with nothing."""
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-9))
