# SPDX-License-Identifier: Apache-2.0
"""The server as the process that users start: its address, death, restart, what it refuses. Faults 20 and 37."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dreamlab.jobs.queue import Queue
from dreamlab.jobs.supervisor import running
from tests.conftest import Commands
from tests.studio.serving import ROOT, Server, body, ended, serving, until


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One without workers, for all that only ask."""
    with serving(tmp_path_factory.mktemp("idle") / "runs", work=False) as server:
        yield server


def test_20_a_killed_server_loses_nothing_and_the_next_one_saves_what_runs(tmp_path: Path) -> None:
    """SIGKILL with one job at work and others waiting: the worker goes on, the next server finds it, the line is as it
    was; Ctrl-C then ends all of them, and what runs is saved to go on from there."""
    root = tmp_path / "runs"
    steps = ({"steps": 200, "keeping.checkpoint": 20}, {}, {"steps": 100_000, "keeping.checkpoint": 50})
    first = Server(root)
    try:
        asked = [body(settings=each, seed=i) for i, each in enumerate(steps)]
        made = [httpx.post(f"{first.url}/v1/jobs", json=each, timeout=60).json()["id"] for each in asked]
        ended(first.url, made[0], states=("running",))
        supervisor = running(root)
        assert supervisor is not None
    finally:
        first.kill()
    with serving(root) as second:
        listed = httpx.get(f"{second.url}/v1/jobs").json()["jobs"]
        assert [job["id"] for job in listed] == made[::-1]
        assert running(root) == supervisor, "it was left at its work, and is the only one"
        for identity in made[:2]:
            done = ended(second.url, identity, 240)
            assert done["state"] == "succeeded" and done["attempt"] == 1, done
            assert httpx.get(second.url + done["artifacts"][0]["url"]).status_code == 200
        until(lambda: httpx.get(f"{second.url}/v1/jobs/{made[2]}").json()["step"] > 0)
        assert second.stop() == 0
    assert running(root) is None, "Ctrl-C ends the supervisor that the killed server had started"
    with Queue(root) as queue:
        job = queue.job(made[2])
    assert job.state == "queued" and job.attempt == 1
    (folder,) = root.glob(f"*-{made[2]}/ckpt")
    assert list(folder.glob("step_*")), "it goes on from there"


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "dreamlab",
            "studio",
            "--no-page",
            "--port",
            str(port),
            "--root",
            str(tmp_path / "r"),
        ]
        said = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=90
        )
    assert (
        said.returncode == 3
        and said.stderr.count("\n") == 1
        and f"port {port}" in said.stderr
        and "--port 0" in said.stderr
    )


REFUSED = [
    (("--listen", "0.0.0.0"), "--auth"),
    (("--listen", "0.0.0.0", "--auth", "ann:x"), "8 to 1024"),
    (("--auth", "no/such/file"), "no/such/file"),
    (("--add-user", "ann"), "--auth FILE"),
    (("--port", "99999"), "cannot be listened on"),
    (("--device", "tpu"), "cpu or cuda"),
]


@pytest.mark.parametrize("arguments,words", REFUSED, ids=str)
def test_37_what_would_open_the_machine_is_refused(dreamlab: Commands, arguments: tuple[str, ...], words: str) -> None:
    said = dreamlab("studio", "--no-page", *arguments)
    assert said.code in (2, 3) and words in said.err and said.err.count("\n") == 1, said.err


def test_users_are_written_by_the_command(tmp_path: Path) -> None:
    file = tmp_path / "users"
    command = [sys.executable, "-m", "dreamlab", "studio", "--auth", str(file), "--add-user", "ann"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, input="a long password\n", text=True, capture_output=True, env=environment, timeout=90
    )
    assert done.returncode == 0 and "a long password" not in file.read_text() + done.stdout + done.stderr
    with serving(tmp_path / "runs", "--auth", str(file), work=False) as server:
        assert httpx.get(f"{server.url}/v1/system").status_code == 401
        assert httpx.get(f"{server.url}/v1/system", auth=("ann", "a long password")).json()["owner"] == "ann"


def test_a_real_stream_breaks_off_resumes_and_ends_with_its_reader(idle: Server) -> None:
    """Over a socket: an event arrives when it happens, not when the stream ends; one that leaves frees its place."""
    with httpx.Client(base_url=idle.url, timeout=30) as client:
        heard: list[str] = []

        def listen() -> None:
            with httpx.stream("GET", f"{idle.url}/v1/events", params={"since": 0}, timeout=30) as stream:
                for line in stream.iter_lines():
                    heard.append(line)
                    if line.startswith("id: "):
                        return

        thread = threading.Thread(target=listen)
        thread.start()
        time.sleep(0.5)
        client.post("/v1/jobs", json=body())
        thread.join(20)
        assert not thread.is_alive() and heard[-1] == "id: 1"
        client.post("/v1/jobs", json=body(seed=2))
        resumed = client.get("/v1/events", params={"seconds": 0}, headers={"Last-Event-ID": "1"}).text
        assert "id: 2\n" in resumed and "id: 1\n" not in resumed


def test_it_listens_to_this_machine_alone(idle: Server) -> None:
    """As the kernel has it: every listening socket of the process is on a loopback address."""
    inodes = set()
    for link in Path(f"/proc/{idle.process.pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # one that the server has closed since
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    mine = [row[1].partition(":")[0] for row in rows if row[9] in inodes and row[3] == "0A"]
    assert mine == ["0100007F"]
    answered = httpx.get(idle.url + "/v1/system", headers={"Host": "evil.example"})
    assert answered.status_code == 403 and "server" not in {name.lower() for name in answered.headers}


def test_it_ends_when_it_is_told_to(idle: Server) -> None:
    """The last of those that share it."""
    idle.process.send_signal(signal.SIGTERM)
    assert idle.process.wait(60) == 0
