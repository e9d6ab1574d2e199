# SPDX-License-Identifier: Apache-2.0
"""The Blender extension: its manifest, what it reads from run folders, its jobs beside a real process and a real
server, and all of it inside Blender where that is there."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from dreamlab import __version__
from dreamlab.export.formats import WRITERS
from tests.export.judges import bpy_python, run_bpy

ADDON = Path(__file__).parents[2] / "tools" / "blender" / "dreamlab"
COMMAND = """
import pathlib, shutil, sys, time
words = sys.argv[1:]
if "wait" in words[-1]:
    print("shape 3/12  1.0 it/s  9 s left", flush=True)
    time.sleep(60)
if words[-1] == "broken":
    print("error: nothing can be made of it", flush=True)
    sys.exit(3)
if words[0] == "texture":
    made = words[words.index("-o") + 1]
    shutil.copy(GLB, made)
    print(made)
else:
    print("shape 6/12  9.0 it/s  1 s left")
    print(next(pathlib.Path(words[words.index("--out") + 1]).iterdir()))
"""


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"blender_dreamlab_{name}", ADDON / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


work, folders = module("work"), module("folders")


def test_the_manifest_says_what_blender_asks() -> None:
    """Schema 1.0.0 of Blender's manual: required members, a version of three numbers, reasons of at most 64 characters
    that end without a full stop."""
    told = tomllib.loads((ADDON / "blender_manifest.toml").read_text())
    assert told["schema_version"] == "1.0.0" and told["type"] == "add-on" and told["id"].isidentifier()
    assert told["version"] == __version__ and told["license"] == ["SPDX:Apache-2.0"]
    assert len(told["tagline"]) <= 64 and not told["tagline"].endswith(".")
    assert set(told["permissions"]) == {"network", "files"}
    assert all(0 < len(why) <= 64 and not why.endswith(".") for why in told["permissions"].values())


def test_it_imports_nothing_but_blender_and_the_standard_library() -> None:
    for path in ADDON.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert all(name.split(".")[0] in sys.stdlib_module_names | {"bpy"} for name in names), (path, names)


def test_it_knows_the_files_that_an_export_leaves(finished_run: Path, tmp_path: Path) -> None:
    (found,) = folders.runs(finished_run.parent)
    assert found.model == finished_run / "export" / "model.glb" and found.state == "succeeded"
    assert found.prompt == "a red mushroom with a white stem" and found.picture.name == "poster.png"
    assert [each.model for each in folders.runs(finished_run)] == [found.model], "the folder of one run will do"
    (finished_run / "state.json").write_text("[1, 2")
    (finished_run / "export" / "report.json").write_text('{"prompt": 3}')
    assert [(each.state, each.prompt) for each in folders.runs(finished_run)] == [("?", "3")]
    assert folders.runs(tmp_path / "nothing") == []
    made = {f"{stem}.{kind}" for stem, kind in [("model", k) for k in WRITERS] + [("splats", "glb")]}
    assert set(folders.MODELS) <= made


@pytest.fixture
def command(tmp_path: Path, finished_run: Path) -> list[str]:
    script = tmp_path / "command.py"
    shutil.copy(finished_run / "export" / "model.glb", tmp_path / "given.glb")
    script.write_text(f"GLB = {str(tmp_path / 'given.glb')!r}\n{COMMAND}")
    return [sys.executable, str(script)]


def test_a_command_is_followed_to_its_end(command: list[str], tmp_path: Path, finished_run: Path) -> None:
    job = work.Command("x", [*command, "dream", "--out", str(finished_run.parent), "a mushroom"], tmp_path).start()
    job.wait(30)
    assert (job.state, job.result, job.progress) == ("succeeded", finished_run, 1.0)
    broken = work.Command("x", [*command, "dream", "broken"], tmp_path).start()
    broken.wait(30)
    assert broken.state == "failed" and broken.said == "error: nothing can be made of it"
    missing = work.Command("x", [str(tmp_path / "no such program")], tmp_path).start()
    missing.wait(30)
    assert missing.state == "failed" and "set it in the add-on's preferences" in missing.said


def test_a_command_that_is_cancelled_dies(command: list[str], tmp_path: Path) -> None:
    job = work.Command("x", [*command, "dream", "wait"], tmp_path).start()
    until = time.monotonic() + 20
    while job.progress == 0 and time.monotonic() < until:
        time.sleep(0.05)
    assert job.state == "running" and job.progress == pytest.approx(0.25)
    job.cancel()
    job.wait(20)
    assert job.state == "cancelled"


class Studio(BaseHTTPRequestHandler):
    """As much of a studio as the extension asks."""

    asked: list[tuple[str, str, object]]
    looks: int
    folder: str

    def _say(self, body: object, code: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append(("POST", self.path, body))
        if body.get("prompt") == "broken":
            return self._say({"loc": "prompt"}, 422)
        return self._say({"id": "abc", "state": "cancelled" if "cancel" in self.path else "queued"}, 202)

    def do_GET(self) -> None:
        if self.path == "/v1/system":
            return self._say({"ok": True})
        type(self).looks += 1
        if type(self).looks < 2:
            return self._say({"state": "running", "progress": 0.5, "stage": "shape"})
        return self._say({"state": "succeeded", "progress": 1, "folder": type(self).folder})

    def log_message(self, format: str, *words: object) -> None: ...


@pytest.fixture
def studio(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(work, "EVERY", 0.05)
    Studio.asked, Studio.looks, Studio.folder = [], 0, str(finished_run)
    with ThreadingHTTPServer(("127.0.0.1", 0), Studio) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_studio_is_asked_once_and_followed(studio: str, finished_run: Path) -> None:
    assert work.studio_there(studio)
    job = work.Asked("x", studio, {"prompt": "a mushroom"}).start()
    job.wait(20)
    assert (job.state, job.result) == ("succeeded", finished_run)
    assert Studio.asked == [("POST", "/v1/jobs", {"prompt": "a mushroom"})]
    refused = work.Asked("x", studio, {"prompt": "broken"}).start()
    refused.wait(20)
    assert refused.state == "failed" and "422" in refused.said


@pytest.mark.parametrize(
    "url", ["http://example.com/", "https://127.0.0.1:1", "file:///etc/passwd", "http://127.0.0.1.x"]
)
def test_nobody_else_is_asked(url: str) -> None:
    assert not work.local(url) and not work.studio_there(url)
    with pytest.raises(OSError, match="not on this computer"):
        work.answer("GET", url)


def test_in_blender(command: list[str], finished_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Registered in a real Blender: a run comes in, a cube is textured and stays the cube it was, a prompt becomes an
    object, and no operator blocks."""
    bpy_python()
    words = ["--", ADDON, finished_run.parent, " ".join(command), "a red cube"]
    said = run_bpy("../tools/in_blender.py", *words)
    found = json.loads(next(line for line in said.splitlines() if line.startswith("SAID "))[5:])
    assert found["runs"] == [["a red mushroom with a white stem", "succeeded", "model.glb"]]
    assert [kind for kind, _ in found["objects"]] == ["MESH"] and found["materials"] == 1
    assert found["job"][0] == "succeeded" and found["untouched"] and found["left"] == ["mine"]
    assert len(found["dressed"]) == 1 and found["dressed"][0]
    assert found["generated"] == ["succeeded", 2] and "Write a prompt first" in found["empty"]
    assert found["blocked"] < 5
