# SPDX-License-Identifier: Apache-2.0
"""What a category is: named parts with their usual colours, and a function that sketches an instance."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from dreamlab.toybox.program import Sketch


class Vary:
    """The small differences between instances: `vary(low, high)` draws; the same seed gives the same instance."""

    def __init__(self, category: str, seed: int) -> None:
        self._random = random.Random(zlib.crc32(category.encode()) * 1_000_003 + seed)  # noqa: S311

    def __call__(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def choose(self, *options: int) -> int:
        return self._random.choice(options)


@dataclass(frozen=True)
class Joint:
    """What an action moves: a limb ("": everything) about `pivot`, in the sketch's units."""

    limb: str
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axis: str = "y"
    sweep_deg: float = 360.0  # a spin's angle in one period: a symmetric wheel closes the loop with less
    radius: float = 0.0  # of what rolls; 0 only drives (wheels look the same at every angle)


@dataclass(frozen=True)
class Category:
    """The first part is the main one (the colour of "a red X"); the second is the one a caption names next.

    `parts` maps every part to its usual colour; a part whose usual colour is another part's name follows that part.
    """

    name: str
    parts: dict[str, str]
    sketch: Callable[[Sketch, Vary], None]
    fronted: bool = True  # looks different from the front and the back
    words: tuple[str, ...] = ()  # other names
    joints: dict[str, Joint] = field(default_factory=dict)  # by action

    @property
    def main(self) -> str:
        return next(iter(self.parts))

    @property
    def nameable(self) -> tuple[str, ...]:
        """Parts a caption can colour: all that do not follow another part."""
        return tuple(name for name, colour in self.parts.items() if colour not in self.parts)


def draft(category: Category, seed: int) -> Sketch:
    """The instance `seed` of a category, before colours."""
    sketch = Sketch()
    category.sketch(sketch, Vary(category.name, seed))
    return sketch
