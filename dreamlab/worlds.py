# SPDX-License-Identifier: Apache-2.0
"""What the oracle knows: the prompt's object among a few others, drawn from the procedural world on demand."""

from __future__ import annotations

import math

import torch

from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import InputError
from dreamlab.core.streams import derive
from dreamlab.core.text import nearest
from dreamlab.core.types import Prompt
from dreamlab.toybox.caption import parse, programs_for
from dreamlab.toybox.draw import draw
from dreamlab.toybox.program import stack
from dreamlab.toybox.shapes import CATEGORIES, program
from guidance.oracle import Oracle, Views, World


def oracle_world(prompt: Prompt, settings: Oracle.Settings, seed: int) -> World:
    """`instances` objects that the prompt describes, and `others` of other categories in their usual colours."""
    caption = parse(prompt.text)
    if caption.category is None or caption.unknown:
        raise InputError(f"prompt: {_complaint(caption.category, caption.unknown)}")
    first = derive(seed, "instance") % 10_000
    wanted = [programs_for(caption, first + i) for i in range(settings.instances)]
    rest = sorted(set(CATEGORIES) - {caption.category}, key=lambda name: derive(seed, "other", name))
    others = [program(name, seed=first) for name in rest[: settings.others]]
    objects = stack(wanted + others)
    total = len(wanted) + len(others)
    log_text = torch.full((total,), -math.inf)
    log_text[: len(wanted)] = -math.log(len(wanted))

    def look(cameras: Cameras, size: int) -> Views:
        shown = draw(objects.to(cameras.camera_to_world.device), cameras, size)
        return Views(shown.rgb, shown.alpha)

    return World(log_text, torch.full((total,), -math.log(total)), look)


def _complaint(category: str | None, unknown: tuple[str, ...]) -> str:
    """One line: what the oracle does not know, and what it does."""
    known = ", ".join(sorted(CATEGORIES))
    if category is None:
        close = next((found for word in unknown if (found := nearest(word, CATEGORIES))), None)
        hint = f"did you mean {close!r}? " if close else ""
        return f"names no object the oracle knows; {hint}it knows: {known}"
    return f"the oracle does not know {', '.join(repr(word) for word in unknown)}; name a colour and a part of a {category}"
