# SPDX-License-Identifier: Apache-2.0
"""A prompt that nobody has thought of: an object of the procedural world with colours, and now and then a pattern."""

from __future__ import annotations

import random

from dreamlab.toybox.colours import COLOURS, PATTERNS
from dreamlab.toybox.shapes import CATEGORIES


def surprise(chance: random.Random) -> str:
    """Words that the world and the embedded prior know, every one."""
    category = CATEGORIES[chance.choice(sorted(CATEGORIES))]
    colours = chance.sample(sorted(COLOURS), 2)
    pattern = chance.choice(PATTERNS[1:]) + " " if chance.random() < 0.2 else ""
    said = f"{_article(colours[0])} {colours[0]} {pattern}{category.name}"
    if len(category.nameable) < 2:
        return said
    part = category.nameable[1]
    plural = part.endswith("s") and not part.endswith("ss")
    return f"{said} with {colours[1] if plural else f'{_article(colours[1])} {colours[1]}'} {part}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
