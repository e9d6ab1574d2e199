# SPDX-License-Identifier: Apache-2.0
"""A run is a folder that holds everything about itself; whoever holds its lock may work in it."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dreamlab import __version__
from dreamlab.core.errors import DiskError, InputError
from dreamlab.core.files import Json, disk_errors, remedy, try_lock, write_atomic, write_json
from dreamlab.core.text import shell, slug

NEEDED_MIB = 50  # checkpoints, previews and the asset of a run with the default recipe, with room to spare
_COUNTED = {"threads": 1, "step": 0, "rollbacks": 0, "rate_scale": 0}  # numbers of a run's progress, at least so large
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


def now() -> str:
    """UTC, ISO 8601: what is stored. Durations are measured with a monotonic clock instead."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Origin:
    """Where a run starts that does not start at 0. `fill` comes first: without recipe and spec a folder is no run, so
    that one cut short on the way is never taken for one that has not begun."""

    parent: Json
    fill: Callable[[Run], object]


class Run:
    """The folder `runs/<slug>-<id>/`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def create(
        root: Path,
        recipe_yaml: str,
        prompt: str,
        command: list[str],
        files: Mapping[str, bytes] | None = None,
        origin: Origin | None = None,
    ) -> Run:
        """A new folder under `root`; refuses at once, before any model is loaded, what cannot be written."""
        with disk_errors("making the run folder", root):
            if root.exists() and not root.is_dir():
                raise InputError(f"{root}: is a file; --out names a folder")
            root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(root).free >> 20
            if free < NEEDED_MIB:
                raise DiskError(
                    f"{root}: {free} MiB free, a run needs about {NEEDED_MIB}; free some space or change --out"
                )
            identity = "".join(secrets.choice(_ALPHABET) for _ in range(12))
            run = Run(root / f"{slug(prompt)}-{identity}")
            run.path.mkdir()
            for name in ("ckpt", "previews", "export"):
                (run.path / name).mkdir()
            if origin is not None:
                origin.fill(run)
            for name, data in (files or {}).items():  # what the recipe names
                write_atomic(run.path / name, data)
            write_atomic(run.path / "recipe.yaml", recipe_yaml.encode())
            spec = {
                "id": identity,
                "prompt": prompt,
                "created": now(),
                "command": command,
                "dreamlab": __version__,
                "python": platform.python_version(),
                "platform": platform.platform(),
            }
            write_json(run.path / "spec.json", spec | ({} if origin is None else {"parent": dict(origin.parent)}))
            run.set_state(state="created", step=0)
        return run

    @staticmethod
    def open(path: Path) -> Run:
        """An existing run folder."""
        if not path.is_dir():
            raise InputError(f"{path}: no such run folder")
        for name in ("recipe.yaml", "spec.json"):
            if not (path / name).is_file():
                raise InputError(f"{path}: not a run folder ({name} is missing)")
        return Run(path)

    @property
    def ckpt(self) -> Path:
        return self.path / "ckpt"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def previews(self) -> Path:
        return self.path / "previews"

    def recipe_path(self) -> Path:
        return self.path / "recipe.yaml"

    def spec(self) -> Json:
        return self._json("spec.json", "only `inspect` needs it, and {} will do")

    def state(self) -> Json:
        """Progress; a run without it goes on from its newest checkpoint."""
        way_out = f"remove it, then: {shell('resume', self.path)} (the checkpoints say where the run stands)"
        if not (self.path / "state.json").exists():
            return {}
        found = self._json("state.json", way_out)
        for name, least in _COUNTED.items():
            value = found.get(name, least)
            whole = isinstance(value, float if name == "rate_scale" else int) or value == least
            if not whole or isinstance(value, bool) or value < least:
                raise InputError(f"{self.path / 'state.json'}: is damaged ({name} is {value!r}); {way_out}")
        return found

    def set_state(self, **changes: Any) -> None:
        """Merge into state.json, atomically."""
        write_json(self.path / "state.json", self.state() | changes | {"updated": now()})

    def event(self, kind: str, **data: Any) -> None:
        """Append a line to events.jsonl; a single write, so that a reader never sees half of one but the last."""
        line = json.dumps({"time": now(), "kind": kind} | data, ensure_ascii=False)
        with (self.path / "events.jsonl").open("a", encoding="utf-8", errors="backslashreplace") as handle:
            handle.write(line + "\n")

    def events(self) -> list[Json]:
        """All whole lines; a line cut off by a crash, or that is none of ours, is left out."""
        path = self.path / "events.jsonl"
        found: list[Json] = []
        if not path.exists():
            return found
        # One at a time: a long run has a hundred megabytes.
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(event, dict) and isinstance(event.get("kind"), str):
                    found.append(event)
        return found

    def log(self, message: str) -> None:
        """Append to log.txt, with the time."""
        with (self.path / "log.txt").open("a", encoding="utf-8", errors="backslashreplace") as handle:
            handle.write(f"{now()} {message}\n")

    def warn(self, message: str) -> None:
        """What the user should hear now, and find in the log later."""
        self.log(message)
        warnings.warn(message, stacklevel=2)

    def busy(self) -> bool:
        """Whether some process holds the folder now."""
        try:
            with (self.path / ".lock").open("r+") as handle:
                return not try_lock(handle.fileno())  # a lock got here goes with the handle
        except OSError:
            return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder. The kernel drops the lock with the process, so a stale one cannot exist on one host."""
        path = self.path / ".lock"
        try:
            handle = path.open("a+")
        except OSError as error:
            raise DiskError(f"{path}: cannot be written ({error.strerror}); {remedy(error)}") from None
        with handle:
            if not try_lock(handle.fileno()):
                handle.seek(0)
                raise InputError(
                    f"{self.path}: in use by {handle.read().strip() or 'another process'}; wait or stop it"
                )
            handle.seek(0)
            handle.truncate()
            handle.write(f"pid {os.getpid()} on {socket.gethostname()} since {now()}")
            handle.flush()
            try:
                yield
            finally:
                handle.truncate(0)

    def writes(self) -> bool:
        """Whether this process is the one that puts things into the folder."""
        return True

    def _json(self, name: str, way_out: str) -> Json:
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{self.path / name}: cannot be read ({error.strerror})") from None
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise InputError(f"{self.path / name}: is damaged (not a JSON object); {way_out}")
        return value


class Onlooker(Run):
    """The run of a process that works on it beside the one that writes."""

    def writes(self) -> bool:
        return False

    def set_state(self, **changes: Any) -> None: ...

    def event(self, kind: str, **data: Any) -> None: ...

    def log(self, message: str) -> None: ...

    def warn(self, message: str) -> None: ...

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield
