# SPDX-License-Identifier: Apache-2.0
"""The page of the rules says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from dreamlab.recipe import names
from systems import SYSTEMS

PAGE = (Path(__file__).parents[2] / "docs" / "systems.md").read_text()


def test_every_rule_has_its_line_with_paper_cost_and_needs() -> None:
    rows = {
        row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in map(cells, PAGE.splitlines()) if len(row) == 6
    }
    assert sorted(SYSTEMS) == [name for name in rows if name in SYSTEMS]
    for name, rule in SYSTEMS.items():
        what, paper, cost, needs, sure = rows[name]
        assert what == (rule.__doc__ or "").strip().splitlines()[0].rstrip(".")
        assert (paper, cost) == (rule.paper, rule.cost) and sure
        assert needs == (", ".join(sorted(rule.needs)) or "-")


def test_recipes_that_the_page_names_exist() -> None:
    for name in re.findall(r"`(paper/\w+)`", PAGE):
        assert name in names()


def cells(line: str) -> list[str]:
    return line.strip().strip("|").split("|") if line.startswith("|") else []
