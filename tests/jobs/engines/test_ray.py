# SPDX-License-Identifier: Apache-2.0
"""A batch on a real Ray cluster: workers, nodes and drivers that are killed, frozen, cancelled, and the store in the
end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamlab.core.errors import DiskError
from dreamlab.jobs.engines import ray as engine
from dreamlab.jobs.engines.worker import work
from tests.conftest import threads
from tests.jobs.engines.camp import LEASE_S, PATIENCE_S, SECRET, Batch, Camp, Hired, crash, raylet, state, until

pytestmark = [pytest.mark.dist, pytest.mark.slow]
RED, BLUE, GREEN = "a red mushroom with a white stem", "a blue car", "a green cube"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a worker in this process makes, that nobody disturbs."""
    pytest.importorskip("obstore", reason="obstore is not installed (extra `clusters`)")
    batch = Batch(tmp_path_factory.mktemp("plain") / "store", RED, BLUE, GREEN)
    with threads(1):
        assert work(batch.url) == 3
    return {str(row["prompt"]): batch.model(i) or b"" for i, row in enumerate(batch.rows)}


def same(batch: Batch, undisturbed: dict[str, bytes]) -> bool:
    return all(batch.model(i) == undisturbed[str(row["prompt"])] for i, row in enumerate(batch.rows))


def test_every_job_is_done_once_and_one_that_cannot_be_holds_nobody_up(
    camp: Camp, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    batch = Batch(tmp_path / "store", RED, BLUE, GREEN, "a corgi")
    with camp.nodes({}, {}):
        assert engine.run(batch.url, workers=2, gpus=0, lease=60) == 3
    poison = batch.told("poison", 3)
    assert poison is not None and poison["code"] == 3 and "corgi" in poison["why"]
    batch.rows.pop()
    assert same(batch, undisturbed) and [batch.attempts(i) for i in range(4)] == [1, 1, 1, 1]


def test_workers_killed_at_claim_upload_and_commit(camp: Camp, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    batch = Batch(tmp_path / "store", RED, BLUE, GREEN)
    died = {at: tmp_path / at for at in ("batch.claimed", "batch.sending", "batch.ended")}
    with camp.nodes(*(crash(at, once) for at, once in died.items())):
        assert Hired(batch, workers=3).over() == 2, "one was finished by who died before saying so"
    assert all(once.exists() for once in died.values()), "each of the three died where it should"
    assert same(batch, undisturbed)
    ends = sorted(batch.end(i, n + 1) for i in range(3) for n in range(batch.attempts(i)))
    assert ends == ["done", "done", "done", "superseded", "superseded"]
    assert sorted(batch.attempt(i) for i in range(3)) == [1, 2, 2]


def test_a_job_that_kills_its_workers_is_given_up_after_three(
    camp: Camp, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    batch = Batch(tmp_path / "store", RED, BLUE)
    with camp.nodes(crash("batch.claimed@00000/0000")):
        assert Hired(batch, lease=1.0).over() <= 1
    assert batch.told("poison", 0) == {"attempt": 3, "code": 137, "why": "its worker died 3 times"}
    assert batch.told("done", 0) is None and batch.model(1) == undisturbed[BLUE]


def test_a_node_is_lost_and_its_job_goes_on_elsewhere(
    camp: Camp, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    batch = Batch(tmp_path / "store", RED)
    with camp.nodes(crash("batch.results:1:stop")) as (lost,):
        hired = Hired(batch)
        worker = batch.holder(0)
        until(lambda: state(worker) == "T", "the worker stands before its results")
        camp.remove(lost)
        os.kill(worker, signal.SIGKILL)
        with camp.nodes({}):
            assert hired.over() == 1
    assert batch.end(0, 1) == "superseded" and batch.attempt(0) == 2 and same(batch, undisturbed)
    assert first_step(batch, 2) >= 5, "it went on from the checkpoint in the store"


def first_step(batch: Batch, attempt: int) -> int:
    """Of what an attempt trained itself."""
    lines = (batch.bucket.get(f"runs/00000/0000/{attempt}/events.jsonl") or b"").splitlines()
    steps = [event["global_step"] for event in map(json.loads, lines) if event["kind"] == "metrics"]
    return min(steps, default=20)


def test_a_worker_that_outlives_its_node_writes_late_and_changes_nothing(
    camp: Camp, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """The central one: worker and raylet are frozen, Ray declares the node dead and another worker makes the job; then
    the first one goes on where it stood, uploads all it made and commits. The raylet stays frozen."""
    batch = Batch(tmp_path / "store", RED)
    with camp.nodes(crash("batch.results:1:stop")) as (frozen,):
        hired = Hired(batch, workers=2)  # the second waits for a node
        zombie = batch.holder(0)
        until(lambda: state(zombie) == "T", "the worker stands before its results")
        with camp.nodes({}):
            until(lambda: not free_cpus(), "the second worker has its node")
            os.kill(raylet(frozen), signal.SIGSTOP)
            until(lambda: not alive(frozen.node_id), "Ray declares the node dead")
            assert hired.over() == 1, "the other one made it, and who does not answer is not waited for"
            assert batch.end(0, 1) == "superseded" and batch.attempt(0) == 2
            assert batch.model(0, 1) is None, "the sleeper has written nothing yet"
            right = {key: batch.bucket.get(key) for key in batch.bucket.names("done/") + batch.bucket.names("ends/")}
            os.kill(zombie, signal.SIGCONT)
            until(lambda: batch.model(0, 1), "the sleeper writes its results, late")
            until(lambda: batch.bucket.get("runs/00000/0000/1/recipe.yaml"), "the last of them")
            until(lambda: state(zombie) in ("", "Z") or idle(zombie), "it has tried to commit")
        assert {key: batch.bucket.get(key) for key in right} == right
    assert batch.attempt(0) == 2 and same(batch, undisturbed) and batch.told("poison", 0) is None


def free_cpus() -> float:
    import ray

    return float(ray.available_resources().get("CPU", 0))


def alive(node: str) -> bool:
    import ray

    return any(each["Alive"] for each in ray.nodes() if each["NodeID"] == node)


def idle(pid: int) -> bool:
    """A worker of Ray's whose task is over calls itself so."""
    try:
        return b"IDLE" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


@pytest.fixture
def command(camp: Camp, tmp_path: Path) -> Iterator[list[str]]:
    """`dreamlab batch` for a job of some seconds, by command lines of its own."""
    batch = Batch(tmp_path / "plain", RED, **{"stages.0.steps": 400})
    (tmp_path / "file.jsonl").write_text(json.dumps(batch.rows[0]))
    told = ["batch", "file.jsonl", "--out", "store", "--engine", "ray", "--address", camp.address]
    yield [sys.executable, "-m", "dreamlab", *told, "--lease", str(LEASE_S)]


def started(command: list[str], place: Path, **environment: str) -> subprocess.Popen[str]:
    told = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    return subprocess.Popen(command, cwd=place, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.release  # a supervisor's and Slurm's are in every landing
def test_drivers_cancelled_killed_and_started_twice(camp: Camp, tmp_path: Path, command: list[str]) -> None:
    with camp.nodes({}, {}):
        first = started(command, tmp_path)
        until(lambda: (tmp_path / "store/runs/00000/0000/1/resume.json").exists(), "a checkpoint of attempt 1")
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=PATIENCE_S)
        assert first.returncode == 130 and "the same command goes on" in said and "Traceback" not in said
        ends = tmp_path / "store/ends/00000/0000"
        assert json.loads((ends / "1").read_bytes())["end"] == "paused"

        second = started(command, tmp_path)
        until(lambda: (tmp_path / "store/runs/00000/0000/2/resume.json").exists(), "a checkpoint of attempt 2")
        claim = json.loads((tmp_path / "store/claims/00000/0000/2").read_bytes())
        second.kill()
        second.communicate()
        until(lambda: state(int(claim["worker"].split("-")[-2])) in ("", "Z"), "its worker ends with it")

        both = [started(command, tmp_path) for _ in range(2)]
        told = [each.communicate(timeout=PATIENCE_S) for each in both]
        assert [each.returncode for each in both] == [0, 0], told
    assert json.loads((ends / "2").read_bytes())["end"] == "superseded"
    assert json.loads((tmp_path / "store/done/00000/0000").read_bytes())["attempt"] == 3
    assert sorted(path.name for path in (tmp_path / "store/claims/00000/0000").iterdir()) == ["1", "2", "3"]


def test_who_has_not_the_token_is_told_so_in_a_line(camp: Camp, tmp_path: Path, command: list[str]) -> None:
    stranger = started(command, tmp_path, RAY_AUTH_TOKEN="of somebody else")
    _, said = stranger.communicate(timeout=PATIENCE_S)
    assert stranger.returncode == 3 and "RAY_AUTH_TOKEN" in said and "Traceback" not in said, said
    assert SECRET not in said and not (tmp_path / "store/claims").exists()


def test_four_share_a_gpu_and_a_fifth_waits(camp: Camp, tmp_path: Path) -> None:
    """Of a GPU that only Ray believes in."""
    import ray

    def probe(place: str) -> tuple[str, float]:
        import time

        Path(place, str(os.getpid())).touch()
        while not Path(place, "go").exists():
            time.sleep(0.02)
        given = ray.get_runtime_context().get_assigned_resources()
        return os.environ["CUDA_VISIBLE_DEVICES"], given["GPU"]

    with camp.nodes({}, cpus=8, gpus=1):
        waiting = [ray.remote(probe).options(**engine.asked(0.25)).remote(str(tmp_path)) for _ in range(5)]
        until(lambda: len(list(tmp_path.iterdir())) == 4, "four of them run")
        assert until(lambda: ray.available_resources().get("GPU", 0) == 0, "the GPU is all given away")
        ready, _ = ray.wait(waiting, num_returns=1, timeout=0.5)
        assert not ready and len(list(tmp_path.iterdir())) == 4
        (tmp_path / "go").touch()
        assert ray.get(waiting, timeout=PATIENCE_S) == [("0", 0.25)] * 5


def test_the_full_disk_of_a_node_ends_a_worker_not_the_batch(camp: Camp) -> None:
    import ray

    def full() -> int:
        raise DiskError("/tmp: no room")

    def has_room() -> int:
        return 3

    hired = [ray.remote(has_room), ray.remote(full)]
    with camp.nodes({}):
        assert engine.attended(lambda: hired.pop().remote(), 1, LEASE_S, lambda: not hired) == 3
