# SPDX-License-Identifier: Apache-2.0
"""Between a run's folder and the store: what it begins with, how far it has come, what it made, and for who looks on,
what it says of itself."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from dreamlab.core.files import Json
from dreamlab.jobs.engines.bucket import Bucket, ObjectStore
from dreamlab.jobs.engines.ledger import HeldJob
from dreamlab.run.checkpoint import committed
from dreamlab.run.crash import point
from dreamlab.run.folder import Run
from dreamlab.run.train import Tick

POINTER = "resume.json"  # names the newest checkpoint that is wholly in the store; written after it
LIVE = "live/"  # below it lie pieces of the files that grow, named by where they begin
SEND_S, LIVE_S = 20.0, 2.0  # at most so often
LOCAL_ONLY = (".lock", "previews")
GROWS = ("events.jsonl", "log.txt")


def given(run: Run) -> Iterator[Path]:
    """The files that a run begins with."""
    for path in run.path.rglob("*"):
        first = path.relative_to(run.path).parts[0]
        if path.is_file() and first not in (*LOCAL_ONLY, *GROWS, "state.json", "ckpt", "export"):
            yield path


def leave(bucket: ObjectStore, run: Run, held: HeldJob) -> None:
    """All but what grows, then how far it has come. The specification last: with it a run is there, and nobody looks at
    earlier attempts any more."""
    spec = run.path / "spec.json"
    files = [path for path in given(run) if path != spec]
    for path in files:
        bucket.put(f"{held.prefix}run/{path.relative_to(run.path).as_posix()}", path.read_bytes())
    Courier(bucket, run, held).send()
    bucket.put(f"{held.prefix}run/spec.json", spec.read_bytes())


def newest_in(bucket: Bucket, prefix: str) -> str | None:
    """Name of the newest checkpoint that an attempt has left."""
    pointer = bucket.get(prefix + POINTER)
    return None if pointer is None else str(json.loads(pointer)["checkpoint"])


class Courier:
    """Brings what a run makes to the store."""

    def __init__(self, bucket: ObjectStore, run: Run, held: HeldJob, live: bool = False) -> None:
        self.bucket, self.run, self.held, self.live = bucket, run, held, live
        self.sent, self.when, self.told_when = "", -SEND_S, -LIVE_S
        self._told: dict[str, int] = {}  # bytes of files that grow, times of others

    def tick(self, tick: Tick) -> None:
        now = time.monotonic()
        if now - self.when >= SEND_S:
            self.send()
        if self.live and now - self.told_when >= LIVE_S:
            self.told_when = now
            self.tell()

    def leave(self) -> None:
        """It stops here, and goes on elsewhere."""
        self.send()
        if self.live:
            self.tell()

    def tell(self) -> None:
        """What is new since the last time of events, log and previews."""
        for name in GROWS:
            path, begin = self.run.path / name, self._told.get(name, 0)
            with path.open("rb") as handle:
                handle.seek(begin)
                piece = handle.read()
            if piece:
                self.bucket.put(f"{self.held.prefix}{LIVE}{name}/{begin:012d}", piece)
                self._told[name] = begin + len(piece)
        for path in sorted(self.run.previews.iterdir()):
            changed = path.stat().st_mtime_ns
            if path.suffix in (".png", ".jpg", ".glb") and self._told.get(path.name) != changed:
                self.bucket.put(f"{self.held.prefix}previews/{path.name}", path.read_bytes())
                self._told[path.name] = changed

    def send(self) -> None:
        """The newest checkpoint, if it is not there: its files, then the run's state, then the name. The first goes at
        once."""
        kept = committed(self.run.ckpt)
        if not kept or kept[-1].name == self.sent:
            return
        self.when = time.monotonic()
        newest = kept[-1]
        self.bucket.upload(newest, f"{self.held.prefix}ckpt/{newest.name}/")
        point("batch.sending", self.held.task.key)
        self.bucket.put(f"{self.held.prefix}run/state.json", (self.run.path / "state.json").read_bytes())
        self.bucket.put(self.held.prefix + POINTER, json.dumps({"checkpoint": newest.name}).encode())
        self.sent = newest.name

    def results(self) -> Json:
        """The finished files are in the store when this returns, each with its sum."""
        point("batch.results", self.held.task.key)
        files: Json = {}
        for path in sorted(each for each in self.run.export.rglob("*") if each.is_file()):
            data, name = path.read_bytes(), path.relative_to(self.run.path).as_posix()
            self.bucket.put(self.held.prefix + name, data)
            files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if self.live:
            self.tell()
        for name in (*GROWS, "recipe.yaml", "state.json"):
            self.bucket.put(self.held.prefix + name, (self.run.path / name).read_bytes())
        return {"files": files, "run": str(self.run.spec()["id"])}
