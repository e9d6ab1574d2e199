# SPDX-License-Identifier: Apache-2.0
"""The studio's queue on a Ray cluster: a job that was submitted to its Jobs interface is followed as if it were local,
by a real studio whose follower is killed; and the token stays where it is."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest

from dreamlab.core.errors import InputError
from dreamlab.jobs.engines.rayjobs import ClusterAway, RayJobs
from dreamlab.jobs.queue import Queue
from tests.jobs.engines.camp import PATIENCE_S, SECRET, Camp, until
from tests.studio.serving import Json, body, ended, serving

pytestmark = [pytest.mark.dist, pytest.mark.slow]
BEARER = {"Authorization": f"Bearer {SECRET}"}


@pytest.fixture
def jobs(camp: Camp) -> str:
    if not camp.jobs:
        pytest.skip("Ray's dashboard is not installed (ray[default]): there is no Jobs interface")
    return camp.jobs


def ray_jobs(address: str) -> dict[str, str]:
    """Every job that the cluster was given, as the cluster itself tells it."""
    told = httpx.get(f"{address}/api/jobs/", headers=BEARER, timeout=60).json()
    return {each["submission_id"]: each["status"] for each in told if each["submission_id"]}


def test_a_job_is_followed_though_its_follower_is_killed_and_a_cancelled_one_ends(
    camp: Camp, jobs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, store, file = tmp_path / "runs", tmp_path / "store", tmp_path / "token"
    file.write_text(SECRET + "\n")
    there = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    heard: list[str] = []
    options = ("--ray-address", jobs, "--ray-store", str(store), "--ray-token", str(file))
    with camp.nodes(there, cpus=2), monkeypatch.context() as patch:
        patch.delenv("RAY_AUTH_TOKEN")
        with serving(root, *options) as server:
            client = httpx.Client(
                base_url=server.url, timeout=60, event_hooks={"response": [lambda reply: heard.append(told(reply))]}
            )

            def job(of: Json) -> Json:
                found: Json = client.get(f"/v1/jobs/{of['id']}").json()
                return found

            made = client.post("/v1/jobs", json=body(settings={"steps": 200, "keeping.checkpoint": 10})).json()
            until(lambda: job(made)["step"] >= 10, "progress comes from the cluster")
            assert job(made)["state"] == "running"
            with Queue(root) as queue:
                os.kill(queue.workers()[0].pid, signal.SIGKILL)
            done = ended(server.url, made["id"], PATIENCE_S)
            assert (done["state"], done["attempt"]) == ("succeeded", 2), done
            assert list(ray_jobs(jobs)) == [f"dreamlab-{made['id']}-1"], "the second attempt followed the first's"
            check_files(root / done["run"], store / made["id"] / "1")
            for each in done["artifacts"]:
                assert hashlib.sha256(client.get(each["url"]).content).hexdigest() == each["sha256"]

            second = client.post("/v1/jobs", json=body(settings={"steps": 4000, "keeping.checkpoint": 10})).json()
            until(lambda: job(second)["step"] >= 10, "progress of another")
            client.post(f"/v1/jobs/{second['id']}/cancel")
            assert ended(server.url, second["id"], PATIENCE_S)["state"] == "cancelled"
            id = f"dreamlab-{second['id']}-1"
            until(lambda: ray_jobs(jobs)[id] == "STOPPED", "the cluster's job is stopped")
            heard += [server.said.read_text(), *(path.read_bytes().decode("latin-1") for path in kept(root))]
            heard += [path.read_bytes().decode("latin-1") for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert len(heard) > 20 and not [text for text in heard if SECRET in text]


def told(reply: httpx.Response) -> str:
    return f"{reply.headers} {reply.read().decode('latin-1')}"


def kept(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and path.suffix not in (".lock", ".pulse")]


def check_files(run: Path, there: Path) -> None:
    """What came back is what was made: no event twice or lost, every file by its sum."""
    attempt = there / "runs/00000/0000/2"
    assert (run / "events.jsonl").read_bytes().endswith((attempt / "events.jsonl").read_bytes())
    steps = [event["global_step"] for event in events(run) if event["kind"] == "metrics"]
    assert steps == sorted(set(steps)) and steps[-1] == 200
    assert (run / "log.txt").read_text().count("goes to the cluster") == 1
    assert json.loads((run / "state.json").read_bytes())["state"] == "succeeded"
    results = json.loads((there / "done/00000/0000").read_bytes())["results"]["files"]
    assert "export/model.glb" in results
    for name, entry in results.items():
        assert hashlib.sha256((run / name).read_bytes()).hexdigest() == entry["sha256"]


def events(run: Path) -> list[Json]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def test_the_same_job_submitted_twice_is_one_and_a_stranger_is_told_so(camp: Camp, jobs: str) -> None:
    ours, stranger = RayJobs(jobs, SECRET), RayJobs(jobs, "of-somebody-else")
    ours.check()
    with pytest.raises(InputError, match="does not let us in") as refused:
        stranger.check()
    assert "of-somebody-else" not in str(refused.value)
    with camp.nodes({}):
        for _ in range(2):
            ours.submit("twice", "true", 0, {})
        until(lambda: (ours.job("twice") or refused).status == "SUCCEEDED", "it is run")  # type: ignore[attr-defined]
    assert ours.job("never") is None
    with pytest.raises(ClusterAway):
        RayJobs("http://127.0.0.1:9", SECRET).check()
