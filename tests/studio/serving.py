# SPDX-License-Identifier: Apache-2.0
"""Studios for tests: in this process, or as the process that a user starts; and work done by hand, without a worker."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.testclient import TestClient

from dreamlab.jobs.folders import located
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import Job
from dreamlab.studio.auth import hashed
from dreamlab.studio.server import application, studio_of
from dreamlab.studio.studio import Options, Studio

ROOT = Path(__file__).parents[2]
PROMPT = "a red mushroom with a white stem"
PASSWORDS = {"ann": "ann's password", "bob": "bob's password"}
USERS = {name: hashed(password) for name, password in PASSWORDS.items()}
# The cheapest run there is, of two steps.
TINY: Mapping[str, object] = {
    "steps": 2,
    "size": 16,
    "stages.0.views": 1,
    "stages.0.scene.count": 64,
    "export.resolution": 24,
    "export.texture": 0,
    "export.fit": False,
    "export.pictures": ["poster"],
    "export.size": 32,
    "keeping.checkpoint": 1,
    "keeping.preview": 1,
    "keeping.log": 1,
}
Json = dict[str, Any]


def body(prompt: str = PROMPT, **more: object) -> Json:
    """A request of a tiny run."""
    settings = {**TINY, **more.pop("settings", {})}  # type: ignore[dict-item]
    return {"prompt": prompt, "recipe": "oracle", "settings": settings, **more}


def studio(root: Path, **options: Any) -> Studio:
    return studio_of(Options(root, page=False, work=False, **options))


def basic(owner: str) -> str:
    return "Basic " + base64.b64encode(f"{owner}:{PASSWORDS[owner]}".encode()).decode()


def client(made: Studio, owner: str = "") -> TestClient:
    """A program of this machine, signed in where there are users."""
    found = TestClient(application(made), base_url="http://127.0.0.1:7860", raise_server_exceptions=True)
    if owner:
        found.headers["Authorization"] = basic(owner)
    return found


def work(root: Path, owner: str | None = None) -> list[Job]:
    """Everything that waits, run in this process as a worker would; the jobs as they ended."""
    from dreamlab import pipeline
    from dreamlab.run.folder import Run

    done = []
    with Queue(root) as queue:
        queue.enlist(1, "cpu", os.getpid(), 0, "")
        while (job := queue.claim(1, "cpu")) is not None:
            pipeline.execute(Run(located(root, job.run)))
            assert queue.finish(job.id, job.attempt, 0)
            done.append(queue.job(job.id))
    return done


class Server:
    """`dreamlab studio` as a process of its own on a free port."""

    def __init__(self, root: Path, *arguments: str, page: bool = False, work: bool = True) -> None:
        self.root = root
        more = [*([] if page else ["--no-page"]), *([] if work else ["--no-work"])]
        command = [sys.executable, "-m", "dreamlab", "studio", "--port", "0", "--root", str(root), *more, *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.said = root.parent / f"studio-{time.monotonic_ns()}.txt"
        with self.said.open("w") as errors:
            self.process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("DreamLab studio: http://127.0.0.1:"), (line, self.said.read_text())
        self.url = line.split()[-1].rstrip("/")

    def kill(self) -> None:
        """As the out-of-memory killer does."""
        self.process.kill()
        self.process.wait(20)

    def stop(self) -> int:
        """As Ctrl-C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(90)


@contextmanager
def serving(root: Path, *arguments: str, **more: bool) -> Iterator[Server]:
    made = Server(root, *arguments, **more)
    try:
        yield made
    finally:
        made.stop()


def until(said: Callable[[], Any], seconds: float = 240) -> Any:
    """What it says once that is true."""
    end = time.monotonic() + seconds
    while not (found := said()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)
    return found


def ended(
    url: str,
    identity: str,
    seconds: float = 120,
    states: Sequence[str] = ("succeeded", "failed", "cancelled", "interrupted"),
) -> Json:
    """The job when it has come to one of these states."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found: Json = httpx.get(f"{url}/v1/jobs/{identity}").json()
        if found["state"] in states:
            return found
        time.sleep(0.2)
    raise AssertionError(f"after {seconds} s it is {found['state']}")
