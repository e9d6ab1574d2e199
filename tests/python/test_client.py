# SPDX-License-Identifier: Apache-2.0
"""The client of a studio against a server that behaves badly on purpose; test_studio.py beside it has the real one."""

from __future__ import annotations

import email.utils
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import dreamlab
from dreamlab.core.errors import DiskError, InputError
from dreamlab.python import remote, wire
from dreamlab.python.remote import RemoteFailed, RemoteJob
from dreamlab.python.wire import (
    StudioBusy,
    StudioConflict,
    StudioDisk,
    StudioError,
    StudioForbids,
    StudioRejects,
    StudioUnknown,
    StudioUnreachable,
)

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    time: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Said:
    """An answer; a body that is cut ends before its length."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


class Stand:
    """A server that answers by a list, the last entry for ever; what it was asked is kept."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.script: dict[tuple[str, str], list[Said | Callable[[Asked], Said]]] = {}
        stand = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                parts = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {key.lower(): value for key, value in self.headers.items()}
                asked = Asked(self.command, parts.path, parse_qs(parts.query), headers, body, time.monotonic())
                stand.asked.append(asked)
                listed = stand.script.get((asked.method, asked.path)) or [error(404, "unknown", "there is none")]
                said = listed.pop(0) if len(listed) > 1 else listed[0]
                said = said(asked) if callable(said) else said
                data = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
                self.send_response(said.status)
                for name, value in {"Content-Length": str(len(data)), **said.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if said.cut else data)
                self.close_connection = True

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *given: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def on(self, method: str, path: str, *said: Said | Callable[[Asked], Said]) -> None:
        self.script[method, path] = list(said)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def error(status: int, code: str, message: str, hint: str = "", fields: Any = (), **headers: str) -> Said:
    told = {"code": code, "message": message, "hint": hint, "fields": list(fields)}
    return Said({"error": told}, status, {key.replace("_", "-"): value for key, value in headers.items()})


def job(state: str = "queued", **more: Any) -> dict[str, Any]:
    return {"id": "abcdefghijkl", "state": state, "prompt": "a cup", "seq": 1, "step": 0, "total": 0} | more


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    monkeypatch.setattr(wire, "FIRST_S", 0.02)
    monkeypatch.setattr(remote, "FIRST_S", 0.01)
    made = Stand()
    yield made
    made.close()


def test_a_job_is_asked_for_as_the_contract_says(stand: Stand, tmp_path: Path) -> None:
    (tmp_path / "cup.png").write_bytes(b"\x89PNG")
    stand.on("POST", "/v1/uploads", Said({"id": "f" * 64}, 201))
    stand.on("POST", "/v1/jobs", Said(job(), 202))
    client = dreamlab.Client(stand.url + "/", token="s3cret")
    made = client.dream(
        "a ${cup}", steps=4, seed=7, image=tmp_path / "cup.png", lane="background", **{"export.faces": 900}
    )
    upload, asked = stand.asked
    assert upload.body == b"\x89PNG" and upload.headers["x-filename"] == "cup.png"
    assert asked.json == {
        "kind": "dream", "prompt": "a ${cup}", "seed": 7, "image": "f" * 64, "lane": "background",
        "settings": {"steps": 4, "export.faces": 900},
    }  # fmt: skip
    assert asked.headers["authorization"] == "Bearer s3cret" and len(asked.headers["idempotency-key"]) >= 16
    assert isinstance(made, RemoteJob) and made.id == "abcdefghijkl"


def test_the_client_needs_neither_torch_nor_the_engine() -> None:
    code = "import sys, dreamlab; dreamlab.Client('http://127.0.0.1:1'); import dreamlab.python.remote\n"
    code += "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'numpy', 'rich', 'yaml', 'systems'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def test_a_busy_studio_is_asked_again_when_it_says_and_by_the_same_key(stand: Stand) -> None:
    busy = error(503, "unavailable", "the queue is full", Retry_After="1")
    stand.on("POST", "/v1/jobs", busy, error(429, "too_many", "wait", Retry_After="0"), Said(job(), 202))
    assert dreamlab.Client(stand.url).dream("a cup").id == "abcdefghijkl"
    first, second, third = stand.asked
    assert second.time - first.time >= 1.0
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == third.headers["idempotency-key"]
    dreamlab.Client(stand.url).dream("a cup")
    assert stand.asked[-1].headers["idempotency-key"] != first.headers["idempotency-key"]


def test_a_date_to_come_again_is_understood(stand: Stand) -> None:
    then = email.utils.formatdate(time.time() + 3, usegmt=True)
    stand.on("GET", "/v1/system", error(503, "unavailable", "starting", Retry_After=then), Said({"version": "1"}))
    began = time.monotonic()
    assert dreamlab.Client(stand.url).system() == {"version": "1"}
    assert time.monotonic() - began >= 1.5  # dates have whole seconds


def test_patience_ends(stand: Stand) -> None:
    stand.on("GET", "/v1/system", error(503, "unavailable", "the queue is full", "later", Retry_After="100"))
    with pytest.raises(StudioBusy, match="the queue is full; later"):
        dreamlab.Client(stand.url, patience=5).system()
    assert len(stand.asked) == 1  # what comes after patience is not waited for
    stand.close()
    with pytest.raises(StudioUnreachable, match=r"nobody answers \(.*refused.*\); is it running\?"):
        dreamlab.Client(stand.url, patience=0.1).system()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, StudioForbids), (403, StudioForbids), (404, StudioUnknown), (409, StudioConflict), (413, StudioRejects),
     (415, StudioRejects), (422, StudioRejects), (507, StudioDisk), (500, StudioError)],
)  # fmt: skip
def test_refusals_have_types_and_are_not_repeated(stand: Stand, status: int, kind: type[StudioError]) -> None:
    fields = [{"loc": "steps", "msg": "must be at most 9", "got": "10", "allowed": "1 to 9"}] * 2
    stand.on("POST", "/v1/jobs", error(status, "some", "steps: must be at most 9", "give fewer", fields))
    with pytest.raises(kind) as caught:
        dreamlab.Client(stand.url).dream("a cup")
    assert type(caught.value) is kind and isinstance(caught.value, dreamlab.DreamError)
    assert (caught.value.status, caught.value.code, caught.value.fields) == (status, "some", fields)
    assert str(caught.value).startswith("steps: must be at most 9") and str(caught.value).endswith("give fewer")
    assert len(stand.asked) == 1


@pytest.mark.parametrize("body", [b"<html>nginx</html>", b"[" * 90_000, b"", b"5", b'{"error": 3}', b'{"error": {}}'])
def test_another_server_than_a_studio_is_told_by_its_answers(stand: Stand, body: bytes) -> None:
    stand.on("GET", "/v1/system", Said(body, 500))
    with pytest.raises(StudioError, match=r"status 500 .*is this a studio"):
        dreamlab.Client(stand.url, patience=0.1).system()
    if not body.startswith(b"{"):
        stand.on("GET", "/v1/system", Said(body))
        with pytest.raises(StudioError, match="is no JSON; is this a studio"):
            dreamlab.Client(stand.url, patience=0.1).system()


def test_a_terminal_is_not_told_what_a_server_pleases(stand: Stand) -> None:
    stand.on("GET", "/v1/system", error(404, "x", "\x1b[2J evil\nsecond line" + "x" * 9999))
    with pytest.raises(StudioUnknown) as caught:
        dreamlab.Client(stand.url).system()
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_a_token_goes_nowhere_else(stand: Stand, tmp_path: Path) -> None:
    """Neither by a redirect, nor to an address that a job names."""
    other = Stand()
    try:
        stand.on("GET", "/v1/system", Said({}, 302, {"Location": other.url + "/v1/system"}))
        with pytest.raises(StudioError, match="status 302"):
            dreamlab.Client(stand.url, token="s3cret").system()
        files = [{"name": "model.glb", "url": other.url + "/model.glb", "sha256": ""}]
        stand.on("GET", "/v1/jobs/abcdefghijkl", Said(job("succeeded", artifacts=files)))
        with pytest.raises(StudioError, match="is not of this studio"):
            dreamlab.Client(stand.url, token="s3cret").job("abcdefghijkl").download(tmp_path)
        assert not other.asked and not list(tmp_path.iterdir())
    finally:
        other.close()


@pytest.mark.parametrize("url", ["127.0.0.1:7860", "ftp://x", "file:///etc/passwd", "http://", "http://a:b@c", "x\x1b"])
def test_what_is_no_address_is_said_at_once(url: str) -> None:
    with pytest.raises(InputError, match="is no address of a studio"):
        dreamlab.Client(url)


def test_waiting_outlives_a_studio_that_starts_again(stand: Stand) -> None:
    """Nothing but questions: a connection that breaks, 502 of a proxy, and half an answer are asked again."""
    running = job("running", step=3, total=9, stage="shape", seq=4)
    path = "/v1/jobs/abcdefghijkl"
    stand.on("POST", "/v1/jobs", Said(job(), 202))
    stand.on("GET", path, Said(job()), error(502, "x", "bad gateway"), Said(running, cut=True), Said(running),
             Said(job("succeeded", step=9, total=9, seq=5)))  # fmt: skip
    told: list[tuple[str, int]] = []
    client = dreamlab.Client(stand.url, patience=10)
    made = client.dream("a cup").wait(progress=lambda each: told.append((each.info["state"], each.info["step"])))
    assert told == [("queued", 0), ("running", 3), ("succeeded", 9)]
    assert made.state == "succeeded" and made.succeeded
    before = len(stand.asked)
    assert made.state == "succeeded" and len(stand.asked) == before  # what has ended is not asked again


def test_waiting_ends_with_what_became_of_it(stand: Stand) -> None:
    path = "/v1/jobs/abcdefghijkl"
    wrong = {"code": "diverged", "message": "stays non-finite", "hint": "lower the rates"}
    stand.on("GET", path, Said(job("failed", error=wrong)))
    found = dreamlab.Client(stand.url).job("abcdefghijkl")
    with pytest.raises(RemoteFailed, match="job abcdefghijkl failed: stays non-finite; lower the rates") as caught:
        found.wait()
    assert caught.value.job is found and caught.value.code == "diverged"
    assert found.wait(check=False).state == "failed"
    stand.on("GET", path, Said(job("cancelled")))
    assert found.refresh().wait().state == "cancelled"
    stand.on("GET", path, Said(job("running")))
    with pytest.raises(TimeoutError, match=r"still running after 0.05 s; it goes on without you"):
        found.refresh().wait(timeout=0.05)


def test_files_are_held_against_their_digests(stand: Stand, tmp_path: Path) -> None:
    data = b"glTF" * 50_000
    files = [
        {
            "name": "model.glb",
            "url": "/v1/runs/abcdefghijkl/files/model.glb",
            "sha256": hashlib.sha256(data).hexdigest(),
        },
        {"name": "unity/model.bin", "url": "/v1/runs/abcdefghijkl/files/unity/model.bin", "sha256": ""},
    ]
    stand.on("GET", "/v1/jobs/abcdefghijkl", Said(job("succeeded", artifacts=files)))
    stand.on("GET", files[0]["url"], Said(data, cut=True), Said(b"other" + data), Said(data))
    stand.on("GET", files[1]["url"], Said(b"x"))
    found = dreamlab.Client(stand.url).job("abcdefghijkl")
    assert found.download(tmp_path) == [tmp_path / "model.glb", tmp_path / "unity" / "model.bin"]
    assert (tmp_path / "model.glb").read_bytes() == data
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model.bin", "model.glb", "unity"]
    with pytest.raises(InputError, match=r"has no file 'x.glb'; it has model.glb, unity/model.bin"):
        found.download(tmp_path, ["x.glb"])
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="keeping a download"):
        found.download(tmp_path / "file")


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "C:\\evil", "a\\b", "", "a//b", ".", "x\0y", "\x1b[2J", "y" * 999]
)
def test_a_studio_cannot_write_where_it_likes(stand: Stand, tmp_path: Path, name: str) -> None:
    files = [{"name": name, "url": "/v1/x", "sha256": ""}]
    stand.on("GET", "/v1/jobs/abcdefghijkl", Said(job("succeeded", artifacts=files)))
    stand.on("GET", "/v1/x", Said(b"evil"))
    with pytest.raises(DiskError, match="nothing is written"):
        dreamlab.Client(stand.url).job("abcdefghijkl").download(tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("*"))


def test_verbs_go_where_the_contract_has_them(stand: Stand) -> None:
    path = "/v1/jobs/abcdefghijkl"
    stand.on("GET", path, Said(job("running")))
    for verb in ("cancel", "retry", "favourite", "move", "restore", "continue", "branch", "export"):
        stand.on("POST", f"{path}/{verb}", Said(job("queued", id=f"{verb:x<12}"), 202))
    stand.on("DELETE", path, Said({}))
    found = dreamlab.Client(stand.url).job("abcdefghijkl")
    assert found.continue_(30).id == "continuexxxx"
    assert found.branch(prompt="a mug", **{"stages.0.terms.0.system.cfg": 3}).id == "branchxxxxxx"
    assert found.export("glb,obj", faces=900).id == "exportxxxxxx"
    found.cancel(keep=True).retry().favourite(False).move(after="zzzzzzzzzzzz", priority=2).restore().delete()
    said = {asked.path.rpartition("/")[2]: asked.json for asked in stand.asked if asked.method == "POST"}
    assert said == {
        "continue": {"steps": 30},
        "branch": {"prompt": "a mug", "settings": {"stages.0.terms.0.system.cfg": 3}},
        "export": {"formats": ["glb", "obj"], "faces": 900},
        "cancel": {"keep": True}, "retry": {}, "favourite": {"on": False}, "restore": {},
        "move": {"after": "zzzzzzzzzzzz", "priority": 2},
    }  # fmt: skip
    assert stand.asked[-1].method == "DELETE"


def test_lists_follow_their_cursors(stand: Stand) -> None:
    def page(asked: Asked) -> Said:
        at = int(asked.query.get("cursor", ["0"])[0])
        size = int(asked.query["limit"][0])
        rows = [job(id=f"{i:012d}") for i in range(at, min(at + min(size, 3), 8))]
        return Said({"jobs": rows, "runs": rows, "next": str(at + len(rows)) if at + len(rows) < 8 else None})

    stand.on("GET", "/v1/jobs", page)
    stand.on("GET", "/v1/runs", page)
    client = dreamlab.Client(stand.url)
    assert [int(each.id) for each in client.jobs(state=["queued", "failed"], text="cup")] == list(range(8))
    assert stand.asked[0].query["state"] == ["queued,failed"] and stand.asked[0].query["q"] == ["cup"]
    assert len(list(client.jobs(limit=4))) == 4
    assert [int(row["id"]) for row in client.runs(favourite=True, limit=7)] == list(range(7))
    assert stand.asked[-1].query["favourite"] == ["true"]


def test_a_batch_is_one_request(stand: Stand) -> None:
    stand.on("POST", "/v1/batches", Said({"jobs": [job(id="a" * 12), job(id="b" * 12)], "batch": "x"}, 202))
    made = dreamlab.Client(stand.url).batch({"prompt": "a cup"}, zip={"seed": [1, 2]}, cross={"recipe": ["sds"]})
    assert [each.id for each in made] == ["a" * 12, "b" * 12]
    (asked,) = stand.asked
    assert asked.json == {"job": {"prompt": "a cup"}, "zip": {"seed": [1, 2]}, "cross": {"recipe": ["sds"]}}


def test_a_log_is_read_to_its_end(stand: Stand) -> None:
    def log(asked: Asked) -> Said:
        after = int(asked.query["after"][0])
        return Said({"text": "hello"[after : after + 2], "next": min(after + 2, 5)})

    stand.on("GET", "/v1/jobs/abcdefghijkl", Said(job("running")))
    stand.on("GET", "/v1/jobs/abcdefghijkl/log", log)
    assert dreamlab.Client(stand.url).job("abcdefghijkl").log() == "hello"


def test_a_bar_follows_a_job(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    path = "/v1/jobs/abcdefghijkl"
    running = job("running", step=8, total=8, stage="shape", seq=2)
    stand.on("GET", path, Said(job()), Said(running), Said(job("succeeded", seq=3)))
    stand.on("GET", f"{path}/metrics", Said({"points": [{"step": 8, "loss": 0.25}]}))
    dreamlab.Client(stand.url).job("abcdefghijkl").wait(progress=True)
    assert "shape 8/8" in capsys.readouterr().err


def test_a_notebook_follows_a_job(stand: Stand, kernel: list[str]) -> None:
    path = "/v1/jobs/abcdefghijkl"
    running = job("running", step=4, total=8, stage="shape", seq=2, progress=0.5, it_per_s=2.0, eta_s=2.0)
    stand.on(
        "GET", path, Said(job(position=3)), Said(job(position=3)), Said(running), Said(job("succeeded", progress=1))
    )
    dreamlab.Client(stand.url).job("abcdefghijkl").wait()
    words = [text.partition("<div>")[2].partition("</div>")[0] for text in kernel]
    assert words == ["queued", "queued, number 3 in the queue", "running, shape 4/8, 2.0 it/s, 2 s left", "succeeded"]
    assert 'aria-valuenow="50"' in kernel[2] and 'aria-valuenow="100"' in kernel[3]
    before = len(kernel)
    dreamlab.Client(stand.url).job("abcdefghijkl").wait(progress=False)
    assert len(kernel) == before
