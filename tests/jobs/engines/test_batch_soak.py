# SPDX-License-Identifier: Apache-2.0
"""Two hundred jobs under random kills, with clocks minutes apart: each done exactly once, bytes as undisturbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.batch_soak import Soaked, soak

pytest.importorskip("obstore", reason="obstore is not installed (extra `clusters`)")


@pytest.mark.release
@pytest.mark.timeout(7200)
def test_under_random_kills_each_job_is_done_once(tmp_path: Path) -> None:
    found = soak(str(tmp_path), Soaked(200, 2, "a folder"), seconds=180, gap=6)
    assert not found.wrong, found
    assert found.kills > 5 and found.ends["done"] == 200, "nothing was disturbed"
