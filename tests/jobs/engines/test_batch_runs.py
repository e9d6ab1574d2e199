# SPDX-License-Identifier: Apache-2.0
"""Real runs of a batch by real worker processes: killed, resumed on another machine, stopped, poisoned."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreamlab.jobs.engines.bucket import ObjectStore
from dreamlab.jobs.engines.manifest import read_manifest, write_manifest

pytest.importorskip("obstore", reason="obstore is not installed (extra `clusters`)")

SMALL = {"stages.0.steps": 30, "stages.0.size": 16, "stages.0.scene.count": 64, "keeping.checkpoint": 5}
JOB = {"prompt": "a red mushroom with a white stem", "recipe": "oracle", "settings": SMALL | {"export.faces": 500}}
LEASE = 3.0


def store(place: Path, *jobs: dict[str, object]) -> ObjectStore:
    bucket = ObjectStore(str(place))
    write_manifest(bucket, iter(jobs))
    return bucket


def worker(place: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dreamlab.jobs.engines.worker", str(place), "--lease", str(LEASE)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def done(bucket: ObjectStore, row: int = 0) -> dict[str, object]:
    data = bucket.get(f"done/00000/{row:04d}")
    assert data is not None
    return json.loads(data)


def model(bucket: ObjectStore, row: int = 0) -> bytes:
    data = bucket.get(f"runs/00000/{row:04d}/{done(bucket, row)['attempt']}/export/model.glb")
    assert data is not None
    return data


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    place = tmp_path_factory.mktemp("plain") / "store"
    bucket = store(place, JOB)
    process = worker(place)
    said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    listed = done(bucket)["results"]["files"]["export/model.glb"]  # type: ignore[index, call-overload]
    assert listed["sha256"] == hashlib.sha256(model(bucket)).hexdigest()
    return model(bucket)


def wait_for(bucket: ObjectStore, key: str) -> None:
    until = time.monotonic() + 120
    while bucket.get(key) is None:
        assert time.monotonic() < until, f"{key} never came"
        time.sleep(0.02)


def test_killed_with_a_checkpoint_in_the_store_it_goes_on_elsewhere(tmp_path: Path, undisturbed: bytes) -> None:
    bucket = store(tmp_path / "store", JOB)
    first = worker(tmp_path / "store")
    wait_for(bucket, "runs/00000/0000/1/resume.json")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = worker(tmp_path / "store")
    said = second.communicate(timeout=240)
    assert second.returncode == 0, said
    assert done(bucket)["attempt"] == 2 and model(bucket) == undisturbed
    log = bucket.get("runs/00000/0000/2/log.txt")
    assert log is not None and json.loads(bucket.get("ends/00000/0000/1") or b"{}")["end"] == "superseded"


def test_asked_to_leave_it_leaves_a_checkpoint_and_no_lease_is_waited_for(tmp_path: Path, undisturbed: bytes) -> None:
    bucket = store(tmp_path / "store", JOB)
    first = worker(tmp_path / "store")
    wait_for(bucket, "runs/00000/0000/1/run/spec.json")
    time.sleep(0.5)
    first.send_signal(signal.SIGUSR1)
    first.communicate(timeout=60)
    if first.returncode == 0:
        pytest.fail("it was done before it could be asked to leave")
    assert first.returncode == 75 and json.loads(bucket.get("ends/00000/0000/1") or b"{}")["end"] == "paused"
    second = worker(tmp_path / "store")
    second.communicate(timeout=240)
    assert done(bucket)["attempt"] == 2 and model(bucket) == undisturbed


def test_a_prompt_that_cannot_be_is_given_up_and_holds_nobody_up(tmp_path: Path) -> None:
    bucket = store(tmp_path / "store", {"prompt": "a corgi", "recipe": "toybox"}, JOB)
    process = worker(tmp_path / "store")
    said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    poison = json.loads(bucket.get("poison/00000/0000") or b"{}")
    assert poison["code"] == 3 and "corgi" in poison["why"] and "\n" not in poison["why"]
    assert done(bucket, 1)["attempt"] == 1
    assert read_manifest(bucket).shards() == {0: 2}
