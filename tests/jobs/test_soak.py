# SPDX-License-Identifier: Apache-2.0
"""Half a minute of what `python -m benchmarks.soak` does for as long as one likes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import LEAST_KILLS, VICTIMS, soak


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_random_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    found = soak(tmp_path, seconds=30, jobs=2, seed=1)
    assert found.faults == []
    assert found.kills.total() >= LEAST_KILLS and set(found.kills) == set(VICTIMS)
    assert found.attempts > len(found.jobs) >= 2
