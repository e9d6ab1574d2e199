# SPDX-License-Identifier: Apache-2.0
"""The JSON of `benchmarks.systems` as the table of docs/systems.md: a row for each rule, best overlap first.

A rule is compared with `sds` cell by cell (same prompt, same seed), since prompts differ more than rules do: the mean
of the differences, and its standard error. Less than two of those says nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BASE = "sds"
COLUMNS = {  # heading -> (field of a row, how it is written)
    "steps": ("steps", "{:.0f}"),
    "calls": ("network_calls", "{:.0f}"),
    "pictures": ("network_rows", "{:.0f}"),
    "accepted": ("accepted", "{:.0%}"),
    "both colours": ("colours_right", "{:.0%}"),
    "R-precision": ("retrieved", "{:.0%}"),
    "IoU": ("iou", "{:.2f}"),
    "Chamfer, m": ("chamfer", "{:.3f}"),
    "Janus": ("janus", "{:.0%}"),
    "saturation, x true": ("saturation", "{:.2f}"),
    "diversity, x true": ("diversity", "{:.2f}"),
    "CPU s": ("cpu_s", "{:.0f}"),
}


def gains(cells: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """rule -> mean and standard error of its IoU minus that of `BASE` on the same prompt and seed."""
    found: dict[str, dict[tuple[str, int], float]] = {}
    for one in cells:
        place = one["cell"]["prompt"], one["cell"]["seed"]
        found.setdefault(one["cell"]["system"], {})[place] = one["figures"]["iou"] if one["figures"] else 0.0
    base, gained = found.get(BASE, {}), {}
    for rule, mine in found.items():
        gain = [value - base[place] for place, value in mine.items() if place in base]
        if rule != BASE and len(gain) > 1:
            gained[rule] = statistics.mean(gain), statistics.stdev(gain) / len(gain) ** 0.5
    return gained


def table(content: Mapping[str, Any]) -> list[str]:
    """Markdown."""
    gain = gains(content["cells"])
    heads = ["rule", *COLUMNS, f"IoU more than `{BASE}`"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for rule, row in sorted(content["rows"].items(), key=lambda item: -item[1]["iou"]):
        values = [written.format(row[name]) if row[name] is not None else "-" for name, written in COLUMNS.values()]
        more = "{:+.2f} ± {:.2f}".format(*gain[rule]) if rule in gain else "-"
        lines.append("| " + " | ".join([f"`{rule}`", *values, more]) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.systems_table", description=__doc__)
    parser.add_argument("json", type=Path, help="as `benchmarks.systems --json` wrote it")
    content = json.loads(parser.parse_args().json.read_text(encoding="utf-8"))
    prompts, seeds = (len({cell["cell"][name] for cell in content["cells"]}) for name in ("prompt", "seed"))
    print(f"guidance {content['guidance']}, prompts {prompts}, seeds {seeds}, cells missing {content['missing']}\n")
    print("\n".join(table(content)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
