# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: what the world looks like, for the eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dreamlab.core.cameras import orbit
from dreamlab.toybox.draw import draw
from dreamlab.toybox.program import stack
from dreamlab.toybox.shapes import CATEGORIES, program

VIEWS = ((25.0, 20.0), (-60.0, 10.0), (180.0, 25.0))  # azimuth, elevation
BACKGROUND = 0.86


def contact_sheet(
    path: str | Path, categories: Sequence[str] | None = None, seed: int = 0, *, size: int = 96, columns: int = 4
) -> Path:
    """Write a labelled PNG: each category from a few sides in its usual colours; returns the path."""
    from PIL import Image, ImageDraw

    names = list(categories or CATEGORIES)
    objects = stack([program(name, seed=seed) for name in names])
    cameras = orbit([a for a, _ in VIEWS], [e for _, e in VIEWS], distance=3.0, fovy_deg=38.0)
    pictures = torch.cat([draw(objects[i : i + 4], cameras, size).over(BACKGROUND) for i in range(0, len(names), 4)])
    tiles = (pictures.clamp(0, 1) * 255).round().byte().numpy()  # [K, B, H, W, 3]
    rows, label = -(-len(names) // columns), 14
    wide, high = size * len(VIEWS) + 4, size + label
    sheet = Image.new("RGB", (wide * columns, high * rows), "white")
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate(names):
        left, top = (i % columns) * wide, (i // columns) * high
        sheet.paste(Image.fromarray(np.concatenate(list(tiles[i]), 1)), (left, top + label))
        pen.text((left + 3, top + 1), name, fill="black")
    sheet.save(path, optimize=True)
    return Path(path)
