# SPDX-License-Identifier: Apache-2.0
"""What follows a job on a cluster, without one: pieces of files that come twice or late, ends, and an HTTP server that
sends the token elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dreamlab.core.errors import InputError
from dreamlab.jobs.engines.rayjobs import ClusterAway, RayJob, RayJobs
from dreamlab.run.folder import Run

pytest.importorskip("obstore", reason="obstore is not installed (extra `clusters`)")

from dreamlab.jobs.engines.bucket import ObjectStore
from dreamlab.jobs.engines.courier import Courier
from dreamlab.jobs.engines.remote import TASK, THEIRS, Mirror, RemoteFailure

TOKEN = "a-token-that-nobody-may-see"


def folder(place: Path) -> Run:
    for name in ("previews", "export", "ckpt"):
        (place / name).mkdir(parents=True)
    (place / "spec.json").write_text('{"id": "abc"}')
    for name in ("recipe.yaml", "state.json"):
        (place / name).write_text("{}")
    return Run(place)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Run, Run, ObjectStore]:
    here, there = folder(tmp_path / "here"), folder(tmp_path / "there")
    here.event("start", of="an earlier attempt")
    here.log("before")
    return here, there, ObjectStore(str(tmp_path / "store"))


def test_what_grows_comes_in_pieces_once_whoever_looks_how_often(pair: tuple[Run, Run, ObjectStore]) -> None:
    here, there, bucket = pair
    before = (here.path / "events.jsonl").read_bytes()
    courier, mirror = Courier(bucket, there, THEIRS, live=True), Mirror(bucket, here)
    mirror.given()
    there.log("begins")
    for step in range(5):
        there.event("metrics", global_step=step)
        (there.previews / f"step_{step:06d}.png").write_bytes(bytes([step]))
        courier.tell()
        if step in (1, 3):
            assert not mirror.look() and not mirror.look()
        if step == 3:
            mirror = Mirror(bucket, here)  # another follower, which knows nothing of the first
    (there.export / "model.glb").write_bytes(b"glTF")
    results = courier.results()
    bucket.create(f"done/{TASK.key}", json.dumps({"attempt": 2, "results": results}).encode())
    assert mirror.look()
    assert (here.path / "events.jsonl").read_bytes() == before + (there.path / "events.jsonl").read_bytes()
    assert (here.path / "log.txt").read_text().count("begins") == 1
    assert [each.read_bytes() for each in sorted(here.previews.iterdir())] == [bytes([step]) for step in range(5)]
    assert (here.export / "model.glb").read_bytes() == b"glTF"


def test_a_job_that_was_given_up_says_why_with_its_exit_code(pair: tuple[Run, Run, ObjectStore]) -> None:
    here, _, bucket = pair
    bucket.create(f"poison/{TASK.key}", b'{"attempt": 2, "code": 6, "why": "diverged"}')
    with pytest.raises(RemoteFailure, match="diverged") as caught:
        Mirror(bucket, here).look()
    assert caught.value.exit_code == 6


def test_a_store_that_names_other_places_is_refused(pair: tuple[Run, Run, ObjectStore], tmp_path: Path) -> None:
    here, _, bucket = pair
    told = {"attempt": 2, "results": {"files": {"../escaped": {}}}}
    bucket.create(f"done/{TASK.key}", json.dumps(told).encode())
    with pytest.raises(InputError, match="outside of the run"):
        Mirror(bucket, here).look()
    assert not (tmp_path / "escaped").exists()


class Asked(BaseHTTPRequestHandler):
    """A cluster that knows one job, and whose doors lead to another."""

    heard: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.heard.append((self.path, self.headers.get("Authorization", "")))
        code = {"/api/jobs/moved": 302, "/api/jobs/none": 404, "/api/version": 401, "/api/jobs/ill": 500}
        self.send_response(code.get(self.path, 200))
        self.send_header("Location", "/api/jobs/elsewhere")
        self.end_headers()
        self.wfile.write(json.dumps({"status": "RUNNING", "message": "ok"}).encode())

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    heard: list[tuple[str, str]] = []
    made = HTTPServer(("127.0.0.1", 0), type("AskedHere", (Asked,), {"heard": heard}))
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}", heard
    made.shutdown()
    made.server_close()


def test_the_token_goes_to_one_address_and_into_no_message(server: tuple[str, list[tuple[str, str]]]) -> None:
    address, heard = server
    cluster = RayJobs(address, TOKEN)
    assert cluster.job("one") == RayJob("RUNNING", "ok") and cluster.job("none") is None
    said = []
    for ask in (lambda: cluster.job("moved"), lambda: cluster.job("ill"), cluster.check):
        with pytest.raises((ClusterAway, InputError)) as caught:
            ask()
        said.append(str(caught.value))
    assert "does not let us in" in said[2] and not [each for each in said if TOKEN in each or "\n" in each]
    assert "/api/jobs/elsewhere" not in [path for path, _ in heard], "a redirect would take the token along"
    assert {token for _, token in heard} == {f"Bearer {TOKEN}"}


def test_submitting_again_is_no_error_where_the_job_is_there(server: tuple[str, list[tuple[str, str]]]) -> None:
    address, heard = server
    RayJobs(address, TOKEN).submit("one", "true", 0, {})
    assert heard[-1][0] == "/api/jobs/"


@pytest.mark.parametrize("address", ["host:8265", "ftp://host", "http://user:word@host:8265", "http://host?x=1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="--ray-address"):
        RayJobs(address)
