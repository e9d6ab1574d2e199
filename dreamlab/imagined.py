# SPDX-License-Identifier: Apache-2.0
"""What the embedded prior imagines of a prompt before anything is made: its student's pictures, in one call of the
network or four, from the sides that a run's previews show. Of several objects each is imagined by its own words."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.text import check_prompt
from dreamlab.core.types import Prompt
from dreamlab.run.preview import PREVIEW, orbit_views
from dreamlab.toybox.layout import things
from guidance.toybox.student import ToyboxStudent

SIDES = 4


@lru_cache(maxsize=1)
def student() -> ToyboxStudent:
    """Read once: a server imagines often."""
    return ToyboxStudent(ToyboxStudent.Settings())


def objects(prompt: str) -> list[str]:
    """The words of each object, once."""
    named = things(prompt)
    return list(dict.fromkeys(one.text for one in named)) if len(named) > 1 else [prompt]


@torch.no_grad()
def imagined(prompt: str, seed: int = 0, calls: int = 1) -> Tensor:  # [rows of PREVIEW, SIDES of PREVIEW, 3] in [0, 1]
    """The object's sides in a row; of several objects a row for each."""
    check_prompt(prompt)
    model, cameras, rows = student(), orbit_views(SIDES), []
    for text in objects(prompt):
        small = model.imagine(Prompt(text), cameras, seed, calls).permute(0, 3, 1, 2)
        large = F.interpolate(small, (PREVIEW, PREVIEW), mode="bicubic", antialias=True)
        rows.append(torch.cat(list(large.permute(0, 2, 3, 1)), 1))
    return torch.cat(rows).clamp(0, 1)


def notes(prompt: str) -> list[str]:
    """What is said of how a prompt was heard, and of what it asks for and will not get; each once."""
    settings = ToyboxStudent.Settings()
    heard = [ToyboxStudent.understood(settings, text) for text in objects(prompt)]
    return list(dict.fromkeys(line for one in heard for line in (*one.read, *one.unmade)))
