# SPDX-License-Identifier: Apache-2.0
"""Files of runs: by the manifest alone, never through a link, whole or in part. Fault 36."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from dreamlab.studio.answers import Refusal, Reply
from dreamlab.studio.files import opened_below, sent
from dreamlab.studio.manifest import manifest

DATA = bytes(range(256)) * 5000


def body(reply: Reply) -> bytes:
    assert not isinstance(reply.body, AsyncIterator)
    data = b"".join(reply.body) if isinstance(reply.body, Iterator) else reply.data()
    reply.close()
    return data


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with files that may be sent, some that may not, and a secret beside it."""
    folder = tmp_path / "runs" / "a-run"
    for name in ("export/unity", "previews", "ckpt/step_000004"):
        (folder / name).mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    files = {"model.glb": DATA, "contact.png": b"png"}
    for name, data in files.items():
        (folder / "export" / name).write_bytes(data)
    entries = {
        name: {"bytes": len(data), "sha256": "a" * 64, "step": 4, "format": "glb"} for name, data in files.items()
    }
    (folder / "export" / "report.json").write_text(json.dumps({"files": entries}))
    (folder / "export" / "unity" / "model.glb").write_bytes(b"unity")
    (folder / "export" / "unity" / "report.json").write_text(json.dumps({"files": {"model.glb": entries["model.glb"]}}))
    for name in ("step_000004.png", "live_000004.glb", "truth.png", ".step_000008.png.1.tmp", "step_x.png"):
        (folder / "previews" / name).write_bytes(b"x")
    for name in ("image.png", "recipe.yaml", "spec.json", "events.jsonl", "log.txt"):
        (folder / name).write_bytes(b"x")
    (folder / "ckpt" / "step_000004" / "scene.safetensors").write_bytes(b"x")
    return folder


def test_the_manifest_is_what_the_run_says_it_made(run: Path) -> None:
    assert set(manifest(run)) == {
        "export/model.glb",
        "export/contact.png",
        "export/report.json",
        "export/unity/model.glb",
        "export/unity/report.json",
        "previews/step_000004.png",
        "previews/live_000004.glb",
        "previews/truth.png",
        "image.png",
        "recipe.yaml",
    }
    made = manifest(run)["export/model.glb"]
    assert (made.bytes, made.sha256, made.kind, made.lasting) == (len(DATA), "a" * 64, "glb", False)


def test_a_report_that_was_meddled_with_names_nothing_elsewhere(run: Path) -> None:
    names = ["../../secret", "../recipe.yaml", "/etc/passwd", "a//b", "a\0b", ".", "a\\..\\b"]
    entry = {"bytes": "x", "sha256": "../../x", "step": 4}
    (run / "export" / "report.json").write_text(
        json.dumps({"files": {name: entry for name in names} | {"ok.glb": entry}})
    )
    assert {name for name in manifest(run) if name.startswith("export/") and "unity" not in name} == {
        "export/ok.glb",
        "export/report.json",
    }
    assert manifest(run)["export/ok.glb"].sha256 == ""
    for text in ("[]", '{"files": []}', "{", '{"files": {"a": 3}}'):
        (run / "export" / "report.json").write_text(text)
        assert "export/a" not in manifest(run)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "../../secret",
        "/etc/passwd",
        "",
        ".",
        "..",
        "export/../recipe.yaml",
        "export",
        "nothing",
        "export//model.glb",
        "a\0b",
        "x" * 5000,
    ],
)
def test_no_name_leads_out_of_the_folder(run: Path, name: str) -> None:
    with pytest.raises(Refusal) as caught:
        opened_below(run, name)
    assert caught.value.status == 404


def test_a_link_is_followed_nowhere(run: Path, tmp_path: Path) -> None:
    """Neither the file nor a folder on the way, though the manifest names them; nor is a pipe waited for."""
    (run / "export" / "model.glb").unlink()
    (run / "export" / "model.glb").symlink_to(tmp_path / "secret")
    (run / "export" / "contact.png").unlink()
    os.mkfifo(run / "export" / "contact.png")
    (run / "elsewhere").symlink_to(tmp_path)
    for name in ("export/model.glb", "export/contact.png", "elsewhere/secret"):
        with pytest.raises(Refusal):
            opened_below(run, name)


def send(run: Path, headers: Mapping[str, str] | None = None, **more: bool) -> Reply:
    return sent(run, "export/model.glb", headers or {}, "model/gltf-binary", "a" * 64, "a red mushroom ü.glb", **more)


def test_a_whole_file_with_what_a_browser_keeps_it_by(run: Path) -> None:
    reply = send(run)
    assert body(reply) == DATA and reply.status == 200 and reply.headers["Content-Length"] == str(len(DATA))
    assert "immutable" in reply.headers["Cache-Control"] and reply.headers["ETag"] == f'"{"a" * 64}"'
    assert reply.headers["Content-Disposition"] == (
        "attachment; filename=\"a-red-mushroom-u.glb\"; filename*=UTF-8''a%20red%20mushroom%20%C3%BC.glb"
    )
    assert send(run, lasting=False).headers["Cache-Control"] == "private, no-cache"
    same = send(run, {"if-none-match": f'"other", W/"{"a" * 64}"'})
    assert (same.status, body(same)) == (304, b"")


@pytest.mark.parametrize(
    "asked,first,last",
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        ("bytes=1279999-", 1279999, 1279999),
        ("bytes=-5", 1279995, 1279999),
        ("bytes=5-99999999", 5, 1279999),
    ],
)
def test_a_part_of_a_file(run: Path, asked: str, first: int, last: int) -> None:
    reply = send(run, {"range": asked})
    assert reply.status == 206 and body(reply) == DATA[first : last + 1]
    assert reply.headers["Content-Range"] == f"bytes {first}-{last}/{len(DATA)}"


@pytest.mark.parametrize(
    "headers",
    [
        {"range": "bytes=a-b"},
        {"range": "lines=1-2"},
        {"range": "bytes=1-2,4-5"},
        {"range": "bytes=-"},
        {"range": "bytes=0-1", "if-range": '"older"'},
    ],
)
def test_a_part_that_is_none_is_the_whole(run: Path, headers: Mapping[str, str]) -> None:
    reply = send(run, headers)
    assert reply.status == 200 and len(body(reply)) == len(DATA)


@pytest.mark.parametrize("asked", ["bytes=1280000-", "bytes=9-3", "bytes=-0"])
def test_a_part_beyond_the_end_is_refused(run: Path, asked: str) -> None:
    with pytest.raises(Refusal) as caught:
        send(run, {"range": asked})
    assert caught.value.status == 416 and caught.value.headers["Content-Range"] == f"bytes */{len(DATA)}"
    held = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
    assert not [path for path in held if path.startswith(f"{run.resolve()}/")], "the file is closed"
