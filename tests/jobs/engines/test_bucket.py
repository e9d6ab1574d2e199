# SPDX-License-Identifier: Apache-2.0
"""The store's promises on disk, in memory and on S3, in fair weather and in bad."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dreamlab.core.errors import DiskError, InputError
from dreamlab.jobs.engines.bucket import PIECE, TRIES, ObjectStore
from tests.jobs.engines.s3 import S3Server, Weather

pytest.importorskip("obstore", reason="obstore is not installed (extra `clusters`)")
CREATORS, KEYS = 16, 6


def store(url: str) -> ObjectStore:
    return ObjectStore(url, pause=lambda seconds: None)


@pytest.fixture(params=["memory", "folder", "s3", "s3 in bad weather"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param.startswith("s3"):
        server: S3Server = request.getfixturevalue("s3")
        if "bad" in request.param:
            server.weather = Weather(fails=0.05, loses=0.1, slow=0.2, delay=0.02)
        return store(server.place())
    return store("memory://" if request.param == "memory" else str(tmp_path / "store"))


def test_of_all_that_create_one_key_one_wins_and_its_data_stays(bucket: ObjectStore) -> None:
    gate = threading.Barrier(CREATORS)

    def creator(number: int) -> list[bool]:
        won = []
        for key in range(KEYS):
            gate.wait(30)
            won.append(bucket.create(f"claims/00000/{key:04d}/1", f"worker {number}".encode()))
        return won

    with ThreadPoolExecutor(CREATORS) as pool:
        won = list(pool.map(creator, range(CREATORS)))
    for key in range(KEYS):
        winners = [number for number in range(CREATORS) if won[number][key]]
        assert len(winners) == 1
        assert bucket.get(f"claims/00000/{key:04d}/1") == f"worker {winners[0]}".encode()


def test_a_folder_comes_back_byte_for_byte(bucket: ObjectStore, tmp_path: Path) -> None:
    made = tmp_path / "made"
    (made / "deep").mkdir(parents=True)
    (made / "large.bin").write_bytes(os.urandom(PIECE + 12_345))
    (made / "deep" / "empty").touch()
    (made / "deep" / "ein “Haus”.txt").write_text("x")
    bucket.upload(made, "runs/00000/0000/1/ckpt/")
    bucket.put("runs/00000/0000/1/ckpt2/other", b"a neighbour by name")
    bucket.download("runs/00000/0000/1/ckpt/", tmp_path / "back")
    files = {path.relative_to(made): path.read_bytes() for path in made.rglob("*") if path.is_file()}
    back = tmp_path / "back"
    assert {path.relative_to(back): path.read_bytes() for path in back.rglob("*") if path.is_file()} == files


def test_a_create_whose_answers_are_lost_is_its_maker_s(s3: S3Server) -> None:
    """The deed is done; the same request, sent again by whoever, finds it there."""
    bucket = store(s3.place())
    s3.weather = Weather(loses=1)
    with pytest.raises(DiskError, match="failed 6 times"):
        bucket.create("ends/00000/0000/1", b"mine")
    assert s3.weather.seen["loses"] >= TRIES
    s3.weather = Weather(loses=0.5)
    assert [bucket.create(f"ends/00000/0001/{i}", b"mine") for i in range(12)] == [True] * 12
    assert s3.weather.seen["loses"] >= 3
    assert [bucket.create(f"ends/00000/0001/{i}", b"another's") for i in range(12)] == [False] * 12


def test_a_place_that_is_none_is_one_line(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"s3://nowhere/x: no such place; make the bucket first"):
        store("s3://nowhere/x").put("batch.json", b"{}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DiskError, match=r"batch\.json: failed 6 times in a row"):
        store("s3://nowhere/x").get("batch.json")
