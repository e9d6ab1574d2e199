# SPDX-License-Identifier: Apache-2.0
"""Jobs under random kills, with clocks minutes apart: each done exactly once, bytes as undisturbed; two hundred of them
in a folder, and some through a bucket in bad weather."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.batch_soak import Soaked, soak
from tests.jobs.engines.s3 import S3Server, Weather

pytest.importorskip("obstore", reason="obstore is not installed (extra `clusters`)")
pytestmark = [pytest.mark.release, pytest.mark.timeout(7200)]


def test_under_random_kills_each_job_is_done_once(tmp_path: Path) -> None:
    found = soak(str(tmp_path), str(tmp_path), Soaked(200, 2, "a folder"), seconds=180, gap=6)
    assert not found.wrong, found
    assert found.kills > 5 and found.ends["done"] == 200, "nothing was disturbed"


def test_the_same_through_a_bucket_in_bad_weather(s3: S3Server, tmp_path: Path) -> None:
    """Of all requests a tenth is refused, a twentieth done and not answered, a tenth late."""
    s3.weather = Weather(fails=0.1, loses=0.05, slow=0.1)
    found = soak(s3.place(), str(tmp_path), Soaked(24, 2, "an S3 in bad weather"), seconds=60, gap=6)
    assert not found.wrong, found
    assert found.kills > 2 and found.ends["done"] == 24, "nothing was disturbed"
    assert min(s3.weather.seen[kind] for kind in ("fails", "loses", "slow")) > 20, "the weather was too fair"
