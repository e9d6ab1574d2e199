# SPDX-License-Identifier: Apache-2.0
"""Pictures for docs/export.md of an exported asset as Blender opens it, every format beside our own picture:

DREAMLAB_BLENDER=build/bpy/bin/python python -m benchmarks.opened runs/RUN/export/blender docs/images/export-blender.png
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from dreamlab.core.cameras import orbit
from dreamlab.core.safemath import linear_to_srgb, srgb_to_linear
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


class Lamp:
    """A surface's material by Monte Carlo under one environment, as the picture beside is lit."""

    def __init__(self, name: str, vertices: torch.Tensor, faces: torch.Tensor) -> None:
        self.light, self.boxes = Lighting.of([environment(name)]), Boxes.over(vertices, faces)

    def lit(self, view: View, made: Coat, normal: torch.Tensor) -> torch.Tensor:
        points = view.points
        which = torch.zeros(len(points), dtype=torch.int64)
        material = Material(srgb_to_linear(made.base), made.roughness, made.metallic)
        stream = torch.Generator().manual_seed(0)
        arguments = (self.light, material, points, normal, view.to_eye(points), which, self.boxes, stream)
        return linear_to_srgb(shade_montecarlo(*arguments, Draws(128, 96)).clamp(0, 1))


def ours(path: Path, light: str, azimuth: float) -> np.ndarray:
    mesh = read_back(path)
    lamp = Lamp(light, mesh.vertices, mesh.faces)
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


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("export", type=Path, help="a folder of exported files")
    words.add_argument("out", type=Path)
    words.add_argument("--light", default="studio")
    words.add_argument("--azimuth", type=float, default=30.0)
    asked = words.parse_args()
    export = asked.export
    shown = {"DreamLab": ours(export / "model.glb", asked.light, asked.azimuth)}
    for kind in FORMATS:
        if (export / f"model.{kind}").is_file():
            shown[f"Blender, {kind.upper()}"] = blender(export / f"model.{kind}", asked.light, asked.azimuth)
    sheet = Image.new("RGB", (SIZE * len(shown), SIZE + 22), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (name, picture) in enumerate(shown.items()):
        sheet.paste(Image.fromarray((picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)), (SIZE * i, 22))
        pen.text((SIZE * i + 6, 5), name, fill="black")
    sheet.save(asked.out)


if __name__ == "__main__":
    main()
