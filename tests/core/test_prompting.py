# SPDX-License-Identifier: Apache-2.0
"""View weights, Perp-Neg's curves and the blend of conditions, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dreamlab.core.cameras import orbit
from dreamlab.core.errors import InputError
from dreamlab.core.prompting import Prompting, blend, choose, perp_neg_weights, perpendicular, view_weights
from dreamlab.core.types import Condition


def test_hard_words_change_at_the_papers_angles() -> None:
    azimuths = [0.0, 44.9, 45.0, 90.0, 135.0, 135.1, 180.0, -44.9, -90.0, -170.0]
    got = view_weights(orbit(azimuths), Prompting(views="hard")).argmax(1).tolist()
    assert got == [0, 0, 1, 1, 1, 2, 2, 0, 1, 2]  # 45 and 135 degrees are side
    high = view_weights(orbit([0.0, 0.0], [60.0, 60.5]), Prompting(views="hard")).argmax(1).tolist()
    assert high == [0, 3]  # 60 degrees is not overhead
    assert view_weights(orbit([35.0]), Prompting(views="hard", front_deg=30)).argmax(1).tolist() == [1]


def test_blended_words_are_linear_in_the_azimuth() -> None:
    got = view_weights(orbit([0.0, 30.0, 90.0, 120.0, 180.0, -30.0]), Prompting(views="blend"))
    third = 1 / 3
    side = [[0, 1, 0, 0]]
    expected = [[1, 0, 0, 0], [2 * third, third, 0, 0], *side, [0, 2 * third, third, 0], [0, 0, 1, 0]]
    torch.testing.assert_close(got, torch.tensor([*expected, [2 * third, third, 0, 0]]), atol=1e-5, rtol=0)


def test_perp_neg_weights_at_the_cardinal_views() -> None:
    """By hand from f(r) = a exp(-b r) + c at 0, 45, 90, 180 degrees and from above."""
    away, weights = perp_neg_weights(orbit([0.0, 45.0, 90.0, 180.0, 0.0], [0.0] * 4 + [80.0]), Prompting(perp_neg=1.0))

    def f(a: float, c: float, r: float) -> float:
        return a * math.exp(-0.5 * r) + c

    half = f(4, -2.426, 0.5)
    expected = [
        [-f(4, -2.426, 1), -f(4, -2.426, 0)],
        [-half, -half],
        [-f(1, -0.606, 1), -f(1, 0.967, 1)],
        [-f(1, -0.606, 0), -f(1, 0.967, 0)],
        [0, 0],
    ]
    torch.testing.assert_close(weights, torch.tensor(expected), atol=1e-5, rtol=0)
    assert away.tolist() == [[0, 1], [0, 1], [1, 0], [1, 0], [0, 1]]


def test_perpendicular_is_at_right_angles_sample_by_sample() -> None:
    a, b = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    got = perpendicular(a, b)
    assert (got * b).flatten(1).sum(1).abs().max() < 1e-10
    torch.testing.assert_close(perpendicular(a, torch.zeros_like(b)), a)
    torch.testing.assert_close(perpendicular(3 * b, b), torch.zeros_like(b))


def test_conditions_are_chosen_and_blended_by_row() -> None:
    table = torch.zeros(1)
    index = torch.arange(3)
    parts = [Condition({"e": torch.full((3, 2), float(k)), "i": index}, {"t": table}) for k in range(4)]
    assert choose(parts, torch.tensor([2, 0, 3])).rows["e"][:, 0].tolist() == [2, 0, 3]
    weights = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1.0], [0, 0.25, 0.75, 0]])
    mixed = blend(parts, weights)
    torch.testing.assert_close(mixed.rows["e"][:, 1], torch.tensor([0.5, 3.0, 1.75]))
    assert mixed.shared["t"] is table
    excluded = Condition({"e": torch.full((3, 2), -math.inf), "i": index}, {"t": table})
    assert torch.isfinite(blend([*parts[:3], excluded], weights).rows["e"][0]).all()  # a share of 0 adds nothing
    numbered = [Condition({"i": index + k}) for k in range(4)]
    with pytest.raises(InputError, match="views: hard"):
        blend(numbered, weights)
