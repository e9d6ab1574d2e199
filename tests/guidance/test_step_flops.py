# SPDX-License-Identifier: Apache-2.0
"""What one distillation step asks of a family's networks at full size, counted on the meta device through the family
and the rule themselves: what performance.md 3 says, and nothing hidden."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")

from benchmarks.ledger import ENTRIES, Entry, counted, incumbent


@pytest.mark.parametrize(("entry", "expected"), ENTRIES, ids=[entry.name for entry, _ in ENTRIES])
def test_a_step_costs_what_its_parts_do(entry: Entry, expected: float) -> None:
    assert counted(entry) == pytest.approx(expected, rel=0.02)


def test_the_incumbent_s_step_has_a_picture_s_decoding_more() -> None:
    """6.39 TFLOP, 1.65 times ours."""
    assert incumbent(ENTRIES[0][0]) == pytest.approx(6.39, rel=0.02)
