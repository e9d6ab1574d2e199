# SPDX-License-Identifier: Apache-2.0
"""What a prompt wants of a material, and how the embedded prior can be asked where that is.

The prior draws a metal darker than the same colour matte, part by part, and gloss hardly at all: too few pixels of its
pictures are highlights. So for every part that is to be of a material it is asked for the part in metal; where that
shows, the material belongs.
"""

from __future__ import annotations

from dataclasses import replace

from cuda_ext.sdf_layout import METAL_LOSS
from dreamlab.core.types import Wearing
from dreamlab.toybox.caption import Caption, parse
from dreamlab.toybox.colours import MATERIALS, Finish
from dreamlab.toybox.grammar import say

SHOWS = "metal"  # the material that the prior draws
DARKER = {"metal": METAL_LOSS}  # of the diffuse light, what it has less (`cuda_ext.reference.sdf.shade`)


def wearing(text: str) -> tuple[Wearing, ...]:
    """First what all the rest is, then a row for every part that is asked for in another material."""
    row: tuple[Wearing, ...] = (Wearing("", "", "", *MATERIALS["matte"], mirrors=0.0),)
    try:
        asked = parse(text)
    except ValueError:
        return row  # no object, no part
    named = asked.finishes
    matte = {part: replace(finish, material="matte") for part, finish in named.items()}
    plain = _said(asked, matte)
    for part, finish in named.items():
        if finish.material != "matte":
            told = _said(asked, matte | {part: replace(matte[part], material=SHOWS)})
            word = f"{finish.material} {part.replace('_', ' ')}"
            row += (Wearing(word, told, plain, *MATERIALS[finish.material], DARKER.get(finish.material, 0.0)),)
    return row


def _said(asked: Caption, finishes: dict[str, Finish]) -> str:
    return say(Caption(asked.category, finishes))
