# SPDX-License-Identifier: Apache-2.0
"""What the small Stable Diffusion learns from: objects of the training split, each from four sides.

Shelf `index` of a seed is a pure function of both, so a cache of it can be thrown away and made again. The cameras are
those of MVDream (Shi et al. 2023): a ring in equal turns that shares elevation, distance and lens. A camera matrix
tells neither distance nor lens, so both vary less than the recipes' do.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.streams import derive
from dreamlab.core.types import Frames
from dreamlab.toybox.draw import draw
from dreamlab.toybox.program import stack
from dreamlab.toybox.training.data import draw_background, draw_caption, program_of
from dreamlab.toybox.training.plan import Plan
from guidance.toybox.net import NetSettings

SIDES = 4
PIXELS = 128
SHELF = 256  # groups
OTHER = 2.0  # more weight of parts other than the main one
ABOVE = 0.06  # of the groups look down steeply, for the words "overhead view"


@dataclass(frozen=True)
class Shelf:
    """Groups of views, and what is said of them."""

    rgb: Tensor  # [K, 4, S, S, 3] bytes, sRGB times alpha
    alpha: Tensor  # [K, 4, S, S] bytes
    depth: Tensor  # [K, 4, S, S] camera z, 0 where nothing is
    other: Tensor  # [K, 4, S, S] bool: a part other than the main one
    backgrounds: Tensor  # [K, 4, 3]
    orbits: Tensor  # [K, 4, 4] azimuth, elevation, distance, lens: degrees and world units
    texts: tuple[str, ...]

    def pictures(self, rows: slice = slice(None), backgrounds: Tensor | None = None) -> Tensor:
        """[K, 4, S, S, 3] in [0, 1] before their own or other solid colours."""
        behind = (self.backgrounds if backgrounds is None else backgrounds)[rows, :, None, None]
        return self.rgb[rows] / 255 + (1 - self.alpha[rows, ..., None] / 255) * behind

    def weight(self, size: int) -> Tensor:
        """[K, 4, size, size] what a cell's error may count: 1, on the object 1 more, on its lesser parts 2 more."""
        shown = 1 + self.alpha / 255 + OTHER * self.other
        return F.adaptive_avg_pool2d(shown.flatten(0, 1)[:, None], size)[:, 0].unflatten(0, (-1, SIDES))

    def frames(self) -> Frames:
        """[4 K] views, as a scene's are."""
        depth, alpha = ((x.float() / top).flatten(0, 1)[..., None] for x, top in ((self.depth, 1), (self.alpha, 255)))
        return Frames(self.pictures().flatten(0, 1), alpha, depth, self.backgrounds.flatten(0, 1))

    def cameras(self) -> Cameras:
        """[4 K]"""
        return cameras_of(self.orbits)


def cameras_of(orbits: Tensor) -> Cameras:
    return orbit(*(column.contiguous() for column in orbits.reshape(-1, 4).unbind(-1)))


def draw_orbits(count: int, generator: torch.Generator) -> Tensor:
    """[count, 4, 4]; elevation mostly 0 to 30 degrees and lens mostly 36 to 48, as MVDream's and the recipes' are."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    def pick(share: float, one: Tensor, other: Tensor) -> Tensor:
        return torch.where(torch.rand(count, generator=generator) < share, one, other)

    elevation = pick(1 - ABOVE, pick(0.7, uniform(0, 30), uniform(-15, 60)), uniform(60, 80))
    fovy = pick(0.75, uniform(36, 48), uniform(20, 60))
    extent = uniform(1.05, 1.45)  # half the picture's height at the object, whose ball has a radius of 0.9
    distance = extent / torch.tan(fovy * (math.pi / 360))
    azimuth = uniform(-180, 180)[:, None] + torch.arange(SIDES) * (360 / SIDES)
    shared = torch.stack([elevation, distance, fovy], 1)[:, None].expand(-1, SIDES, -1)
    return torch.cat([azimuth[..., None], shared], 2)


def draw_shelf(seed: int, index: int, count: int = SHELF, *, held_out: bool = False, size: int = PIXELS) -> Shelf:
    rng = random.Random(derive(seed, "shelf", index, held_out))  # noqa: S311
    generator = torch.Generator().manual_seed(derive(seed, "orbits", index, held_out))
    plan = Plan(NetSettings(1))
    objects = [draw_caption(rng, plan, held_out) for _ in range(count)]
    orbits = draw_orbits(count, generator)
    backgrounds = draw_background(SIDES * count, generator).reshape(count, SIDES, 3)
    alike = torch.rand(count, 1, 1, generator=generator) < 0.5
    backgrounds = torch.where(alike, backgrounds[:, :1], backgrounds)
    shown = draw(stack([program_of(one) for one in objects]), cameras_of(orbits), size, per_program=True)
    rgb, alpha = ((part * 255).round().clamp(0, 255).byte() for part in (shown.rgb, shown.alpha[..., 0]))
    other = shown.part > 0  # the main part's id is 0
    return Shelf(rgb, alpha, shown.depth[..., 0], other, backgrounds, orbits, tuple(one.text for one in objects))
