# SPDX-License-Identifier: Apache-2.0
"""Pictures for docs/export.md, made by opening exported files: in Blender every format beside our own picture, in
Godot the GLB of its preset.

    DREAMLAB_BLENDER=build/bpy/bin/python python -m benchmarks.opened runs/RUN docs/images

It takes what `dreamlab export RUN --preset blender` (with all formats) and `--preset godot` have left, and for Godot
Debian's godot3, godot3-server and xvfb.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from dreamlab.core.cameras import orbit
from dreamlab.core.safemath import linear_to_srgb, srgb_to_linear
from dreamlab.core.types import Mesh
from dreamlab.export.drawing import Viewed
from dreamlab.export.readback import read_back
from renderers.light.environment import environment
from renderers.light.montecarlo import Draws, shade_montecarlo
from renderers.light.pbr import Material
from renderers.light.rays import Boxes
from renderers.light.split_sum import Lighting
from renderers.surface.draw import View
from renderers.surface.material import Coat

SCRIPT = Path(__file__).parents[1] / "tests" / "export" / "blender_render.py"
FORMATS = ("glb", "usdz", "fbx", "obj", "ply", "blend")
SIZE, FOVY, DISTANCE = 240, 40.0, 3.2
BACKGROUND = 0.92
PROJECT = f"""config_version=4
[application]
config/name="opened"
run/main_scene="res://opened.tscn"
[display]
window/size/width={2 * SIZE}
window/size/height={2 * SIZE}
"""
STAGE = """[gd_scene load_steps=2 format=2]
[ext_resource path="res://opened.gd" type="Script" id=1]
[node name="root" type="Spatial"]
script = ExtResource( 1 )
"""


class Lamp:
    """A surface's material by Monte Carlo under one environment, as the picture beside is lit."""

    def __init__(self, name: str, mesh: Mesh, draws: Draws) -> None:
        self.light, self.boxes = Lighting.of([environment(name)]), Boxes.over(mesh.vertices, mesh.faces)
        self.draws = draws

    def lit(self, view: View, made: Coat, normal: torch.Tensor) -> torch.Tensor:
        points = view.points
        which = torch.zeros(len(points), dtype=torch.int64)
        material = Material(srgb_to_linear(made.base), made.roughness, made.metallic)
        stream = torch.Generator().manual_seed(0)
        arguments = (self.light, material, points, normal, view.to_eye(points), which, self.boxes, stream, self.draws)
        return linear_to_srgb(shade_montecarlo(*arguments).clamp(0, 1))


def ours(path: Path, light: str, azimuth: float) -> np.ndarray:
    mesh = read_back(path)
    lamp = Lamp(light, mesh, Draws(128, 96))
    camera = orbit([azimuth], 20.0, DISTANCE, FOVY)
    frames = Viewed(mesh, lamp).render(camera, SIZE, torch.full((1, 3), BACKGROUND))
    picture: np.ndarray = frames.rgb[0].numpy()
    return picture


def blender(path: Path, light: str, azimuth: float) -> np.ndarray:
    eye = orbit([azimuth], 20.0, DISTANCE, FOVY).camera_to_world[0, :3, 3].tolist()
    wanted = {"eye": eye, "fov_deg": FOVY, "size": SIZE, "samples": 128}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as folder:
        lamps, out = Path(folder, "light.npy"), Path(folder, "shot.png")
        np.save(lamps, environment(light).numpy())
        words = [os.environ["DREAMLAB_BLENDER"], "-I", str(SCRIPT), str(path), str(lamps), str(out), json.dumps(wanted)]
        subprocess.run(words, env=inherited, check=True, capture_output=True)
        shot = np.asarray(Image.open(out)) / 255
    picture: np.ndarray = shot[..., :3] * shot[..., 3:] + BACKGROUND * (1 - shot[..., 3:])
    return picture


def godot_imports(project: Path, count: int) -> None:
    """So many files of a project. Version 3.2 imports without a screen, and then never ends: what it leaves beside each
    file when that is done is waited for."""
    command, nowhere = ["godot3-server", "--path", str(project), "--editor", "--quit"], subprocess.DEVNULL
    with subprocess.Popen(command, stdout=nowhere, stderr=nowhere) as running:
        try:
            until = time.monotonic() + 120
            while len(list(project.glob(".import/*.md5"))) < count:
                if time.monotonic() > until or running.poll() is not None:
                    raise RuntimeError(f"Godot imports nothing of {project}")
                time.sleep(0.1)
        finally:
            running.kill()


def godot(path: Path, azimuth: float) -> np.ndarray:
    """On a screen that nobody sees."""
    script = Path(__file__).with_name("opened.gd").read_text().replace("AZIMUTH", str(azimuth))
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        shutil.copy(path, project / "model.glb")
        (project / "opened.gd").write_text(script)
        (project / "opened.tscn").write_text(STAGE)
        (project / "project.godot").write_text(PROJECT)
        godot_imports(project, 1)
        screen = ["xvfb-run", "-a", "-s", f"-screen 0 {2 * SIZE}x{2 * SIZE}x24"]
        words = [*screen, "godot3", "--path", folder, "--video-driver", "GLES2"]
        subprocess.run(words, check=True, capture_output=True, timeout=120)
        shot = Image.open(project / "shot.png").convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        return np.asarray(shot) / 255


def sheet(shown: dict[str, np.ndarray], out: Path) -> None:
    made = Image.new("RGB", (SIZE * len(shown), SIZE + 22), "white")
    pen = ImageDraw.Draw(made)
    for i, (name, picture) in enumerate(shown.items()):
        made.paste(Image.fromarray((picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)), (SIZE * i, 22))
        pen.text((SIZE * i + 6, 5), name, fill="black")
    made.save(out)
    print(out)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("run", type=Path)
    words.add_argument("out", type=Path, help="a folder")
    words.add_argument("--light", default="studio")
    words.add_argument("--azimuth", type=float, default=30.0)
    asked = words.parse_args()
    export = asked.run / "export"
    mine = ours(export / "model.glb", asked.light, asked.azimuth)
    if "DREAMLAB_BLENDER" in os.environ:
        files = {kind.upper(): export / "blender" / f"model.{kind}" for kind in FORMATS}
        looks = (asked.light, asked.azimuth)
        shown = {f"Blender, {kind}": blender(path, *looks) for kind, path in files.items() if path.is_file()}
        sheet({"DreamLab": mine, **shown}, asked.out / "export-blender.png")
    if all(shutil.which(program) for program in ("godot3", "godot3-server", "xvfb-run")):
        sheet({"Godot": godot(export / "godot" / "model.glb", asked.azimuth)}, asked.out / "export-godot.png")


if __name__ == "__main__":
    main()
