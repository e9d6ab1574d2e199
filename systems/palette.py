# SPDX-License-Identifier: Apache-2.0
"""A given picture's colours on sides that it does not show: every pixel is pulled to the nearest colour that the
picture has. After nearest neighbour feature matching (Zhang et al. 2022, ARF, arXiv:2206.06360, eq. 2), with colours
for VGG's features and squares for its cosine.

What is nearest is held fixed within a step, as closest points are in an alignment: a colour of the picture's stays,
any other moves. Views count by how far they are turned from the picture's own: of those beside it that knows more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from dreamlab.core.cards import RuleCard
from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import setting
from systems.engine.residual import Look, per_row
from systems.engine.rule import Rule, RuleSettings

COVERED = 0.5  # alpha from which a pixel has a colour of its own


class NearestColours(Rule["NearestColours.Settings"]):
    """No colours but those of a given picture, on the sides that it does not show."""

    paper: ClassVar[str] = "after Zhang et al. 2022, arXiv:2206.06360, eq. 2"
    cost: ClassVar[str] = "0"
    needs: ClassVar[frozenset[str]] = frozenset({"colours"})

    @dataclass(frozen=True)
    class Settings(RuleSettings):
        pull: Schedule = setting(constant(1.0), low=0, help="squared difference to the nearest colour")
        behind: float = setting(2.0, low=0, help="a view counts ((1 - cos) / 2) to this power; 0: all alike")

    @classmethod
    def card(cls, settings: Settings) -> RuleCard:
        return replace(super().card(settings), colours=True)

    def loss(self, look: Look) -> Tensor:
        s, frames, told = self.settings, look.frames, look.conditions["colours"]
        if frames is None:
            raise ValueError("palette: needs the frames, give them to Look")
        # Of what covers a pixel alone: who has the right colour is asked for neither more nor less of it.
        alone = frames.rgb - (1 - frames.alpha) * frames.background[:, None, None]
        alpha = frames.alpha.detach()
        own = nearest(told.shared["near"], alone.detach() / alpha.clamp(min=COVERED))
        apart = (alone - frames.alpha * own).square() * (alpha > COVERED)
        count = per_row(told.rows["hidden"].clamp(min=0) ** s.behind, apart)
        return s.pull.at(look.progress) * (count * apart).mean()


def nearest(table: Tensor, colour: Tensor) -> Tensor:  # [S, S, S, 3], [..., 3] -> [..., 3]
    """What a table of colours has in the place of each."""
    shades = len(table)
    red, green, blue = (colour.clamp(0, 1) * shades).long().clamp(max=shades - 1).unbind(-1)
    return table.reshape(-1, 3)[(red * shades + green) * shades + blue]
