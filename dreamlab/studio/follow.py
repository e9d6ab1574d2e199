# SPDX-License-Identifier: Apache-2.0
"""What a run has said so far: its log from a byte on, its curves from a step on, its previews. Read while it is
written; a long run's events are looked through once, and then only their new end."""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from dreamlab.core.files import Json

MOST_LOG = 1 << 18  # bytes of one answer
MOST_POINTS = 2000  # of one answer; more are thinned out evenly
MOST_KEPT = 64  # runs whose curves are remembered
MOST_READ = 256 << 20  # bytes of events that are looked through
CURVES = ("loss", "grad_rms", "alpha", "truth_iou")
PREVIEW = re.compile(r"step_(\d{6,12})\.png")


def opened(path: Path) -> int | None:
    """A regular file's descriptor, never of what a link points to; None where there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return None
    return handle


def log_after(folder: Path, after: int) -> Json:
    """Lines of the log from byte `after` on, whole ones alone, and where the next ones begin."""
    handle = opened(folder / "log.txt")
    if handle is None:
        return {"text": "", "next": 0, "more": False}
    with os.fdopen(handle, "rb") as log:
        size = os.fstat(log.fileno()).st_size
        start = after if after <= size else 0  # it was begun anew
        log.seek(start)
        data = log.read(MOST_LOG)
    whole = data[: data.rfind(b"\n") + 1] if len(data) < MOST_LOG or b"\n" in data else data
    return {"text": whole.decode("utf-8", "replace"), "next": start + len(whole), "more": start + len(whole) < size}


def previews(folder: Path) -> list[int]:
    """The steps that there are pictures of."""
    try:
        names = [path.name for path in (folder / "previews").iterdir()]
    except OSError:
        return []
    return sorted(int(found[1]) for name in names if (found := PREVIEW.fullmatch(name)))


@dataclass
class _Curve:
    """What is known of a run's events up to a byte."""

    inode: int = 0
    at: int = 0
    points: list[Json] = field(default_factory=list)


class Curves:
    """The metrics of runs, remembered as far as they have been read."""

    def __init__(self) -> None:
        self._known: OrderedDict[Path, _Curve] = OrderedDict()
        self._lock = threading.Lock()

    def points(self, folder: Path, after: int = -1) -> list[Json]:
        """Points of later steps than `after`, at most MOST_POINTS, the last always among them."""
        with self._lock:
            curve = self._known.pop(folder, _Curve())
            self._known[folder] = _continued(folder / "events.jsonl", curve)
            while len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)
            found = [point for point in self._known[folder].points if point["step"] > after]
        stride = -(-len(found) // MOST_POINTS) or 1
        return [point for i, point in enumerate(found) if (len(found) - 1 - i) % stride == 0]


def _continued(path: Path, curve: _Curve) -> _Curve:
    """Read on from where the curve ends; from the start where the file is another one."""
    handle = opened(path)
    if handle is None:
        return _Curve()
    with os.fdopen(handle, "rb") as events:
        told = os.fstat(events.fileno())
        if told.st_ino != curve.inode or told.st_size < curve.at:
            curve = _Curve(told.st_ino)
        events.seek(curve.at)
        while curve.at < MOST_READ and (line := events.readline(1 << 20)).endswith(b"\n"):
            curve.at += len(line)
            _take(line, curve.points)
    return curve


def _take(line: bytes, points: list[Json]) -> None:
    """A line of events, if it has numbers of a step. A run that went back to a checkpoint says its steps again."""
    if b'"metrics"' not in line and b'"truth"' not in line:
        return
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return
    if not isinstance(event, dict) or event.get("kind") not in ("metrics", "truth"):
        return
    step = event.get("global_step", event.get("step"))
    if not isinstance(step, int) or isinstance(step, bool):
        return
    told: Json = {"step": step} | ({"stage": event["stage"]} if isinstance(event.get("stage"), str) else {})
    event = event | ({"truth_iou": event["iou"]} if event["kind"] == "truth" and "iou" in event else {})
    told |= {name: event[name] for name in (*CURVES, "seconds") if _finite(event.get(name))}
    while points and points[-1]["step"] > step:
        points.pop()
    if points and points[-1]["step"] == step:
        points[-1] |= told
    else:
        points.append(told)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
