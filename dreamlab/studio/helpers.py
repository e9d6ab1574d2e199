# SPDX-License-Identifier: Apache-2.0
"""What goes on beside the server: the supervisor of the queue's workers, a process of its own that a killed server
leaves at its work and the next one finds; and old uploads are taken away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict

from dreamlab.core.errors import DreamError
from dreamlab.core.files import write_json
from dreamlab.jobs.database import FOLDER
from dreamlab.jobs.leases import Lease
from dreamlab.jobs.supervisor import running
from dreamlab.studio.studio import Studio

LOOK_S, SWEEP_S = 1.0, 3600.0
FIRST_WAIT_S, MOST_WAIT_S = 1.0, 60.0  # before a supervisor that ended is started again
GRACE_S = 45.0  # for it to save its jobs
FILE = "studio.json"  # says whose the supervisor is


class Helpers:
    """A thread that looks after both."""

    def __init__(self, studio: Studio) -> None:
        self.thread = threading.Thread(target=self.look, name="helpers", daemon=True)
        self.studio, self.file = studio, studio.root / FOLDER / FILE
        self.child: subprocess.Popen[bytes] | None = None
        self.over = threading.Event()
        self._wait, self._not_before = FIRST_WAIT_S, 0.0

    def start(self) -> None:
        self.thread.start()

    def look(self) -> None:
        swept = -SWEEP_S
        while not self.over.is_set():
            if self.studio.options.work:
                try:
                    self._watch()
                except (OSError, DreamError) as error:  # a full disk, too many processes: looked at again
                    print(f"note: no worker could be started ({error})", file=sys.stderr)
                    self._not_before = time.monotonic() + MOST_WAIT_S
            if time.monotonic() - swept > SWEEP_S:
                swept = time.monotonic()
                with suppress(OSError):
                    self.studio.uploads.sweep()
            self.over.wait(LOOK_S)

    def _watch(self) -> None:
        """Start a supervisor where the root has none."""
        if self.child is not None and (code := self.child.poll()) is not None:
            self.child = None
            self._not_before = time.monotonic() + self._wait
            self._wait = FIRST_WAIT_S if code == 0 else min(2 * self._wait, MOST_WAIT_S)
        if self.child is None and time.monotonic() >= self._not_before and running(self.studio.root) is None:
            self.child = self.supervisor()

    def supervisor(self) -> subprocess.Popen[bytes]:
        devices = [word for device in self.studio.options.devices for word in ("--device", device)]
        command = [sys.executable, "-m", "dreamlab", "jobs", "work", "--root", str(self.studio.root), *devices]
        # A session of its own: Ctrl-C is for the server, which then asks the supervisor to save what runs.
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        with suppress(OSError):
            write_json(self.file, asdict(Lease.of(child.pid)))
        return child

    def stop(self) -> None:
        """Ask a supervisor that a studio started, this one or one that was killed, to save its jobs and leave."""
        self.over.set()
        self.thread.join(5 * LOOK_S)
        pid = self.child.pid if self.child is not None else self._left_behind()
        if pid is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + GRACE_S
        while time.monotonic() < until and self._lives(pid):
            time.sleep(0.1)

    def _lives(self, pid: int) -> bool:
        return self.child.poll() is None if self.child is not None else running(self.studio.root) == pid

    def _left_behind(self) -> int | None:
        """The supervisor that a killed server started, if it is still the one that holds the root."""
        try:
            lease = Lease(**json.loads(self.file.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return lease.pid if lease.alive() and running(self.studio.root) == lease.pid else None
