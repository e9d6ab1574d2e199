# SPDX-License-Identifier: Apache-2.0
"""A Hub on 127.0.0.1 that does as a test tells it, and a registry of models small enough to be fetched from it."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import forkserver
from pathlib import Path

import pytest

from dreamlab.hub.registry import registry
from tests.conftest import Commands, Finished

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def safetensors(shapes: Mapping[str, tuple[str, tuple[int, ...]]], fill: int = 1) -> bytes:
    """The format as its specification writes it, without the library."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, (dtype, shape) in shapes.items():
        size = {"F32": 4, "F16": 2, "I64": 8}[dtype]
        for axis in shape:
            size *= axis
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes([fill]) * place


UNET = safetensors({"conv.weight": ("F32", (64, 48, 5)), "conv.bias": ("F32", (64,))})  # 15424 numbers
HALF = safetensors({"conv.weight": ("F16", (64, 48, 5)), "conv.bias": ("F16", (64,))})
TEXT = safetensors({"embedding": ("F32", (96, 8)), "position_ids": ("I64", (1, 77))})  # 768 numbers

MODELS = f"""
[families]
sd = {{ classes = ["StableDiffusionPipeline"] }}
sdxl = {{ classes = ["StableDiffusionXLPipeline"] }}
mvdream = {{ classes = ["MVDreamPipeline"] }}

[models.tiny]
family = "sd"
layout = "sd15"
repo = "owner/tiny"
mirrors = ["friend/tiny"]
licence = "OpenRAIL"
commercial = "yes"
small = ["model_index.json", "unet/config.json"]
maybe = ["extra/preprocessor_config.json"]
weights = [
  {{ path = "unet/model.safetensors", type = "fp32", params = 15424, bytes = {len(UNET)}, sha256 = "{sha(UNET)}" }},
  {{ path = "unet/model.fp16.safetensors", variant = "fp16", type = "fp16", params = 15424 }},
  {{ path = "text/model.safetensors", type = "fp32", params = 768 }},
]

[models.gate]
family = "sdxl"
layout = "sdxl"
repo = "owner/gate"
licence = "Community"
commercial = "limit"
gated = true
base = "tiny"
small = ["config.json"]
weights = [{{ path = "model.safetensors", params = 15424 }}]

[models.split]
family = "sd"
layout = "sd15"
repo = "owner/split"
licence = "MIT"
commercial = "yes"
small = ["config.json"]
weights = [{{ path = "model.safetensors", params = 30848, shards = "unknown" }}]

[models.old]
family = "mvdream"
layout = "mvdream-file"
repo = "owner/old"
licence = "OpenRAIL"
commercial = "yes"
weights = [{{ path = "old.pt" }}]

[models.huge]
family = "sd"
layout = "sd15"
repo = "owner/huge"
licence = "MIT"
commercial = "yes"
weights = [{{ path = "model.safetensors", type = "fp32", params = 900000000000000 }}]
"""


@dataclass
class Hub:
    """A server; `files` is what it has, the other fields are how it behaves."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # path of the address -> content
    codes: dict[str, list[int]] = field(default_factory=dict)  # of the next answers, beginning with this address
    cut: dict[str, list[int]] = field(default_factory=dict)  # bytes after which the next answers end
    lead: dict[str, str] = field(default_factory=dict)  # redirected to
    tags: dict[str, str] = field(default_factory=dict)  # X-Linked-Etag
    said: dict[str, str] = field(default_factory=dict)  # headers of the answers in `codes`
    ranges: bool = True
    silent: bool = False  # accepts and never answers
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def add(self, repo: str, path: str, data: bytes, revision: str = "main", tag: bool = False) -> str:
        address = f"/{repo}/resolve/{revision}/{path}"
        self.files[address] = data
        if tag:
            self.tags[address] = sha(data)
        return address

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    over = threading.Event()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        hub, path = self.hub, self.path
        hub.asked.append((path, {name.lower(): value for name, value in self.headers.items()}))
        if hub.silent:
            self.over.wait(5)
            return
        if hub.codes.get(path):
            self.answer(hub.codes[path].pop(0), b"", hub.said)
        elif path in hub.lead:
            self.answer(302, b"", {"Location": hub.lead[path]} | self.linked(path))
        elif path not in hub.files:
            self.answer(404, b"not found")
        else:
            self.send(hub.files[path], path)

    def linked(self, path: str) -> dict[str, str]:
        tag = {"X-Linked-Etag": f'"{self.hub.tags[path]}"'} if path in self.hub.tags else {}
        return tag | {"X-Repo-Commit": COMMIT}

    def send(self, data: bytes, path: str) -> None:
        begin, asked = 0, self.headers.get("Range")
        if asked and self.hub.ranges:
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
            if begin >= len(data):
                self.answer(416, b"")
                return
        place = {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if begin else {}
        self.send_response(206 if begin else 200)
        for name, value in (self.linked(path) | place | {"Content-Length": str(len(data) - begin)}).items():
            self.send_header(name, value)
        self.end_headers()
        body = data[begin:]
        if self.hub.cut.get(path):
            body = body[: self.hub.cut[path].pop(0)]
        self.wfile.write(body)

    def answer(self, code: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(code)
        for name, value in (dict(headers) | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def serve() -> Iterator[Hub]:
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub, "over": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield hub
    handler.over.set()  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    """With all files of `tiny` where they belong."""
    for each in serve():
        fill(each, "owner/tiny")
        yield each


@pytest.fixture
def other() -> Iterator[Hub]:
    """Another host."""
    yield from serve()


def fill(hub: Hub, repo: str, revision: str = "main") -> None:
    index = json.dumps({"_class_name": "StableDiffusionPipeline"}).encode()
    for path, data in {
        "model_index.json": index,
        "unet/config.json": b"{}",
        "unet/model.safetensors": UNET,
        "unet/model.fp16.safetensors": HALF,
        "text/model.safetensors": TEXT,
    }.items():
        hub.add(repo, path, data, revision, tag=path.endswith(".safetensors"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dreamlab: Commands) -> Iterator[Path]:
    """The folder of models of this test, with its registry."""
    forkserver.ensure_running()  # or it keeps this test's variables for the tests after it
    (tmp_path / "models.toml").write_text(MODELS)
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "DREAMLAB_OFFLINE", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    registry.cache_clear()
    yield tmp_path / "models"
    registry.cache_clear()


def environment(folder: Path) -> dict[str, str]:
    return {
        "DREAMLAB_REGISTRY": str(folder / "models.toml"),
        "DREAMLAB_MODELS": str(folder / "models"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
    }


Models = Callable[..., Finished]


@pytest.fixture
def models(place: Path, hub: Hub, dreamlab: Commands) -> Models:
    """`models("prefetch", "tiny")` runs the command in a process of its own against the Hub of this test."""

    def run(*arguments: str, **more: str) -> Finished:
        return dreamlab("models", *arguments, **environment(place.parent) | {"HF_ENDPOINT": hub.url} | more)

    return run


def one_line(ended: Finished, code: int = 4) -> str:
    """The error, which must be one line and no traceback."""
    assert ended.code == code, ended.err
    lines = [line for line in ended.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and ended.err.rstrip().endswith(lines[0]) and "Traceback" not in ended.err, ended.err
    return lines[0]
