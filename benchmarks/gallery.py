# SPDX-License-Identifier: Apache-2.0
"""How long a further page of the gallery takes in a browser, from the scroll until it is drawn, up to the last of 10000
runs; how large the page has become by then; and what a change of one run costs there.

    python -m benchmarks.gallery --json docs/benchmarks/gallery.json
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.browser import launched, program
from benchmarks.harness import QUIET
from benchmarks.index import RUNS, folders
from benchmarks.studio import late, studio
from dreamlab.export.png import png_bytes
from dreamlab.metrics.figures import Check, report

PAGE_FLOOR = 0.3  # s
PATIENCE_MS = 120_000
# Scroll to the end, and until the next page's tiles are there and have been drawn.
NEXT = """async (drawn) => {
  const tiles = () => document.querySelectorAll('.dlg-tile').length;
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const before = tiles(), began = performance.now();
  window.scrollTo(0, document.documentElement.scrollHeight);
  while (tiles() === before) {
    if (document.querySelector('dl-gallery').cursor === null) return null;
    await frame();
  }
  await frame();
  return (performance.now() - began) / 1000;
}"""
CHANGED = """async () => {
  const began = performance.now();
  await document.querySelector('dl-gallery').refresh();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return (performance.now() - began) / 1000;
}"""


class Clock:
    """Seconds by the clock, and of the page's own thread."""

    def __init__(self, page: Any) -> None:
        self.page, self.wire = page, page.context.new_cdp_session(page)
        self.wire.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.wall: list[float] = []
        self.thread: list[float] = []

    def used(self) -> float:
        told = {each["name"]: each["value"] for each in self.wire.send("Performance.getMetrics")["metrics"]}
        return float(told["TaskDuration"])

    def time(self, script: str) -> bool:
        before = self.used()
        took = self.page.evaluate(script)
        if took is not None:
            self.wall.append(took)
            self.thread.append(self.used() - before)
        return took is not None

    def check(self, name: str, note: str, **more: object) -> Check:
        """By the clock where the machine was quiet, else of the page's thread."""
        quiet = sum(self.wall) <= QUIET * sum(self.thread)
        details = {"clock": "wall" if quiet else "thread", "wall_s": round(late(self.wall), 4)}
        details |= {"thread_s": round(late(self.thread), 4), "most_thread_s": round(max(self.thread), 4)}
        value = late(self.wall if quiet else self.thread)
        return Check(name, round(value, 4), "s", PAGE_FLOOR, "lower", note, details | {"pages": len(self.wall)} | more)


def posters(root: Path) -> None:
    """A picture for every run, the same one."""
    import torch

    (root / "poster.png").write_bytes(png_bytes(torch.rand(128, 128, 3)))
    for folder in root.glob("*/export"):
        (folder / "poster.png").unlink()
        os.link(root / "poster.png", folder / "poster.png")


def measure(count: int = RUNS) -> list[Check]:
    path = program()
    assert path is not None, "needs Chromium"
    with tempfile.TemporaryDirectory(prefix="gallery-") as place:
        root = Path(place)
        folders(root, count)
        posters(root)
        with studio(root, page=True) as (port, _), launched(path) as browser:
            page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(f"http://127.0.0.1:{port}/?tab=gallery")
            page.wait_for_selector(".dlg-tile")
            clock = Clock(page)
            while clock.time(NEXT):
                pass
            nodes = page.evaluate("document.querySelectorAll('dl-gallery *').length")
            seen = page.evaluate("document.querySelector('dl-gallery').runs.length")
            changed = Clock(page)
            for _ in range(5):
                page.evaluate("document.querySelector('dl-gallery').told = ''")
                changed.time(CHANGED)
    assert seen == count, f"{seen} of {count} runs were shown"
    return [
        clock.check("gallery_drawn", f"each further page of {count} runs", elements=nodes),
        changed.check("gallery_changed", f"one run of {count} has changed, all of them seen"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sys.exit(0 if report(measure(given.runs), given.json) else 1)
