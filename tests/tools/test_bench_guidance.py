# SPDX-License-Identifier: Apache-2.0
"""`dreamlab bench guidance`: the ledger of performance.md at full size, and the steps it times at a tiny one."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")

from benchmarks.distilling import ledger, measure
from tests.tools.test_bench_gpu import TINY


def test_the_ledger_is_that_of_the_published_sizes() -> None:
    expected = {
        "sds_sd15": 3.87,
        "sds_sd15_incumbent": 6.39,
        "sds_sd15_tiny": 1.85,
        "sds_sd15_hybrid": 2.97,
        "ism_sd15": 8.69,
        "sds_sdxl": 23.8,
    }
    assert ledger() == pytest.approx(expected, rel=0.02)


def test_every_step_is_timed_beside_the_others() -> None:
    found = {check.name: check for check in measure(TINY, repeats=1)}
    for name in ("incumbent", "vsd", "ism"):
        assert found[f"cpu_{name}_over_sds"].value > 0
    assert found["flops_incumbent_over_sds"].value == pytest.approx(6.39 / 3.87, rel=0.01)
