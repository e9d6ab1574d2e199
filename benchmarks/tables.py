# SPDX-License-Identifier: Apache-2.0
"""Figures in the pages are those of the JSON files that the benches wrote.

    python -m benchmarks.tables        rewrites the tables of docs/*.md from docs/benchmarks/*.json

A table stands between `<!-- figures NAME.json -->` and `<!-- end -->`. Its last column is written by people, once for
each entry, and kept; an entry of the file that the page has no row for gets one with the bench's own note.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(<!-- figures ([\w-]+\.json) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
HEAD = "| entry | value | floor | |\n| --- | --- | --- | --- |\n"


def filled(page: str, folder: Path) -> str:
    """The page with the figures of the files."""
    return BLOCK.sub(lambda found: f"{found[1]}{rows(folder / found[2], said(found[3]))}{found[4]}", page)


def said(table: str) -> dict[str, str]:
    """What the last column says of an entry."""
    found = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 4 and cells[0].startswith("`"):
            found[cells[0].strip("`")] = cells[3]
    return found


def rows(file: Path, told: dict[str, str]) -> str:
    lines = []
    for check in json.loads(file.read_text("utf-8"))["checks"]:
        name, value, floor, lower = check["name"], check["value"], check["floor"], check["better"] == "lower"
        met = floor is None or (value <= floor if lower else value >= floor)
        wanted = "" if floor is None else f"{'at most ' if lower else ''}{floor:g}{'' if met else ' **missed**'}"
        gap = "" if check["unit"] in ("", "x") else " "
        unit = check["unit"] if check["unit"] else ""
        lines.append(f"| `{name}` | {value:.4g}{gap}{unit} | {wanted} | {told.get(name, check['note'])} |\n")
    return HEAD + "".join(lines)


def main() -> None:
    for path in sorted(DOCS.glob("*.md")):
        page = path.read_text("utf-8")
        if (new := filled(page, DOCS / "benchmarks")) != page:
            path.write_text(new, "utf-8")
            print(f"{path.name}: written")


if __name__ == "__main__":
    main()
