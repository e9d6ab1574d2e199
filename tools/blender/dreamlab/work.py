# SPDX-License-Identifier: Apache-2.0
"""Jobs that go on beside Blender: a studio on this computer is asked, or the command line is started. A thread waits
for them and Blender looks at what it has said; nothing in here blocks the interface, and nothing knows of Blender."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

ENDED = ("succeeded", "failed", "cancelled")
TIMEOUT, EVERY = 5.0, 1.0  # seconds of an answer, and between two questions
MOST = 4 << 20  # bytes of an answer
KEPT = 40  # lines of what a command says


class Job:
    """Something on its way; `state`, `said` and `result` may be read at any time."""

    def __init__(self, what: str) -> None:
        self.what, self.state, self.said, self.progress = what, "queued", "", 0.0
        self.result: Path | None = None  # a run folder, or a file
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._whole, daemon=True)

    def start(self) -> Job:
        self._thread.start()
        return self

    def cancel(self) -> None:
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """For tests."""
        self._thread.join(seconds)

    def _whole(self) -> None:
        try:
            self._run()
        except Exception as error:  # a thread has nobody to raise to: the panel shows it
            self.state, self.said = "failed", f"{type(error).__name__}: {error}"

    def _run(self) -> None:
        raise NotImplementedError


class Command(Job):
    """DreamLab's command line: the last line it prints is what it made."""

    def __init__(self, what: str, command: Sequence[str], folder: Path) -> None:
        super().__init__(what)
        self.command, self.folder = list(command), folder

    def _run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            process = subprocess.Popen(
                self.command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
            )  # fmt: skip
        except OSError as error:
            self.state = "failed"
            self.said = f"{self.command[0]} cannot be started ({error.strerror}); set it in the add-on's preferences"
            return
        self.state = "running"
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()
        lines: list[str] = []
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                lines = [*lines[-KEPT:], line.strip()]
                self._hear(line.strip())
        code = process.wait()
        made = self.folder / lines[-1] if lines else None
        if self._stop.is_set():
            self.state = "cancelled"
        elif code == 0 and made is not None and made.exists():
            self.state, self.progress, self.result = "succeeded", 1.0, made
        else:
            self.state = "failed"
            self.said = next((line for line in reversed(lines) if line.startswith("error")), "") or (
                f"exit code {code}: {lines[-1] if lines else 'no word'}"
            )

    def _watch(self, process: subprocess.Popen[str]) -> None:
        """A first interrupt lets it write a checkpoint, as Ctrl-C does."""
        while process.poll() is None:
            if self._stop.wait(0.2):
                process.terminate()
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                return

    def _hear(self, line: str) -> None:
        """`shape 120/300  17.2 it/s  ...` is progress."""
        self.said = line
        for word in line.split():
            done, slash, total = word.partition("/")
            if slash and done.isdigit() and total.isdigit() and int(total):
                self.progress = min(int(done) / int(total), 1.0)


class Asked(Job):
    """A studio's job, by its REST interface: submitted once, then looked at until it has ended."""

    def __init__(self, what: str, url: str, body: dict[str, object]) -> None:
        super().__init__(what)
        self.url, self.body = url.rstrip("/"), body

    def _run(self) -> None:
        made = answer("POST", f"{self.url}/v1/jobs", self.body)
        place, self.state = f"{self.url}/v1/jobs/{made['id']}", str(made.get("state", "queued"))
        while self.state not in ENDED:
            if self._stop.is_set():
                answer("POST", f"{place}/cancel", {})
            time.sleep(EVERY)
            now = answer("GET", place)
            self.state, self.progress = str(now.get("state")), float(str(now.get("progress") or 0))
            self.said = str(now.get("stage") or "")
        now = answer("GET", place)
        error = now.get("error")
        if isinstance(error, dict):
            self.said = str(error.get("message", ""))
        folder = now.get("folder")
        if self.state == "succeeded" and isinstance(folder, str):
            self.result = Path(folder)


def local(url: str) -> bool:
    """Whether an address is of this computer: the add-on asks nobody else."""
    found = urlsplit(url)
    return found.scheme == "http" and found.hostname in ("127.0.0.1", "localhost", "::1")


def answer(method: str, url: str, body: dict[str, object] | None = None) -> dict[str, object]:
    """An object of JSON; OSError for anything else."""
    if not local(url):
        raise OSError(f"{url}: is not on this computer")
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:  # noqa: S310
            found = json.loads(reply.read(MOST))
    except urllib.error.HTTPError as error:
        raise OSError(f"{url}: {error.code} {error.read(500).decode(errors='replace')}") from None
    except ValueError as error:
        raise OSError(f"{url}: no JSON ({error})") from None
    if not isinstance(found, dict):
        raise OSError(f"{url}: no object")
    return found


def studio_there(url: str) -> bool:
    """Whether a studio answers."""
    try:
        return bool(answer("GET", f"{url.rstrip('/')}/v1/system"))
    except (OSError, ValueError):
        return False
