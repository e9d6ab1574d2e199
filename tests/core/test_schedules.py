# SPDX-License-Identifier: Apache-2.0
"""Schedules are pure functions of progress, with units."""

from __future__ import annotations

import math

import pytest

from dreamlab.core.schedules import Progress, Schedule, When, constant, ramp


def at(schedule: Schedule, step: int, total: int = 100) -> float:
    return schedule.at(Progress(step, total))


def test_constant() -> None:
    assert at(constant(3.0), 0) == at(constant(3.0), 99) == 3.0


def test_linear_is_clamped_on_both_sides() -> None:
    schedule = ramp(1.0, 0.0, When(0.2), When(0.6))
    assert [at(schedule, s) for s in (0, 20, 40, 60, 99)] == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])


def test_units_mean_the_same_moment() -> None:
    in_steps, in_percent = ramp(1, 0, When(20, "steps"), When(60, "steps")), ramp(1, 0, When(0.1), When(0.3))
    for step in range(0, 200, 7):
        assert at(in_steps, step, 200) == pytest.approx(at(in_percent, step, 200))


@pytest.mark.parametrize(
    ("curve", "quarter"),
    [
        ("linear", 1 + 3 * 0.25),
        ("sqrt", 1 + 3 * 0.5),
        ("cosine", 1 + 3 * (0.5 - 0.5 * math.cos(math.pi / 4))),
        ("exp", 4**0.25),
        ("jump", 1.0),
    ],
)
def test_curves_against_their_formulas(curve: str, quarter: float) -> None:
    assert at(ramp(1.0, 4.0, curve=curve), 25) == pytest.approx(quarter)


def test_jump_changes_at_its_moment() -> None:
    schedule = ramp(0.98, 0.5, When(0.0), When(50, "steps"), "jump")
    assert (at(schedule, 49), at(schedule, 50)) == (0.98, 0.5)


def test_many_points() -> None:
    schedule = Schedule(((When(0.0), 0.0), (When(0.5), 10.0), (When(1.0), 0.0)))
    assert [at(schedule, s) for s in (0, 25, 50, 75, 100)] == pytest.approx([0, 5, 10, 5, 0])
