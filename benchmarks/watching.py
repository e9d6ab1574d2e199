# SPDX-License-Identifier: Apache-2.0
"""What it costs a run to be watched: the share of its time that files for the 3D view, previews beside its recipe's and
the comparison with the world's truth take, for scenes of every kind of file.

    python -m benchmarks.watching [--seconds S] [--json FILE]

The loop is that of a run, for so many seconds of each recipe; the share is what the watcher spent of that time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from configs import find
from dreamlab import pipeline
from dreamlab.export import warm
from dreamlab.export.live import LIMIT, live
from dreamlab.metrics.figures import Check, report
from dreamlab.run.assemble import Assembler
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, preview, step
from dreamlab.run.truth import true_views
from dreamlab.run.watching import WATCHED, Watcher

RECIPES = ("toybox", "fit-field", "fit-gaussians4d", "fit-dmtet", "fit-mesh")
PROMPT, MOVING = "a red mushroom with a white stem", "a yellow duck jumping"
MOST = 0.05  # of the time
SECONDS = 40.0


def watched(name: str, seconds: float, folder: Path) -> list[Check]:
    """The share of the time, and how large the files are."""
    prompt = MOVING if name.endswith("4d") else PROMPT
    run = pipeline.create(prompt, find(name), folder, [], None, [])
    wanted = pipeline.load_recipe(run)
    assembler = Assembler(wanted, "cpu", run.path)
    stage = assembler.stage(0, {})
    step(stage, 0, Ring(METRICS, 1, stage.device))  # what is built and imported at the first ...
    warm()  # ... and beside it, in a run
    watcher = Watcher(run, WATCHED, live, true_views(wanted, assembler.prompts))
    began, i = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        i += 1
        step(stage, i % stage.spec.steps, Ring(METRICS, 1, stage.device))
        if watcher.strips.due():
            with watcher.strips.spending():
                preview(run, stage, i, i, watcher)
        watcher.look(stage.scene, i)
    took = time.monotonic() - began
    spent = watcher.live.spent + watcher.strips.spent
    files = [event for event in run.events() if event["kind"] == "live"]
    sizes, costs = [event["bytes"] for event in files], [event["seconds"] for event in files]
    details = {
        "files": len(files),
        "previews": watcher.strips.times,
        "seconds": round(took, 1),
        "live_s": round(watcher.live.spent, 2),
        "previews_s": round(watcher.strips.spent, 2),
    }
    note = f"{len(files)} files of {statistics.median(costs):.2f} s, {watcher.strips.times} previews, {i} steps"
    kind = files[-1]["of"]
    return [
        Check(f"{name}_share", round(spent / took, 4), "", MOST, "lower", note, details),
        Check(f"{name}_largest", max(sizes) / 1000, "kB", LIMIT / 1000, "lower", kind),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watching", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checks = [check for name in RECIPES for check in watched(name, given.seconds, Path(folder))]
    return 0 if report(checks, given.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())
