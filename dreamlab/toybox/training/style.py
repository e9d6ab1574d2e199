# SPDX-License-Identifier: Apache-2.0
"""Pictures of the world as strangers draw them, for the reader: any colours, other light and proportions, outlines,
gradients, details that no word names, a turn of the picture, a careless cut; and pictures of nothing that the world
has. What they show stays known.

Everything is drawn for a whole batch at once from one generator, so that batch `index` stays a function of its index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ext import sdf_layout as layout
from dreamlab.core.safemath import linear_to_srgb, srgb_to_linear
from dreamlab.toybox.colours import COLOURS
from dreamlab.toybox.draw import Light
from dreamlab.toybox.program import Program

FAR_DEG = 70.0  # a picture is turned by no more
UPRIGHT, UPRIGHT_DEG = 0.6, 6.0  # share that is nearly upright, and its deviation
BASES = slice(layout.BASE, layout.BASE + 3)


@dataclass(frozen=True)
class Styled:
    rgb: Tensor  # [B, S, S, 3] premultiplied
    alpha: Tensor  # [B, S, S, 1]
    roll_deg: Tensor  # [B] by which the object leans to the right


def uniform(generator: torch.Generator, count: int, low: float, high: float, *more: int) -> Tensor:
    return low + (high - low) * torch.rand(count, *(more or (1, 1, 1)), generator=generator)


def often(generator: torch.Generator, count: int, share: float) -> Tensor:  # [B, 1, 1, 1]
    return (torch.rand(count, 1, 1, 1, generator=generator) < share).float()


def repainted(programs: Program, generator: torch.Generator, share: float = 1.0) -> Program:
    """Of a share of the objects all colours go through one random affine map, so that equal ones stay equal."""
    count = len(programs)
    strength = torch.rand(count, 1, 1, generator=generator)
    turn = torch.eye(3) + 0.45 * strength * torch.randn(count, 3, 3, generator=generator)
    shift = 0.15 * strength * torch.randn(count, 1, 3, generator=generator)
    colours = linear_to_srgb(programs.parts[..., BASES])
    moved = ((colours - 0.5) @ turn + 0.5 + shift).clamp(0.03, 0.98)
    chosen = torch.rand(count, 1, 1, generator=generator) < share
    parts = programs.parts.clone()
    parts[..., BASES] = srgb_to_linear(torch.where(chosen, moved, colours))
    return replace(programs, parts=parts)


def nearest_named(colours: Tensor) -> Tensor:  # [..., 3] sRGB -> [...] index into COLOURS
    known = torch.tensor(list(COLOURS.values())) / 255
    return (colours[..., None, :] - known).square().sum(-1).argmin(-1)


def any_light(generator: torch.Generator) -> Light:
    """From flat and bright to a low lamp of one colour."""
    draw = torch.rand(16, generator=generator).tolist()
    tint = [0.8 + 0.4 * value for value in draw[:6]]
    key, sky, ground, head = 0.6 * draw[6], 0.3 + 0.5 * draw[7], 0.1 + 0.6 * draw[8], 0.1 + 0.5 * draw[9]
    return Light(
        (2 * draw[10] - 1, 0.2 + draw[11], 0.2 + draw[12]),
        (key * tint[0], key * tint[1], key * tint[2]),
        (sky * tint[3], sky * tint[4], sky * tint[5]),
        (ground * tint[5], ground * tint[3], ground * tint[4]),
        head,
        0.6 * draw[13],
    )


def bent(rgba: Tensor, roll_deg: Tensor, generator: torch.Generator) -> Tensor:
    """[B, S, S, 4] turned, longer or wider, and bent a little: other proportions than this world's."""
    count, size = rgba.shape[:2]
    wide = uniform(generator, count, -0.25, 0.25, 1)[:, 0].exp()
    scale = uniform(generator, count, 0.95, 1.1, 1)[:, 0]
    coarse = 0.05 * often(generator, count, 0.6) * torch.randn(count, 2, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    return warped(rgba, roll_deg, torch.stack([scale * wide, scale / wide], 1), smooth)


def warped(rgba: Tensor, roll_deg: Tensor, shrunk: Tensor, smooth: Tensor | float = 0.0) -> Tensor:
    """Turned to the right by `roll_deg` [B], made smaller across and along by `shrunk` [B, 2] in its own axes, and
    every place taken from `smooth` [B, S, S, 2] beside."""
    angle = torch.deg2rad(roll_deg)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos, sin, -sin, cos], 1).reshape(-1, 2, 2) * shrunk[..., None]
    affine = torch.cat([turn, torch.zeros(len(rgba), 2, 1)], 2)
    grid = F.affine_grid(affine, list(rgba.permute(0, 3, 1, 2).shape), align_corners=False) + smooth
    return F.grid_sample(rgba.permute(0, 3, 1, 2), grid, align_corners=False).permute(0, 2, 3, 1)


def places(count: int, size: int) -> tuple[Tensor, Tensor]:
    """x, y [1, S, S, 1] in [-1, 1]."""
    line = (torch.arange(size) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x[None, ..., None], y[None, ..., None]


def spot(generator: torch.Generator, count: int, size: int, reach: float, low: float, high: float) -> Tensor:
    """[B, S, S, 1] a soft-edged ellipse somewhere."""
    x, y = places(count, size)
    centre, radius = uniform(generator, count, -reach, reach, 2, 1, 1), uniform(generator, count, low, high, 2, 1, 1)
    apart = ((x - centre[:, :1]) / radius[:, :1]).square() + ((y - centre[:, 1:]) / radius[:, 1:]).square()
    return ((1 - apart) * 8).clamp(0, 1)


def any_colour(generator: torch.Generator, count: int) -> Tensor:
    return torch.rand(count, 1, 1, 3, generator=generator)


def decorated(rgba: Tensor, generator: torch.Generator) -> Tensor:
    """Spots on the object, a highlight, something small beside it, and a shadow that was not cut away."""
    count, size = rgba.shape[:2]
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    for _ in range(3):
        cover = spot(generator, count, size, 0.5, 0.04, 0.18) * often(generator, count, 0.3)
        rgb = rgb + cover * (alpha * any_colour(generator, count) - rgb)
    shine = spot(generator, count, size, 0.4, 0.05, 0.2) * 0.7 * often(generator, count, 0.3)
    rgb = rgb + shine * (alpha - rgb)
    beside = spot(generator, count, size, 0.7, 0.04, 0.2) * often(generator, count, 0.25)
    rgb = rgb + beside * (1 - alpha) * any_colour(generator, count)
    alpha = alpha + beside * (1 - alpha)
    rows = torch.arange(size)[None, :, None, None]
    lowest = ((alpha > 0.5) * rows).amax((1, 2), keepdim=True) * (2 / size) - 1
    x, y = places(count, size)
    under = (1 - (x / 0.6).square() - ((y - lowest) / 0.1).square()).clamp(0, 1) * often(generator, count, 0.15)
    shade = uniform(generator, count, 0.2, 0.9)
    return torch.cat([rgb + under * (1 - alpha) * shade, alpha + under * (1 - alpha)], -1)


def coloured(rgba: Tensor, generator: torch.Generator) -> Tensor:
    """Gradients, outlines, other tones, less sharpness."""
    count, size = rgba.shape[:2]
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    x, y = places(count, size)
    angle = uniform(generator, count, 0, 2 * math.pi)
    ramp = (0.5 + 0.7 * (x * angle.cos() + y * angle.sin())).clamp(0, 1)
    strength = 0.5 * uniform(generator, count, 0, 1).square() * often(generator, count, 0.6)
    rgb = rgb + strength * ramp * (alpha * any_colour(generator, count) - rgb)
    inner = -F.max_pool2d(-alpha.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1)
    rim = (alpha - inner) * often(generator, count, 0.2)
    rgb = rgb * (1 - rim) + rim * alpha * 0.4 * any_colour(generator, count) * alpha
    gamma = uniform(generator, count, -0.5, 0.5).exp()
    gain = 1 + 0.2 * (2 * torch.rand(count, 1, 1, 3, generator=generator) - 1)
    rgb = alpha * ((rgb / alpha.clamp(min=1e-3)).clamp(1e-4, 1).pow(gamma) * gain).clamp(0, 1)
    noise = uniform(generator, count, 0, 0.04) * torch.randn(rgb.shape, generator=generator)
    whole = torch.cat([(rgb + alpha * noise).clamp(min=0), alpha], -1)
    small = F.avg_pool2d(whole.permute(0, 3, 1, 2), 2)
    soft = F.interpolate(small, (size, size), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    return whole + often(generator, count, 0.25) * (soft - whole)


def styled(rgb: Tensor, alpha: Tensor, generator: torch.Generator) -> Styled:
    """Of pictures premultiplied by alpha."""
    count = len(rgb)
    near = UPRIGHT_DEG * torch.randn(count, generator=generator)
    roll = torch.where(
        torch.rand(count, generator=generator) < UPRIGHT,
        near,
        FAR_DEG * (2 * torch.rand(count, generator=generator) - 1),
    )
    made = coloured(decorated(bent(torch.cat([rgb, alpha], -1), roll, generator), generator), generator)
    return Styled(made[..., :3].minimum(made[..., 3:]), made[..., 3:].clamp(0, 1), roll)


def strange(rgb: Tensor, alpha: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures of nothing that the world has: parts of two objects grown together, or blots and bars."""
    count, size = rgb.shape[:2]
    rgba = torch.cat([rgb, alpha], -1)
    across = 1 if bool(torch.rand(1, generator=generator) < 0.5) else 2
    other = rgba[torch.randperm(count, generator=generator)].flip(across)
    x, y = places(count, size)
    angle = uniform(generator, count, 0, 2 * math.pi)
    side = ((x * angle.cos() + y * angle.sin() + uniform(generator, count, -0.15, 0.15)) * 20).clamp(0, 1)
    mixed = rgba * (1 - side) + other * side
    blots = torch.zeros_like(rgba)
    for _ in range(5):
        cover = spot(generator, count, size, 0.4, 0.08, 0.45) * often(generator, count, 0.7)
        blots = blots + cover * (torch.cat([any_colour(generator, count), torch.ones(count, 1, 1, 1)], -1) - blots)
    kind = torch.rand(count, 1, 1, 1, generator=generator)
    wild = torch.where(kind < 0.6, mixed, blots)
    return wild[..., :3], wild[..., 3:]
