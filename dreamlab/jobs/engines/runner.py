# SPDX-License-Identifier: Apache-2.0
"""An attempt on this machine: the run comes out of the store as far as an earlier attempt had come, goes on, and every
new checkpoint goes back; what it made is committed by the ledger alone."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

from dreamlab import pipeline
from dreamlab.core.errors import DiskError, DreamError, Interrupted, is_disk_error
from dreamlab.jobs.beginning import Asker, new_run
from dreamlab.jobs.engines.bucket import ObjectStore
from dreamlab.jobs.engines.courier import Courier, leave, newest_in
from dreamlab.jobs.engines.ledger import HeldJob, Task
from dreamlab.jobs.engines.pull import AttemptOutcome
from dreamlab.jobs.requests import DreamRequest, request_of
from dreamlab.jobs.resident import Resident, room_on
from dreamlab.jobs.states import ASKED_TO_STOP
from dreamlab.run.folder import Run
from dreamlab.run.signals import StopSignal
from dreamlab.run.watching import UNWATCHED, WATCHED

LOOK_S = 0.2


class Runner:
    """Runs attempts one after the other and keeps what they load; `place` is scratch room of this machine. `live`:
    somebody looks on, and what a run says of itself goes to the store all the time."""

    def __init__(self, bucket: ObjectStore, place: Path, device: str, resident: int = 0, live: bool = False) -> None:
        self.bucket, self.place, self.device, self.live = bucket, place, device, live
        self.shelf = Resident(room_on(device, resident))

    def __call__(self, held: HeldJob, lost: threading.Event, stop: threading.Event) -> AttemptOutcome:
        folder, began = self.place / held.key.replace("/", "-"), time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        sound = False
        try:
            run = self.begin(held, folder)
            asked, courier = StopSignal(), Courier(self.bucket, run, held, self.live)
            watch = WATCHED if self.live else UNWATCHED
            with watching(asked, lost, stop):
                pipeline.execute(run, self.device, courier.tick, asked=asked, shelf=self.shelf, watch=watch)
            sound = True
            if lost.is_set():
                return AttemptOutcome(ASKED_TO_STOP, fenced=True)
            return AttemptOutcome(0, courier.results() | {"seconds": round(time.monotonic() - began, 1)})
        except Interrupted as error:
            if lost.is_set():
                return AttemptOutcome(ASKED_TO_STOP, fenced=True)
            courier.leave()
            return AttemptOutcome(ASKED_TO_STOP, why=str(error))
        except DreamError as error:
            return AttemptOutcome(error.exit_code, why=str(error), fenced=lost.is_set())
        except OSError as error:
            if not is_disk_error(error):
                raise
            return AttemptOutcome(DiskError.exit_code, why=str(error), fenced=lost.is_set())
        finally:
            self.shelf.settle(sound, loads(held.task))
            shutil.rmtree(folder, ignore_errors=True)

    def holds(self, task: Task) -> bool:
        return loads(task) in self.shelf.names()

    def begin(self, held: HeldJob, folder: Path) -> Run:
        """The run of the newest earlier attempt that has left one, else a new one, which is left at once: whoever comes
        later goes on with the same."""
        folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(held.attempt - 1, 0, -1):
            earlier = HeldJob(held.task, attempt, "").prefix
            if self.bucket.get(earlier + "run/spec.json") is not None:
                run = self._fetched(earlier, folder / "run")
                leave(self.bucket, run, held)
                return run
        request = request_of("dream", held.task.wanted)
        assert isinstance(request, DreamRequest)
        run = new_run(folder, request, Asker(trusted=True))
        leave(self.bucket, run, held)
        return run

    def _fetched(self, prefix: str, folder: Path) -> Run:
        self.bucket.download(prefix + "run/", folder)
        if (name := newest_in(self.bucket, prefix)) is not None:
            self.bucket.download(f"{prefix}ckpt/{name}/", folder / "ckpt" / name)
        for name in ("ckpt", "previews", "export"):
            (folder / name).mkdir(exist_ok=True)
        return Run.open(folder)


def loads(task: Task) -> str:
    """The same for jobs that surely load the same guidances: of one recipe, with the same settings of its terms. No
    recipe is read for it: a worker asks this of many jobs that it does not take."""
    settings = task.wanted.get("settings", {})
    told = {name: value for name, value in settings.items() if "guidance" in name or "terms" in name}
    pictured = bool(task.wanted.get("image")) and not task.wanted.get("recipe")
    return json.dumps([task.wanted.get("recipe", ""), pictured, told], sort_keys=True)


class watching:
    """While a run goes on: it is asked to stop when its attempt is lost or the worker must leave."""

    def __init__(self, asked: StopSignal, *events: threading.Event) -> None:
        self.asked, self.events, self.over = asked, events, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self.over.wait(LOOK_S):
            if any(event.is_set() for event in self.events):
                self.asked.request()
                return

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()
