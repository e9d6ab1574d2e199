# SPDX-License-Identifier: Apache-2.0
"""The table of docs/systems.md: rules are compared on the cells they share with SDS, the best comes first."""

from __future__ import annotations

import pytest

from benchmarks.systems_table import COLUMNS, gains, table


def cell(rule: str, seed: int, iou: float | None) -> dict[str, object]:
    figures = None if iou is None else {"iou": iou}
    return {"cell": {"system": rule, "prompt": "a red ball", "seed": seed}, "figures": figures}


CELLS = [cell("sds", 0, 0.5), cell("sds", 1, 0.7), cell("sds", 2, 0.6), cell("ism", 0, 0.6), cell("ism", 1, 0.6)]


def test_gains_pair_prompts_and_seeds() -> None:
    mean, error = gains(CELLS)["ism"]  # +0.1 and -0.1; the seed that ism lacks does not count
    assert mean == pytest.approx(0.0, abs=1e-12)
    assert error == pytest.approx(0.1)  # sqrt((0.1^2 + 0.1^2) / 1) / sqrt 2


def test_nothing_to_measure_counts_as_no_overlap_and_one_cell_says_nothing() -> None:
    assert gains([*CELLS, cell("csd", 0, None), cell("csd", 1, None)])["csd"] == pytest.approx((-0.6, 0.1))
    assert "csd" not in gains([*CELLS, cell("csd", 0, 0.9)])


def test_rows_come_by_overlap() -> None:
    fields = {field for field, _ in COLUMNS.values()}
    rows = {
        rule: dict.fromkeys(fields, 0.0) | {"iou": iou, "diversity": None} for rule, iou in (("a", 0.2), ("b", 0.4))
    }
    lines = table({"cells": [], "rows": rows})
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["`b`", "`a`"]
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 3} and " - " in lines[2]
