# SPDX-License-Identifier: Apache-2.0
"""What the embedded prior imagines of a prompt before anything is made: its student's pictures, in one call of the
network or four, from the sides that a run's previews show. Of several objects each is imagined by its own words."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch.nn.functional as F

from dreamlab.core.text import check_prompt
from dreamlab.core.types import Prompt
from dreamlab.run.preview import PREVIEW, orbit_views, to_bytes
from dreamlab.toybox.layout import things
from guidance.toybox.student import ToyboxStudent

SIDES = 4


@lru_cache(maxsize=1)
def student() -> ToyboxStudent:
    """Read once: a server imagines often."""
    return ToyboxStudent(ToyboxStudent.Settings())


def imagined(prompt: str, seed: int = 0, calls: int = 1) -> list[np.ndarray]:
    """Pictures [PREVIEW, PREVIEW, 3] of bytes: SIDES of the object, of several objects a row for each."""
    check_prompt(prompt)
    named = things(prompt)
    texts = [one.text for one in named] if len(named) > 1 else [prompt]
    cameras, found = orbit_views(SIDES), list[np.ndarray]()
    for text in texts:
        ToyboxStudent.listen(student().settings, Prompt(text))
        rgb = student().imagine(Prompt(text), cameras, seed, calls).permute(0, 3, 1, 2)
        large = F.interpolate(rgb, (PREVIEW, PREVIEW), mode="bicubic", antialias=True)
        found += list(to_bytes(large.permute(0, 2, 3, 1).clamp(0, 1)))
    return found


def notes(prompt: str) -> tuple[str, ...]:
    """What is said of how a prompt was heard, and of what it asks for and will not get."""
    heard = ToyboxStudent.understood(ToyboxStudent.Settings(), prompt)
    return (*heard.read, *heard.unmade)
