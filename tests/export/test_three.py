# SPDX-License-Identifier: Apache-2.0
"""three.js in a headless browser draws our files: a mesh, a skin and morph targets at a moment of their clips, and
Gaussians; each beside our picture of the same."""

from __future__ import annotations

import base64
import http.server
import io
import json
import math
import os
import queue
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dreamlab.core.cameras import Cameras, turntable
from dreamlab.core.types import Mesh, Skin, Track
from dreamlab.export.glb import gltf_of
from dreamlab.export.product import Product
from dreamlab.export.skinning import fit_skin, spread
from dreamlab.export.splats.khr import splat_glb_bytes
from renderers.surface.draw import Surface, look
from tests.export.test_glb import ball, textured
from tests.export.test_motion import wave
from tests.export.test_splats import picture, psnr, shown
from tests.export.viewer import Glb

HERE = Path(__file__).parent
SIZE, VIEW = 128, 1  # pixels, and which of three cameras
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
MOVED = 0.7  # seconds


def lopsided(mesh: Mesh) -> Mesh:
    """Three sides that differ."""
    return replace(mesh, vertices=mesh.vertices * torch.tensor([0.8, 1.2, 0.6]) + torch.tensor([0.1, 0.0, 0.1]))


def products() -> dict[str, tuple[bytes, float | None]]:
    """Files, and the moment at which they are drawn."""
    mesh = lopsided(ball(3))
    track = wave(mesh)
    skin = fit_skin(mesh.vertices, mesh.faces, track.times, track.points, spread(mesh.vertices, 12))
    moving: dict[str, Skin | Track] = {"skin": skin, "morph": track}
    files: dict[str, tuple[bytes, float | None]] = {
        "mesh": (gltf_of(Product("thing", mesh)).glb(), None),
        "textured": (gltf_of(Product("thing", lopsided(textured()))).glb(), None),
        "splats": (splat_glb_bytes(shown(), "thing", {}), None),
    }
    return files | {key: (gltf_of(Product("thing", mesh, motion)).glb(), MOVED) for key, motion in moving.items()}


class Answers(http.server.BaseHTTPRequestHandler):
    """Serves the page, its script and the jobs; keeps what the page says in the end."""

    pages: ClassVar[dict[str, tuple[str, bytes]]] = {}
    said: ClassVar[queue.Queue[Any]] = queue.Queue()

    def do_GET(self) -> None:
        kind, data = self.pages.get(self.path, ("text/plain", b""))
        self.send_response(200 if data else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        self.said.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def in_three(jobs: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What three.js makes of each job: its picture, its objects, its clips."""
    packages = Path(os.environ.get("DREAMLAB_THREE", ""))
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if shutil.which("node") is None or not (packages / "three").is_dir() or not (packages / "esbuild").is_dir():
        pytest.skip("needs Node.js and the npm packages three and esbuild (DREAMLAB_THREE names their node_modules)")
    if browser is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")
    bundle = [str(packages / ".bin" / "esbuild"), str(HERE / "three_look.mjs"), "--bundle", "--format=esm", "--minify"]
    environment = os.environ | {"NODE_PATH": str(packages)}
    subprocess.run([*bundle, f"--outfile={folder}/look.js", "--log-level=error"], check=True, env=environment)
    Answers.pages = {
        "/": ("text/html", b"<!doctype html><meta charset=utf-8><body><script type=module src=/look.js></script>"),
        "/look.js": ("text/javascript", (folder / "look.js").read_bytes()),
        "/jobs": ("application/json", json.dumps(jobs).encode()),
    }
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [browser, *FLAGS, f"--user-data-dir={folder}/profile", f"http://127.0.0.1:{server.server_port}/"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            told = Answers.said.get(timeout=120)
        finally:
            running.terminate()
            server.shutdown()
            server.server_close()
    assert "error" not in told, told["error"]
    found: list[dict[str, Any]] = told["found"]
    return found


def job(data: bytes, camera: Cameras, size: int, seconds: float | None) -> dict[str, Any]:
    return {
        "glb": base64.b64encode(data).decode(),
        "pose": camera.camera_to_world[0].T.reshape(-1).tolist(),
        "fovy": float(camera.fovy_deg[0]),
        "size": size,
        "seconds": seconds,
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    camera, files = turntable(3)[VIEW : VIEW + 1], products()
    jobs = [job(data, camera, SIZE, seconds) for data, seconds in files.values()]
    return dict(zip(files, in_three(jobs, tmp_path_factory.mktemp("three")), strict=True))


def seen(drawn: dict[str, dict[str, Any]], key: str) -> Tensor:
    png = base64.b64decode(drawn[key]["picture"].split(",")[1])
    return torch.from_numpy(np.array(Image.open(io.BytesIO(png)).convert("RGB"))).float() / 255


def ours(key: str) -> tuple[Tensor, Tensor]:
    """Our picture of what the file holds, unlit over white, and its alpha."""
    data, seconds = products()[key]
    glb = Glb(data)
    points, colours = torch.from_numpy(glb.points(seconds)).float(), torch.from_numpy(glb.colours()).float()
    camera = turntable(3)[VIEW : VIEW + 1]
    view = look(Surface.of(points, torch.from_numpy(glb.faces)), camera, SIZE)
    alpha = view.over(torch.ones(len(view.hit), 1), torch.zeros(1, 1))
    return view.over(view.read(colours), torch.ones(1, 3))[0], alpha[0, ..., 0]


@pytest.mark.node
@pytest.mark.parametrize("key", ["mesh", "textured", "skin", "morph"])
def test_three_draws_a_mesh_where_and_how_we_do(drawn: dict[str, dict[str, Any]], key: str) -> None:
    theirs, (mine, alpha) = seen(drawn, key), ours(key)
    body = (theirs - 1).abs().amax(-1) > 0.02
    both, either = (body & (alpha > 0.5)).sum(), (body | (alpha > 0.5)).sum()
    assert both / either > 0.97
    inside = (alpha > 0.99) & body
    assert psnr(theirs[inside], mine[inside]) > 26
    assert drawn[key]["clips"] == ([] if products()[key][1] is None else ["motion"])
    if drawn[key]["clips"]:
        resting, _ = ours("mesh")
        assert psnr(theirs, resting) < 20  # it has moved


@pytest.mark.node
def test_three_draws_gaussians_as_we_do(drawn: dict[str, dict[str, Any]]) -> None:
    """Inside; at the rim it cuts Gaussians off where they are still seen."""
    assert "GaussianSplat" in drawn["splats"]["kinds"]
    camera, theirs = turntable(3)[VIEW : VIEW + 1], seen(drawn, "splats")
    mine = picture(replace(shown(), compensated=False), camera, SIZE)[0]
    white = replace(shown(), harmonics=torch.full_like(shown().harmonics, 0.0))
    white.harmonics[:, 0] = -0.5 / 0.28209479177387814  # black: what is left of the white background is not the ball's
    alpha = 1 - picture(replace(white, compensated=False), camera, SIZE)[0, ..., 0]
    inside = alpha > 0.98
    assert inside.sum() > 1500
    assert psnr(theirs[inside], mine[inside]) > 34
    assert not math.isnan(psnr(theirs, mine)) and psnr(theirs, mine) > 24
