# SPDX-License-Identifier: Apache-2.0
"""Batches on a real Slurm of one node: an array of workers, one that is asked to leave, killed and cancelled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.batch_soak import EXPORT
from dreamlab.jobs.engines.bucket import ObjectStore
from dreamlab.jobs.engines.manifest import write_manifest
from tests.jobs.engines import slurm_node
from tests.jobs.engines.slurm_node import SlurmNode

pytest.importorskip("submitit", reason="submitit is not installed (extra `clusters`)")
pytest.importorskip("obstore", reason="obstore is not installed (extra `clusters`)")
if ABSENT := slurm_node.absent():
    pytest.skip(ABSENT, allow_module_level=True)
pytestmark = [pytest.mark.dist, pytest.mark.slow]

SMALL = EXPORT | {"stages.0.steps": 10, "stages.0.size": 16, "stages.0.scene.count": 48, "export.faces": 300}
LONG = SMALL | {"stages.0.steps": 150, "keeping.checkpoint": 2}  # to be met in the middle of by three disturbances
PROMPT = "a red mushroom with a white stem"
BATCH = "import sys; from dreamlab.cli import main; main(sys.argv[1:])"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmNode]:
    with SlurmNode(tmp_path_factory.mktemp("slurm")) as node:
        yield node


class Batch:
    """`dreamlab batch ... --engine slurm` as somebody calls it, and what its store says."""

    def __init__(
        self, slurm: SlurmNode, place: Path, workers: int, *jobs: dict[str, object], more: Sequence[str] = ()
    ) -> None:
        self.slurm, self.place, self.bucket = slurm, place, ObjectStore(str(place / "store"))
        (place / "jobs.jsonl").write_text("\n".join(json.dumps(job) for job in jobs))
        self.command = ["batch", "jobs.jsonl", "--engine", "slurm", "--workers", str(workers), "--out", "store", *more]
        self.process = self.begin()

    def begin(self) -> subprocess.Popen[str]:
        environment = self.slurm.environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(
            [sys.executable, "-c", BATCH, *self.command, "--lease", "3", "--minutes", "30"],
            cwd=self.place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def said(self, key: str) -> dict[str, object]:
        return json.loads(self.bucket.get(key) or b"{}")

    def words(self) -> str:
        """Of the workers."""
        return "\n".join(path.read_text()[-2000:] for path in self.place.rglob("*_log.*"))

    def until(self, holds: Callable[[], object], what: str) -> None:
        until = time.monotonic() + 200
        while not holds():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until, f"{what}: {self.slurm.asked('squeue')}\n{self.words()}"
            time.sleep(0.05)


def test_an_array_of_workers_makes_all_of_a_batch(slurm: SlurmNode, tmp_path: Path) -> None:
    prompts = (PROMPT, "a blue car", "a green cube")
    batch = Batch(slurm, tmp_path, 2, *({"prompt": p, "recipe": "oracle", "settings": SMALL} for p in prompts))
    batch.until(lambda: len(batch.bucket.names("claims/00000/")) >= 2, "two claims")
    assert sorted(slurm.states()) == ["RUNNING", "RUNNING"]
    out, err = batch.process.communicate(timeout=280)
    assert batch.process.returncode == 0, (out, err, batch.words())
    assert "3 of 3 done" in out and out.splitlines()[-1] == "store"
    makers = {
        batch.said(f"ends/{key.removeprefix('claims/')}")["worker"] for key in batch.bucket.names("claims/00000/")
    }
    assert len(makers) == 2 and not slurm.states()


def test_asked_to_leave_killed_and_cancelled_it_goes_on_to_the_same_bytes(slurm: SlurmNode, tmp_path: Path) -> None:
    from dreamlab.jobs.engines.worker import work

    job = {"prompt": PROMPT, "recipe": "oracle", "settings": LONG}
    undisturbed = ObjectStore(str(tmp_path / "undisturbed"))
    write_manifest(undisturbed, iter([job]))
    assert work(undisturbed.url) == 1

    batch = Batch(slurm, tmp_path, 1, job)
    in_store = "runs/00000/0000/{}/resume.json".format
    batch.until(lambda: batch.bucket.get(in_store(1)), "a checkpoint of the first attempt")
    slurm.asked("scancel", "--signal=USR1", "--user=root")  # as Slurm itself some time before the limit
    batch.until(lambda: batch.said("ends/00000/0000/1"), "an end of the first attempt")
    assert batch.said("ends/00000/0000/1")["end"] == "paused"

    batch.until(lambda: batch.bucket.get(in_store(2)), "the second attempt, of the worker that was queued again")
    name = str(batch.said("claims/00000/0000/2")["worker"])
    os.kill(int(name.split("-")[-2]), signal.SIGKILL)
    batch.until(lambda: batch.bucket.get(in_store(3)), "the third attempt, of one that was killed and queued again")
    assert batch.said("ends/00000/0000/2")["end"] == "superseded"

    slurm.asked("scancel", "--user=root")
    out, err = batch.process.communicate(timeout=120)
    assert batch.process.returncode == 75 and "1 jobs are open" in err, (out, err)
    assert batch.said("ends/00000/0000/3")["end"] == "paused" and not slurm.states()

    batch.process = batch.begin()
    out, err = batch.process.communicate(timeout=280)
    assert batch.process.returncode == 0 and "1 of 1 done" in out, (out, err, batch.words())
    assert batch.said("done/00000/0000")["attempt"] == 4
    made, alone = (
        store.get(f"runs/00000/0000/{n}/export/model.glb") for store, n in ((batch.bucket, 4), (undisturbed, 1))
    )
    assert made is not None and made == alone


def test_what_slurm_refuses_is_one_line(slurm: SlurmNode, tmp_path: Path) -> None:
    batch = Batch(slurm, tmp_path, 1, {"prompt": PROMPT, "recipe": "oracle"}, more=("--partition", "nowhere"))
    _, err = batch.process.communicate(timeout=200)
    last = err.splitlines()[-1]  # after sbatch's own words, which submitit passes on
    assert batch.process.returncode == 3 and "Traceback" not in err, err
    assert last.startswith("error: --engine slurm: Slurm took no job") and "invalid partition" in last
