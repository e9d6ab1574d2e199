# SPDX-License-Identifier: Apache-2.0
"""What rules have in common: a clip; most of them a range of noise and a weight; a constructor and a card.

A rule's own file says its settings beyond these, its defaults where they differ, and its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import Tensor

from dreamlab.core.cards import Entry, RuleCard
from dreamlab.core.noise import WEIGHTS
from dreamlab.core.schedules import Progress, Schedule, constant
from dreamlab.core.settings import setting
from systems.engine.residual import Look, Stateless, Supervised, System, times_in_order


@dataclass(frozen=True)
class RuleSettings:
    """What the settings of every rule can be asked, before there is a rule."""

    def asks(self) -> frozenset[str]:
        """Conditions that these settings name, besides the rule's own."""
        return frozenset()

    def complaint(self) -> str:
        """What is wrong between them."""
        return ""


@dataclass(frozen=True)
class GradientSettings(RuleSettings):
    """What the engine does to any rule's g before it becomes a loss."""

    clip: Schedule | None = setting(None, above=0, help="clamp of each element of g")


@dataclass(frozen=True)
class NoiseSettings(GradientSettings):
    """Where on the noise table a rule works, and how much it counts there. The defaults are DreamFusion's."""

    t_min: Schedule = setting(constant(0.02), low=0, high=1, help="lowest noise, fraction of the table")
    t_max: Schedule = setting(constant(0.98), low=0, high=1, help="highest noise, fraction of the table")
    weight: str = setting("sds", choices=WEIGHTS, help="w(t)")

    def complaint(self) -> str:
        return times_in_order(self.t_min, self.t_max) or ""

    def times(self, look: Look, shared: bool = False) -> Tensor:
        """[B] t_index of this step's views, drawn in the range; `shared`: one for all."""
        return look.timesteps(self.t_min.at(look.progress), self.t_max.at(look.progress), shared)

    def time(self, look: Look) -> int:
        """One time for the whole batch as a plain number, for rules that walk the table."""
        return look.time_index(self.t_min.at(look.progress), self.t_max.at(look.progress))


Settings = TypeVar("Settings", bound=RuleSettings)


class RuleKind(Entry, Protocol):
    """A class of rules, as the table holds it."""

    @property
    def cost(self) -> str: ...  # pictures the network evaluates per view and step

    def card(self, settings: Any) -> RuleCard: ...

    def __call__(self, settings: Any) -> System | Supervised: ...


class Configured(Generic[Settings]):
    """A rule with its settings. A rule whose card depends on them overrides `card`."""

    needs: ClassVar[frozenset[str]]  # conditions it asks of the guidance
    guided: ClassVar[bool] = False  # adaptive guidance may leave the unconditional half out
    rescales: ClassVar[bool] = False  # `prompting.rescale` reaches its guidance
    frames: ClassVar[bool] = False  # it holds the frames against the latents, row by row

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def clip(self, now: Progress) -> float | None:
        """The clamp that the engine puts on each element of g at this moment."""
        asked = self.settings.clip if isinstance(self.settings, GradientSettings) else None
        return None if asked is None else asked.at(now)

    @classmethod
    def card(cls, settings: Settings) -> RuleCard:
        """What its class and its settings say."""
        return RuleCard(
            cls.needs | settings.asks(),
            guided=cls.guided,
            rescales=cls.rescales,
            remembers=not issubclass(cls, Stateless),
            frames=cls.frames,
            complaint=settings.complaint(),
        )


class Rule(Stateless, Configured[Settings]):
    """The same, remembering nothing from one step to the next."""
