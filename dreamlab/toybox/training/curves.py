# SPDX-License-Identifier: Apache-2.0
"""Training curves of a run's log.jsonl as a picture: `python -m dreamlab.toybox.training.curves RUN --out FILE.png`."""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

from dreamlab.core.files import write_atomic
from dreamlab.toybox.training.trainer import LOG

WIDE, HIGH, EDGE = 760, 360, 46
LINES = {  # name in the log -> colour, label
    "loss_half": ((170, 200, 235), "training, half size"),
    "loss_full": ((245, 195, 160), "training, full size"),
    "held_out_half": ((20, 90, 180), "held out, half size"),
    "held_out_full": ((205, 85, 20), "held out, full size"),
    "held_out_views": ((30, 140, 60), "views, held out"),
    "held_out_control": ((120, 120, 120), "control, held out"),
    "held_out_novel": ((150, 40, 150), "novel, held out"),
    "held_out_video": ((190, 150, 0), "video, held out"),
}
Series = list[tuple[float, float]]


def read(path: Path) -> dict[str, Series]:
    """(pictures, error) of every line of LINES that the log has."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    curves = {name: [(row["images"], row[name]) for row in rows if name in row] for name in LINES}
    return {name: series for name, series in curves.items() if series}


def smooth(series: Series, count: int = 150) -> Series:
    """Means of equal pieces, at most `count`."""
    size = max(1, len(series) // count)
    pieces = [series[i : i + size] for i in range(0, len(series) - size + 1, size)]
    return [(sum(x for x, _ in piece) / size, sum(y for _, y in piece) / size) for piece in pieces]


def plot(curves: dict[str, Series], title: str) -> bytes:
    """Errors on a logarithmic scale against pictures seen."""
    from PIL import Image, ImageDraw

    page = Image.new("RGB", (WIDE, HIGH), "white")
    pen = ImageDraw.Draw(page)
    points = [point for series in curves.values() for point in series]
    last = max((x for x, _ in points), default=1.0)
    low = math.log10(0.9 * min((y for _, y in points), default=0.1))
    high = math.log10(min(0.5, 1.1 * max((y for _, y in points), default=1.0)))

    def place(x: float, y: float) -> tuple[float, float]:
        across = EDGE + (WIDE - 2 * EDGE) * x / last
        up = (min(max(math.log10(y), low), high) - low) / (high - low)
        return across, HIGH - EDGE - (HIGH - 2 * EDGE) * up

    for y in (0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5):
        if low <= math.log10(y) <= high:
            pen.line([place(0, y), place(last, y)], fill=(225, 225, 225))
            pen.text((6, place(0, y)[1] - 6), f"{y:g}", fill="black")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(share * last, 10**low)
        pen.text((x - 12, y + 6), f"{share * last / 1000:.0f}k", fill="black")
    for i, (name, series) in enumerate(curves.items()):
        colour, label = LINES[name]
        if len(series) > 1:
            pen.line([place(*point) for point in smooth(series)], fill=colour, width=2)
        pen.line([(WIDE - 190, EDGE + 14 * i + 6), (WIDE - 170, EDGE + 14 * i + 6)], fill=colour, width=3)
        pen.text((WIDE - 164, EDGE + 14 * i), label, fill="black")
    pen.text((EDGE, 12), title, fill="black")
    pen.text((WIDE // 2 - 40, HIGH - 20), "pictures seen", fill="black")
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dreamlab.toybox.training.curves", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder, or a log.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="a .png")
    given = parser.parse_args(arguments)
    log = given.run / LOG if given.run.is_dir() else given.run
    write_atomic(given.out, plot(read(log), f"{log.parent.name}: weighted error of v"))
    print(given.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
