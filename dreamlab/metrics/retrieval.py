# SPDX-License-Identifier: Apache-2.0
"""R-precision: is the prompt that made an asset the one that describes it best, among distractors?

The likelihood of a prompt is that of its category by the judge times those of its colours by the votes of the parts.
Distractors are other categories in the same colours and the same category in other colours, drawn by a fixed hash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from dreamlab.metrics.colours import NAMES, PartColour, named_parts
from dreamlab.toybox.caption import Caption
from dreamlab.toybox.colours import Finish
from dreamlab.toybox.shapes import CATEGORIES
from dreamlab.toybox.split import fraction

LEAST = 0.01  # probability that nothing falls below: no part and no view has a veto


def distractors(caption: Caption, count: int = 20) -> list[Caption]:
    """Half of them other categories in the same colours, half the same category in other colours."""
    asked = [caption.colours[part] for part in named_parts(CATEGORIES[caption.category])]
    others = sorted(
        (name for name in CATEGORIES if name != caption.category),
        key=lambda name: fraction("distractor", caption.category, name),
    )[: count // 2]
    found = []
    for name in others:
        parts = named_parts(CATEGORIES[name])
        colours = dict(zip(parts, (Finish(asked[i % len(asked)]) for i in range(len(parts))), strict=True))
        found.append(Caption(name, colours))
    looks = [(a, b) for a in NAMES for b in (NAMES if len(asked) > 1 else ("",)) if [a, b][: len(asked)] != asked]
    looks.sort(key=lambda pair: fraction("distractor colours", caption.category, *asked, *pair))
    parts = named_parts(CATEGORIES[caption.category])
    for pair in looks[: count - len(found)]:
        colours = {part: Finish(colour) for part, colour in zip(parts, pair, strict=False)}
        found.append(replace(caption, finishes=colours))
    return found


def likelihood(caption: Caption, probability: float, read: Sequence[PartColour]) -> float:
    """Log-likelihood of a caption: the judge's probability of its category and the votes for its colours."""
    total = math.log(max(probability, LEAST))
    asked = caption.colours
    for part in read:
        total += math.log(max(_vote(part.votes, asked[part.part]), LEAST))
    return total


def retrieved(true: float, others: Sequence[float]) -> bool:
    """Is the true prompt the likeliest? A tie is a miss."""
    return all(true > other for other in others)


def _vote(votes: Tensor, colour: str) -> float:
    return float(votes[NAMES.index(colour)])
