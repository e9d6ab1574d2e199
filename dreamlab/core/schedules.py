# SPDX-License-Identifier: Apache-2.0
"""Anything that changes with time is a `Schedule`; its points carry their unit (a fraction of the stage, or steps)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

CURVES = ("linear", "cosine", "sqrt", "exp", "jump")


@dataclass(frozen=True)
class Progress:
    """Where a stage stands: `step` of `total`."""

    step: int
    total: int

    @property
    def fraction(self) -> float:
        return self.step / max(self.total, 1)


@dataclass(frozen=True)
class When:
    """A moment: a fraction of the stage (`percent`) or a number of steps. Never a bare number of unknown unit."""

    value: float
    unit: str = "fraction"  # fraction | steps

    def fraction(self, total: int) -> float:
        return self.value if self.unit == "fraction" else self.value / max(total, 1)

    def __str__(self) -> str:
        return f"{100 * self.value:.12g}%" if self.unit == "fraction" else f"{self.value:.12g} steps"


@dataclass(frozen=True)
class Schedule:
    """Values at moments, with one curve between neighbours; constant before the first and after the last.

    Curves, u in [0, 1] between two points a and b: linear; cosine (half wave); sqrt a + (b-a) sqrt(u) (HiFA);
    exp (geometric, both ends positive); jump (a until b's moment).
    """

    points: tuple[tuple[When, float], ...]
    curve: str = "linear"

    def at(self, progress: Progress) -> float:
        if len(self.points) == 1:  # nearly all of them, in every step
            return self.points[0][1]
        now = progress.fraction
        moments = [when.fraction(progress.total) for when, _ in self.points]
        values = [value for _, value in self.points]
        if now < moments[0]:
            return values[0]
        for i in range(len(values) - 1):
            if now < moments[i + 1]:
                u = (now - moments[i]) / (moments[i + 1] - moments[i])
                return _blend(values[i], values[i + 1], u, self.curve)
        return values[-1]

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(value for _, value in self.points)

    def plain(self) -> Any:
        """The form a recipe writes: a number, a ramp, or a list of points."""
        if len(self.points) == 1:
            return self.points[0][1]
        if len(self.points) == 2:
            (begin, start), (end, stop) = self.points
            return {"from": start, "to": stop, "begin": str(begin), "end": str(end), "curve": self.curve}
        return {"points": [{"at": str(when), "value": value} for when, value in self.points], "curve": self.curve}


def constant(value: float) -> Schedule:
    return Schedule(((When(0.0), float(value)),))


def ramp(
    start: float, stop: float, begin: When | None = None, end: When | None = None, curve: str = "linear"
) -> Schedule:
    """From `start` at `begin` (0 %) to `stop` at `end` (100 %)."""
    return Schedule(((begin or When(0.0), float(start)), (end or When(1.0), float(stop))), curve)


def _blend(a: float, b: float, u: float, curve: str) -> float:
    if curve == "jump":
        return a
    if curve == "exp":
        return a * (b / a) ** u
    if curve == "sqrt":
        u = math.sqrt(u)
    elif curve == "cosine":
        u = 0.5 - 0.5 * math.cos(math.pi * u)
    return a + (b - a) * u
