# SPDX-License-Identifier: Apache-2.0
"""A device of the queue that is a Ray cluster: a job's folder goes to a store that both reach, a job of Ray's pulls it
from there as any worker of a batch does, and what it tells the store comes back into the folder. So log, progress,
pictures and files of such a job are where those of any other are.

The folder here is attempt 1 of a batch of one, paused; the cluster's worker makes attempt 2 of it. Every attempt of the
queue has a batch of its own in the store, so that one which was given up writes where nobody looks. A follower that
dies, or is told to leave, lets Ray's job go on; the next attempt of the queue finds it and follows it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dreamlab.core.errors import DreamError, InputError, Interrupted
from dreamlab.core.files import Json, write_atomic
from dreamlab.jobs.engines.bucket import ObjectStore
from dreamlab.jobs.engines.courier import GROWS, LIVE, leave, newest_in
from dreamlab.jobs.engines.ledger import PAUSED, HeldJob, Ledger, Task
from dreamlab.jobs.engines.manifest import write_manifest
from dreamlab.jobs.engines.rayjobs import RUNNING, STOP_S, ClusterAway, RayJobs, token_here
from dreamlab.jobs.states import Job
from dreamlab.jobs.wishes import Wish
from dreamlab.run.folder import Run

RAY = "ray"  # the device
WHERE = "DREAMLAB_RAY"  # the variable in which a studio tells its workers of the cluster; never the token
REMOTE_KINDS = ("dream", "continue", "branch")  # what goes to the cluster; the others write files of runs that lie here
LOOK_S = 1.0
BACK = 5  # attempts of the queue, whose job may still go on
KILLED = 137
TASK = Task(0, 0)
OURS, THEIRS = HeldJob(TASK, 1, "studio"), HeldJob(TASK, 2, "")


class RemoteFailure(DreamError):
    """How it ended over there."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class ClusterPlace:
    """Where the cluster is, the store that it reaches, too, and what a job may have of it."""

    address: str
    store: str
    gpus: float = 0.0

    def announce(self) -> None:
        """To the processes that this one starts."""
        os.environ[WHERE] = json.dumps(asdict(self))

    @staticmethod
    def announced() -> ClusterPlace:
        try:
            return ClusterPlace(**json.loads(os.environ[WHERE]))
        except (KeyError, ValueError, TypeError):
            raise InputError(
                "--device ray: no cluster is known; dreamlab studio --ray-address URL --ray-store URL"
            ) from None

    def jobs(self) -> RayJobs:
        return RayJobs(self.address, token_here())


class Follower:
    """Has one attempt of the queue made on the cluster."""

    def __init__(self, place: ClusterPlace, job: Job, run: Run) -> None:
        self.place, self.job, self.run = place, job, run
        self.cluster = place.jobs()
        self.id = ""
        self.mirror: Mirror | None = None

    def follow(self, wish: Wish, leaving: threading.Event) -> None:
        """To its end; Interrupted where it is asked to stop, or this process is to leave while it goes on."""
        with self.run.lock():
            self.begin()
            assert self.mirror is not None
            while not self.mirror.look():
                if wish.requested:
                    self.stop(wish.keep)
                if leaving.wait(LOOK_S):
                    raise Interrupted(f"Ray's job {self.id} goes on; whoever looks next follows it")
                self.check()

    def begin(self) -> None:
        """The job of an earlier attempt that goes on, or a new one."""
        for attempt in range(self.job.attempt, max(self.job.attempt - BACK, 0), -1):
            there = self.cluster.job(self._id(attempt))
            mirror = Mirror(ObjectStore(self._url(attempt)), self.run)
            if there is not None and (there.status in RUNNING or mirror.done()):
                self.id, self.mirror = self._id(attempt), mirror
                self.run.log(f"follows Ray's job {self.id}")
                return
        self.id, url = self._id(self.job.attempt), self._url(self.job.attempt)
        self.run.log(f"goes to the cluster as Ray's job {self.id}")
        bucket = ObjectStore(url)
        self.mirror = Mirror(bucket, self.run)
        self.mirror.given()
        write_manifest(bucket, iter([{"prompt": self.job.prompt}]))
        leave(bucket, self.run, OURS)
        ledger = Ledger(bucket, OURS.worker, time.monotonic)
        if ledger.take(TASK, 0) is not None:
            ledger.pause(OURS)
        device = "cuda" if self.place.gpus else "cpu"
        command = f"python -m dreamlab.jobs.engines.worker {shlex.quote(url)} --device {device} --live"
        self.cluster.submit(self.id, command, self.place.gpus, {})

    def _id(self, attempt: int) -> str:
        return f"dreamlab-{self.job.id}-{attempt}"

    def _url(self, attempt: int) -> str:
        return f"{self.place.store.rstrip('/')}/{self.job.id}/{attempt}"

    def check(self) -> None:
        """An end that the store does not tell of: its process was killed, its node is gone. A cluster that does not
        answer says nothing: the store tells how the job stands."""
        assert self.mirror is not None
        try:
            there = self.cluster.job(self.id)
        except ClusterAway:
            return
        if there is not None and there.status in RUNNING:
            return
        if self.mirror.look():  # it ended between the two looks
            return
        if self.mirror.ended() == PAUSED:
            raise Interrupted(f"Ray's job {self.id} was stopped; it goes on from its checkpoint")
        said = "" if there is None else self.cluster.said(self.id) or there.message
        raise RemoteFailure(f"Ray's job {self.id} is gone ({said or 'the cluster does not know it any more'})", KILLED)

    def stop(self, keep: bool) -> None:
        """`keep`: wait for what it leaves. Else whoever cancelled does not wait, and nobody reads what it makes."""
        assert self.mirror is not None
        with suppress(ClusterAway):
            self.cluster.stop(self.id)
        until = time.monotonic() + (STOP_S if keep else 0)
        while not self.mirror.ended() and time.monotonic() < until:
            time.sleep(LOOK_S)
        self.mirror.look()
        raise Interrupted("stopped on the cluster")


class Mirror:
    """What the cluster's worker tells the store, in the run's folder here. Each piece has its place, so that one which
    is fetched twice changes nothing."""

    def __init__(self, bucket: ObjectStore, run: Run) -> None:
        self.bucket, self.run = bucket, run
        self._seen: dict[str, object] = {}
        self._checkpoint = ""
        self._base: Json = {}

    def given(self) -> None:
        """How long the files that grow were when they left."""
        sizes = {name: size_of(self.run.path / name) for name in GROWS}
        self.bucket.put("given.json", json.dumps(sizes).encode())

    def done(self) -> bool:
        return self.bucket.get(f"done/{TASK.key}") is not None

    def ended(self) -> str:
        """How the attempt over there did; empty: it has not."""
        told = self.bucket.get(f"ends/{THEIRS.key}")
        return "" if told is None else str(json.loads(told)["end"])

    def look(self) -> bool:
        """Fetch what is new; whether it came to its end. Raises what it ended by."""
        done, poison = self.bucket.get(f"done/{TASK.key}"), self.bucket.get(f"poison/{TASK.key}")
        marks = self.bucket.marks(THEIRS.prefix)
        for key in sorted(marks):
            name = key.removeprefix(THEIRS.prefix)
            if marks[key] != self._seen.get(key) and name.startswith((LIVE, "previews/")):
                self._fetch(name)
                self._seen[key] = marks[key]
        if done is not None:
            for name in [*json.loads(done)["results"]["files"], "state.json"]:
                path = self._place(name)
                write_atomic(path, self.bucket.get(THEIRS.prefix + name) or b"")
            return True
        self._checkpoints()
        if poison is not None:
            told = json.loads(poison)
            raise RemoteFailure(str(told["why"]), int(told["code"]))
        return False

    def _checkpoints(self) -> None:
        name = newest_in(self.bucket, THEIRS.prefix) or ""
        if name == self._checkpoint or not re.fullmatch(r"step_\d{6,12}", name):
            return
        there = self.run.ckpt / name
        if not there.is_dir():
            making = there.with_name(f".tmp-{name}-{os.getpid()}")
            self.bucket.download(f"{THEIRS.prefix}ckpt/{name}/", making)
            making.rename(there)
        write_atomic(self._place("state.json"), self.bucket.get(f"{THEIRS.prefix}run/state.json") or b"{}")
        self._checkpoint = name

    def _fetch(self, name: str) -> None:
        data = self.bucket.get(THEIRS.prefix + name)
        if data is None:
            return
        if not name.startswith(LIVE):
            write_atomic(self._place(name), data)
            return
        grown, begin = name.removeprefix(LIVE).split("/")
        if grown not in GROWS:
            return
        self._base = self._base or json.loads(self.bucket.get("given.json") or b"{}")
        with (self.run.path / grown).open("r+b" if (self.run.path / grown).exists() else "w+b") as handle:
            handle.seek(int(self._base.get(grown, 0)) + int(begin))
            handle.write(data)

    def _place(self, name: str) -> Path:
        path = self.run.path / name
        if ".." in name.split("/") or not path.resolve().is_relative_to(self.run.path.resolve()):
            raise InputError(f"the store names a file outside of the run: {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def made_remotely(job: Job, run: Run, wish: Wish, leaving: threading.Event) -> None:
    """Follow a job of the queue on the cluster, to its end."""
    Follower(ClusterPlace.announced(), job, run).follow(wish, leaving)
