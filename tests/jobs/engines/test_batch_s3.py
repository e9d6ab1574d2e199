# SPDX-License-Identifier: Apache-2.0
"""One real batch through a bucket, called as somebody calls it, while the bucket fails, is slow and loses answers; and
what a full disk of a worker's own costs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.batch_soak import EXPORT
from dreamlab.core.errors import DiskError
from dreamlab.core.files import Json
from dreamlab.jobs.engines.bucket import ObjectStore
from dreamlab.jobs.engines.courier import Courier
from dreamlab.jobs.engines.ledger import HeldJob, Ledger
from dreamlab.jobs.engines.manifest import write_manifest
from dreamlab.jobs.engines.worker import work
from tests.jobs.engines.s3 import S3Server, Weather

pytest.importorskip("obstore", reason="obstore is not installed (extra `clusters`)")
SMALL = EXPORT | {"stages.0.steps": 10, "stages.0.size": 16, "stages.0.scene.count": 48, "keeping.checkpoint": 5}
JOB = {"prompt": "a red mushroom with a white stem", "recipe": "oracle", "settings": SMALL}
BATCH = "import sys; from dreamlab.cli import main; main(sys.argv[1:])"


def models(bucket: ObjectStore, jobs: int) -> list[bytes]:
    attempts = [json.loads(bucket.get(f"done/00000/{row:04d}") or b"{}")["attempt"] for row in range(jobs)]
    found = [bucket.get(f"runs/00000/{row:04d}/{n}/export/model.glb") for row, n in enumerate(attempts)]
    assert all(found)
    return [data for data in found if data]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    bucket = ObjectStore(str(tmp_path_factory.mktemp("plain")))
    write_manifest(bucket, iter([JOB]))
    assert work(bucket.url) == 1
    return models(bucket, 1)[0]


@pytest.mark.slow
@pytest.mark.release  # the ledger meets the same weather in every landing
def test_a_batch_through_a_bucket_in_bad_weather_gives_the_same_bytes(
    s3: S3Server, tmp_path: Path, undisturbed: bytes
) -> None:
    (tmp_path / "jobs.jsonl").write_text(json.dumps(JOB) + "\n" + json.dumps(JOB))
    url = s3.place()
    s3.weather = Weather(fails=0.06, loses=0.04, slow=0.1)
    told = subprocess.run(
        [sys.executable, "-c", BATCH, "batch", "jobs.jsonl", "--workers", "2", "--out", url],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert told.returncode == 0 and "2 of 2 done" in told.stdout, told
    assert told.stdout.splitlines()[-1] == url
    assert min(s3.weather.seen[kind] for kind in ("fails", "loses", "slow")) > 0, "the weather was too fair"
    s3.weather = Weather()
    assert models(ObjectStore(url), 2) == [undisturbed, undisturbed]


class Gone(BaseException):
    """As if the process were."""


def test_a_dead_worker_s_job_goes_on_in_bad_weather_whatever_the_clocks_say(
    s3: S3Server, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first dies with all it made in its hands; one of its name, seven minutes ahead, commits when all is over."""
    bucket = ObjectStore(s3.place(), pause=lambda seconds: None)
    task = write_manifest(bucket, iter([JOB])).task(0, 0)
    s3.weather = Weather(fails=0.1, loses=0.05, slow=0.1, delay=0.05)

    def dies(courier: Courier) -> Json:
        raise Gone

    with monkeypatch.context() as patch, pytest.raises(Gone):
        patch.setattr(Courier, "results", dies)
        work(bucket.url)
    assert bucket.get(f"runs/{task.key}/1/resume.json") is not None
    assert work(bucket.url, lease=1.0) == 1
    assert min(s3.weather.seen[kind] for kind in ("fails", "loses", "slow")) > 0, "the weather was too fair"
    late = HeldJob(task, 1, json.loads(bucket.get(f"claims/{task.key}/1") or b"{}")["worker"])
    sleeper = Ledger(bucket, late.worker, lambda: time.monotonic() + 420)
    assert not sleeper.finish(late, {"of": "the sleeper"}) and not sleeper.beat(late, 9)
    assert json.loads(bucket.get(f"ends/{late.key}") or b"{}")["end"] == "superseded"
    assert json.loads(bucket.get(f"done/{task.key}") or b"{}")["attempt"] == 2 and models(bucket, 1) == [undisturbed]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place, mount = tmp_path / "small", shutil.which("mount")
    place.mkdir()
    command = [str(mount), "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mount: this process may mount no file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_worker_whose_disk_is_full_leaves_and_another_makes_the_job(
    small_disk: Path, tmp_path: Path, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = ObjectStore(str(tmp_path / "store"))
    write_manifest(bucket, iter([JOB]))
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    with pytest.raises(DiskError, match="the worker leaves") as caught:
        work(bucket.url)
    assert str(small_disk) in str(caught.value) and "\n" not in str(caught.value)
    assert bucket.names("poison/") == [] and json.loads(bucket.get("ends/00000/0000/1") or b"{}")["end"] == "paused"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert work(bucket.url) == 1 and models(bucket, 1) == [undisturbed]
