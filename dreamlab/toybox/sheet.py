# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: what the world looks like, for the eye."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from dreamlab.core.cameras import orbit
from dreamlab.toybox.colours import COLOURS
from dreamlab.toybox.draw import draw
from dreamlab.toybox.program import Program, stack
from dreamlab.toybox.shapes import CATEGORIES, program

VIEWS = ((25.0, 20.0), (-60.0, 12.0), (150.0, 28.0))  # azimuth, elevation
USUAL = 2  # so many views in the usual colours, the others in colours drawn by the seed
BACKGROUND = 0.88
LABEL = 14  # height of a line of text, pixels


def contact_sheet(
    path: str | Path, categories: Sequence[str] | None = None, seed: int = 0, *, size: int = 96, columns: int = 4
) -> Path:
    """Write a labelled PNG, every category from a few sides and in more than its usual colours; returns the path."""
    from PIL import Image, ImageDraw

    names = list(categories or CATEGORIES)
    unknown = [name for name in names if name not in CATEGORIES]
    if unknown:
        raise ValueError(f"contact_sheet: {unknown[0]!r} is not a category; they are {', '.join(CATEGORIES)}")
    tiles = _tiles(names, seed, size)
    wide, high = size * len(VIEWS) + 4, size + LABEL
    sheet = Image.new("RGB", (wide * columns, high * -(-len(names) // columns)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate(names):
        left, top = (i % columns) * wide, (i // columns) * high
        sheet.paste(Image.fromarray(tiles[i].numpy()), (left, top + LABEL))
        pen.text((left + 3, top + 1), name, fill="black")
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    return Path(path)


def _tiles(names: Sequence[str], seed: int, size: int) -> torch.Tensor:
    """[K, size, size * views, 3] bytes."""
    looks = [program(name, seed=seed) for name in names], [recoloured(name, seed) for name in names]
    strips = []
    for i, (azimuth, elevation) in enumerate(VIEWS):
        camera = orbit([azimuth], elevation, distance=3.0, fovy_deg=38.0)
        strips.append(draw(stack(looks[0] if i < USUAL else looks[1]), camera, size).over(BACKGROUND)[:, 0])
    return (torch.cat(strips, 2).clamp(0, 1) * 255).round().byte()


def recoloured(name: str, seed: int) -> Program:
    """The instance with its nameable parts in different colours drawn by the seed."""
    parts = CATEGORIES[name].nameable[:2]
    colours = random.Random(f"{name} {seed}").sample(sorted(COLOURS), len(parts))  # noqa: S311
    return program(name, dict(zip(parts, colours, strict=True)), seed)
