# SPDX-License-Identifier: Apache-2.0
"""What rules have in common: a clip; most of them a range of noise and a weight; a constructor and a check.

A rule's own file says its settings beyond these, its defaults where they differ, and its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from dreamlab.core.noise import WEIGHTS
from dreamlab.core.schedules import Progress, Schedule, constant
from dreamlab.core.settings import setting
from systems.engine.residual import Look, Stateless, times_in_order


@dataclass(frozen=True)
class GradientSettings:
    """What the engine does to any rule's g before it becomes a loss."""

    clip: Schedule | None = setting(None, above=0, help="clamp of each element of g")


@dataclass(frozen=True)
class NoiseSettings(GradientSettings):
    """Where on the noise table a rule works, and how much it counts there. The defaults are DreamFusion's."""

    t_min: Schedule = setting(constant(0.02), low=0, high=1, help="lowest noise, fraction of the table")
    t_max: Schedule = setting(constant(0.98), low=0, high=1, help="highest noise, fraction of the table")
    weight: str = setting("sds", choices=WEIGHTS, help="w(t)")

    def times(self, look: Look, shared: bool = False) -> Tensor:
        """[B] t_index of this step's views, drawn in the range; `shared`: one for all."""
        return look.timesteps(self.t_min.at(look.progress), self.t_max.at(look.progress), shared)

    def time(self, look: Look) -> int:
        """One time for the whole batch as a plain number, for rules that walk the table."""
        return look.time_index(self.t_min.at(look.progress), self.t_max.at(look.progress))


Settings = TypeVar("Settings", bound=GradientSettings)


class Configured(Generic[Settings]):
    """A rule with its settings."""

    guided: ClassVar[bool] = False  # adaptive guidance may leave the unconditional half out
    rescales: ClassVar[bool] = False  # `prompting.rescale` reaches its guidance
    colours: ClassVar[bool] = False  # reads the colours of the frames, whatever the guidance is shown

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def clip(self, now: Progress) -> float | None:
        """The clamp that the engine puts on each element of g at this moment."""
        return None if self.settings.clip is None else self.settings.clip.at(now)

    @classmethod
    def rescaled(cls, settings: Settings) -> bool:
        """Whether `prompting.rescale` reaches the guidance of a rule so set."""
        return cls.rescales

    @staticmethod
    def check(settings: Settings) -> str | None:
        """What is wrong between the settings, or None."""
        low, high = getattr(settings, "t_min", None), getattr(settings, "t_max", None)
        return times_in_order(low, high) if isinstance(low, Schedule) and isinstance(high, Schedule) else None


class Rule(Stateless, Configured[Settings]):
    """The same, remembering nothing from one step to the next."""
