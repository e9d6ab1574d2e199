# SPDX-License-Identifier: Apache-2.0
"""Where supervisor and workers keep what is not the queue's: locks, signs of life, logs of bounded size."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from dreamlab.core.errors import DiskError
from dreamlab.core.files import remedy, try_lock
from dreamlab.jobs.database import FOLDER

MOST_LOG = 1 << 20  # bytes; as many again lie in the one before


class Workplace:
    """Names below `ROOT/.jobs`."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / FOLDER

    @property
    def supervisor(self) -> Path:
        return self.folder / "supervisor.lock"

    def seat(self, slot: int) -> Path:
        """Held by the worker of a slot for as long as it or a child of it lives."""
        return self.folder / f"worker-{slot}.lock"

    def pulse(self, slot: int) -> Path:
        """Touched every second: unlike the queue that needs no room on the disk."""
        return self.folder / f"worker-{slot}.pulse"

    def log(self, slot: int) -> Path:
        return self.folder / f"worker-{slot}.log"


def held(path: Path, patience: float = 0.0) -> int | None:
    """A lock for as long as the descriptor is open, and the process's number in the file; None: another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise DiskError(f"{path}: cannot be written ({error.strerror}); {remedy(error)}") from None
    while not try_lock(descriptor):
        if time.monotonic() >= until:
            os.close(descriptor)
            return None
        time.sleep(0.05)
    with contextlib.suppress(OSError):  # a full disk: the number is for people
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def holder(path: Path) -> int | None:
    """The process that holds a lock; 0 where it does not say, None: nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        if try_lock(descriptor):
            return None
        said = os.read(descriptor, 20).decode("ascii", "replace")
        return int(said) if said.isdigit() else 0
    finally:
        os.close(descriptor)


def changed_at(path: Path) -> int:
    """When a file was last touched, in nanoseconds; 0: there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def touch(path: Path) -> None:
    """A sign of life."""
    with contextlib.suppress(OSError):
        path.touch()


class Log(io.TextIOBase):
    """Standard output and error of a process that lives long: the newest `MOST_LOG` bytes or more, at most twice as
    many. What cannot be written is lost, and nobody fails for it."""

    def __init__(self, path: Path, most: int = MOST_LOG) -> None:
        self.path, self.most = path, most
        self._open()

    def _open(self) -> None:
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(descriptor, 1)  # what libraries print themselves, too
            os.dup2(descriptor, 2)
            os.close(descriptor)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            os.write(2, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a library may ask
        return "utf-8"

    def turn(self) -> None:
        """Begin a new file where this one is large."""
        with contextlib.suppress(OSError):
            if os.fstat(2).st_size > self.most:
                self.path.replace(self.path.with_suffix(".log.1"))
                self._open()

    def take_over(self) -> None:
        """From now on the process writes here."""
        stream: TextIO = self  # type: ignore[assignment]  # as much of one as `print` asks for
        sys.stdout = sys.stderr = stream
