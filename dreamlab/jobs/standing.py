# SPDX-License-Identifier: Apache-2.0
"""How far a run has come, from its folder: the recipe's steps, the state, and the tail of its events, for a long run
has a hundred megabytes of those. Nothing here waits for the run, or is surprised by half a line."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from dreamlab.core.files import Json

TAIL = 1 << 16  # bytes of events that are looked at
WINDOW = 10  # readings of the metrics that the speed is of
MOST_RECIPE = 1 << 20
PREVIEW = re.compile(r"step_(\d{6,12})\.png")


@dataclass(frozen=True)
class Outline:
    """What of a recipe a progress bar needs."""

    stages: tuple[tuple[str, int], ...] = ()  # names and steps
    negative: str = ""

    @property
    def total(self) -> int:
        return sum(steps for _, steps in self.stages)

    def stage_at(self, step: int) -> str:
        for name, steps in self.stages:
            if step < steps:
                return name
            step -= steps
        return self.stages[-1][0] if self.stages else ""


@dataclass(frozen=True)
class LiveFile:
    """The newest file for a 3D view."""

    path: str
    step: int
    kind: str


@dataclass(frozen=True)
class Standing:
    """Where a run stands."""

    stage: str = ""
    step: int = 0
    it_per_s: float | None = None
    live: LiveFile | None = None


@dataclass(frozen=True)
class Artifact:
    """A file that an export wrote, as its report has it."""

    name: str  # below the run's folder, with slashes
    kind: str
    bytes: int
    sha256: str


def outline(folder: Path) -> Outline:
    path = folder / "recipe.yaml"
    try:
        found = path.stat()
    except OSError:
        return Outline()
    return _outline(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(4096)
def _outline(path: Path, changed: int, size: int) -> Outline:
    """Recipes in run folders are ours: written out, plain, small."""
    try:
        if size > MOST_RECIPE:
            return Outline()
        tree = yaml.load(path.read_bytes(), _LOADER)  # noqa: S506  safe ones both
        stages = tuple((str(stage["name"]), int(stage["steps"])) for stage in tree["stages"])
        return Outline(stages, str(tree.get("negative") or ""))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
        return Outline()


_LOADER: type = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


def standing(folder: Path) -> Standing:
    """From the newest attempt's events; where that has said nothing yet, from the state."""
    metrics: list[Json] = []
    live = None
    for event in tail_events(folder):
        kind = event.get("kind")
        if kind == "start":
            metrics.clear()
        elif kind == "metrics" and isinstance(event.get("global_step"), int):
            metrics.append(event)
        elif kind == "live":
            live = _live(folder, event) or live
    if not metrics:
        return Standing(step=_saved_step(folder), live=live)
    newest = metrics[-1]
    return Standing(str(newest.get("stage", "")), newest["global_step"], _speed(metrics), live)


def _speed(metrics: list[Json]) -> float | None:
    newest = metrics[-1]
    same = [each for each in metrics[-WINDOW:] if each.get("stage") == newest.get("stage")]
    first = same[0]
    try:
        seconds, steps = newest["seconds"] - first["seconds"], newest["global_step"] - first["global_step"]
    except (KeyError, TypeError):
        return None
    return round(steps / seconds, 3) if seconds > 0 and steps > 0 else None


def _live(folder: Path, event: Json) -> LiveFile | None:
    path, step, kind = event.get("path"), event.get("step"), event.get("of", "mesh")
    if not (isinstance(path, str) and isinstance(step, int) and isinstance(kind, str)) or "/" in path:
        return None
    return LiveFile(f"previews/{path}", step, kind) if (folder / "previews" / path).is_file() else None


def _saved_step(folder: Path) -> int:
    try:
        step = json.loads((folder / "state.json").read_bytes()).get("step", 0)
    except (OSError, ValueError, AttributeError, RecursionError):
        return 0
    return step if isinstance(step, int) and step >= 0 else 0


def tail_events(folder: Path, most: int = TAIL) -> Iterator[Json]:
    """The last whole lines of a run's events."""
    try:
        with (folder / "events.jsonl").open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(size - most, 0))
            lines = handle.read(most).split(b"\n")
    except OSError:
        return
    for line in lines[1 if size > most else 0 : -1]:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event


def newest_preview(folder: Path) -> str:
    """Its name below the folder; empty where there is none."""
    try:
        names = [entry.name for entry in os.scandir(folder / "previews")]
    except OSError:
        return ""
    steps = [int(found[1]) for name in names if (found := PREVIEW.fullmatch(name))]
    return f"previews/step_{max(steps):06d}.png" if steps else ""


def artifacts(folder: Path) -> list[Artifact]:
    """What exports wrote and is there: the usual files, those of presets, a painted asset."""
    from dreamlab.export.report import REPORT, read_report

    found = []
    places = [path.parent for path in (*folder.glob(f"export/{REPORT}"), *sorted(folder.glob(f"export/*/{REPORT}")))]
    for path in (*places, folder / "painted"):
        place, report = path.relative_to(folder).as_posix(), read_report(path)
        for name, entry in report.get("files", {}).items():
            if isinstance(entry, dict) and ".." not in name.split("/") and (folder / place / name).is_file():
                size, digest = entry.get("bytes", 0), str(entry.get("sha256", ""))
                kind = str(entry.get("format", ""))
                found.append(Artifact(f"{place}/{name}", kind, size if isinstance(size, int) else 0, digest))
    return found
