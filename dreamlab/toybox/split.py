# SPDX-License-Identifier: Apache-2.0
"""What the prior may see. A stable hash of a name decides, so the split never depends on a seed or an order.

held out                 share   never in training
pair                      4 %    this main colour on this category (with whatever second colour)
combination              10 %    (category, main colour, second colour), and every pair held out
phrasing                 2 of 9  the sentence patterns with the smallest hashes
instance                 10 %    the proportions `seed` gives to a category
relation                 15 %    (category, relation, category)
"""

from __future__ import annotations

import hashlib

from dreamlab.toybox.grammar import PHRASINGS

PAIR, COMBINATION, INSTANCE, RELATION = 0.04, 0.10, 0.10, 0.15
HELD_PHRASINGS = 2


def fraction(*key: object) -> float:
    """A number in [0, 1) that depends on nothing but the key."""
    digest = hashlib.sha256("|".join(str(k) for k in key).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def held_out_pair(category: str, main: str) -> bool:
    return fraction("pair", category, main) < PAIR


def held_out_combination(category: str, main: str, second: str | None = None) -> bool:
    """Is this colouring kept for measuring? A missing second colour counts as its usual one: only the pair decides."""
    if held_out_pair(category, main):
        return True
    return second is not None and fraction("combination", category, main, second) < COMBINATION


def held_out_instance(category: str, seed: int) -> bool:
    return fraction("instance", category, seed) < INSTANCE


def phrasings() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(for training, held out); the plain "with" form is always for training."""
    ranked = sorted((name for name in PHRASINGS if name != "with"), key=lambda name: fraction("phrasing", name))
    held = tuple(ranked[:HELD_PHRASINGS])
    return tuple(name for name in PHRASINGS if name not in held), held
