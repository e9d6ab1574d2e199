# SPDX-License-Identifier: Apache-2.0
"""Labelled pictures for the judge: batch `index` is a pure function of (seed, index).

True pictures are of the training split only (colourings and instances), as the prior's are; impostors are made of them.
Both are softened, tinted and shifted a little alike, so that neither can be told by its rendering.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, OrbitSettings, sample_orbit
from dreamlab.core.streams import derive
from dreamlab.metrics import impostors
from dreamlab.metrics.judge_net import SIDES, SIZE
from dreamlab.toybox.draw import Light, draw
from dreamlab.toybox.program import Program, rotation, stack
from dreamlab.toybox.scene import transformed
from dreamlab.toybox.shapes import CATEGORIES
from dreamlab.toybox.training.data import draw_background, draw_caption, program_of
from dreamlab.toybox.training.plan import SHARES, Plan
from guidance.toybox.net import NetSettings

NAMES = tuple(sorted(CATEGORIES))
NONE = len(NAMES)
SKIP = -1  # neither the object nor clearly something else
VIEWS = OrbitSettings((2.8, 3.8), (36.0, 48.0), (-15.0, 65.0), "mix", stratified=False)
TRUE, WRONG, SPOILT = 38, 16, 20  # objects with two views each; single pictures
SHARE = SHARES | {"action": 0.0}


@dataclass(frozen=True)
class Labelled:
    rgb: Tensor  # [B, S, S, 3]
    label: Tensor  # [B] category, NONE or SKIP
    side: Tensor  # [B] sector of azimuth of fronted true objects, else SKIP
    kind: tuple[str, ...]  # of each picture: "true" or what spoils it


def side_of(azimuth_deg: Tensor) -> Tensor:
    """Sector of an azimuth: 0 is the front, counted counter-clockwise seen from above."""
    return (torch.round(azimuth_deg * SIDES / 360).long()) % SIDES


def draw_labelled(seed: int, index: int, held_out: bool = False) -> Labelled:
    rng = random.Random(derive(seed, "judge objects", index, held_out))  # noqa: S311
    generator = torch.Generator().manual_seed(derive(seed, "judge views", index, held_out))
    plan = Plan(NetSettings(1), share=SHARE)
    objects = [draw_caption(rng, plan, held_out) for _ in range(TRUE)]
    programs = [program_of(one) for one in objects]
    cameras = sample_orbit(VIEWS, 2 * (TRUE + WRONG), generator)
    light = _light(rng)
    split = 2 * TRUE
    true = _look(programs, cameras[:split], light)
    names = [one.caption.category for one in objects for _ in range(2)]
    label = torch.tensor([NAMES.index(name) for name in names])
    fronted = torch.tensor([CATEGORIES[name].fronted for name in names])
    side = torch.where(fronted, side_of(cameras.azimuth_deg[:split]), SKIP)
    wrong, wrong_label, kinds = _wrong(rng, programs, [one.caption.category for one in objects], cameras[split:], light)
    solid = draw_background(split + len(wrong), generator)[:, None, None]
    rgb = torch.cat([true, wrong])
    rgb = rgb[..., :3] + (1 - rgb[..., 3:]) * solid
    spoilt, spoilt_kinds = _spoilt(rng, rgb[:split], generator)
    count = len(wrong) + len(spoilt)
    rgb = soften(torch.cat([rgb, spoilt]), generator)
    label = torch.cat([label, wrong_label, torch.full((len(spoilt),), NONE)])
    side = torch.cat([side, torch.full((count,), SKIP)])
    return Labelled(rgb, label, side, ("true",) * split + tuple(kinds) + tuple(spoilt_kinds))


def _light(rng: random.Random) -> Light:
    towards = (rng.gauss(0.35, 0.25), 0.75, 0.56 + rng.gauss(0, 0.25))
    return replace(Light(), towards_key=towards, head=rng.uniform(0.2, 0.36), occlusion=rng.uniform(0.3, 0.8))


def _look(programs: list[Program], cameras: Cameras, light: Light) -> Tensor:
    """[B, S, S, 4]: premultiplied colour and alpha, the cameras shared out to the programs."""
    shown = draw(stack(programs), cameras, SIZE, per_program=True, light=light)
    return torch.cat([shown.rgb, shown.alpha], -1).flatten(0, 1)


def _wrong(
    rng: random.Random, programs: list[Program], names: list[str], cameras: Cameras, light: Light
) -> tuple[Tensor, Tensor, list[str]]:
    """Pictures of wrong objects, their labels, their kinds."""
    made, bases, turned, kinds = [], [], [], []
    about = torch.tensor(rotation((0.0, 180.0, 0.0)))
    for _ in range(WRONG):
        kind, i, j = rng.choice(impostors.OBJECTS), *rng.sample(range(len(programs)), 2)
        kinds.append((kind, names[i]))
        bases.append(programs[i])
        turned.append(transformed(programs[i], about) if kind == "janus" else programs[i])
        if kind == "broken":
            made.append(impostors.broken(rng, programs[i]))
        elif kind == "mixed":
            made.append(impostors.mixed(rng, programs[i], programs[j]))
        elif kind == "janus":
            made.append(impostors.janus(programs[i]))
        else:
            made.append(impostors.blob(rng) if kind == "blob" else impostors.solid(rng))
    pictures, truth, back = (_look(some, cameras, light) for some in (made, bases, turned))
    apart = torch.minimum(impostors.difference(pictures, truth), impostors.difference(pictures, back))
    label = torch.full((len(pictures),), NONE)
    for row, (kind, name) in enumerate(both for both in kinds for _ in range(2)):
        if kind in ("broken", "janus") and apart[row] < impostors.OTHER:
            label[row] = NAMES.index(name) if apart[row] < impostors.SAME else SKIP
    label[pictures[..., 3].sum((1, 2)) < 12] = NONE
    return pictures, label, [kind for kind, _ in kinds for _ in range(2)]


def _spoilt(rng: random.Random, rgb: Tensor, generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """Single pictures made of true ones; those that the change left alike are replaced by clouds."""
    kinds = [rng.choice(impostors.PICTURES) for _ in range(SPOILT)]
    rows = torch.randperm(len(rgb), generator=generator)[:SPOILT]
    found = []
    for kind, row in zip(kinds, rows.tolist(), strict=True):
        several = rgb[[row, (row + 7) % len(rgb), (row + 15) % len(rgb)]] if kind == "blended" else rgb[row : row + 1]
        one = impostors.spoil(kind, several, generator)[:1]
        if (one - rgb[row]).abs().mean() < 0.035 and kind not in ("empty", "noisy"):
            one = impostors.cloud(1, SIZE, generator)
        found.append(one)
    return torch.cat(found), kinds


def soften(rgb: Tensor, generator: torch.Generator) -> Tensor:
    """What a good but imperfect render differs by: softness, noise, tint, contrast, a slightly bent outline."""
    count = len(rgb)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    stretch = 1 + uniform(-0.1, 0.1, 1) + uniform(-0.06, 0.06, 2)
    rgb = impostors.warp(rgb, uniform(0.0, 0.03), stretch, generator)
    soft = torch.cat([impostors.blur(part, s) for part, s in zip(rgb.chunk(4), (0.3, 0.6, 0.9, 1.3), strict=True)])
    order = torch.randperm(3, generator=generator) if torch.rand((), generator=generator) < 0.5 else torch.arange(3)
    rgb = soft[..., order]
    gray = rgb.mean(-1, keepdim=True)
    rgb = gray + (rgb - gray) * uniform(0.7, 1.4, 1, 1, 1)
    rgb = 0.5 + (rgb - 0.5) * uniform(0.8, 1.2, 1, 1, 1) + uniform(-0.06, 0.06, 1, 1, 1)
    rgb = rgb + uniform(0, 0.04, 1, 1, 1) * torch.randn(rgb.shape, generator=generator)
    return rgb.clamp(0, 1)
