# SPDX-License-Identifier: Apache-2.0
"""What is empty inside: exact hulls of held-out instances emptied by the shipped weights, and what runs come to.

python -m benchmarks.hollow                                       # volume IoU of hulls with their own solids
python -m benchmarks.hollow --sheet sheet.png --runs RUN RUN ...   # finished runs, whole and cut open, two a row
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.cameras import orbit
from dreamlab.metrics.asset import instances
from dreamlab.pipeline import finished_scene
from dreamlab.run.folder import Run
from dreamlab.toybox.shapes import program
from dreamlab.toybox.training.hollow import CELL, LOW, corners, hull
from guidance.toybox import hollow
from guidance.toybox.prior import HOLLOW, SHIPPED
from renderers.mesh import TexturedMesh

COUNT = 3  # instances of a kind
TILE = 150
BELOW, ABOVE = -35.0, 45.0  # elevations that look into a thing
FROM_BELOW = ("bell", "umbrella", "lamp")


def row(kind: str, net: hollow.Hollow) -> str:
    before, after, seconds = [], [], []
    for seed in instances(kind, COUNT):
        solid = program(kind, {}, seed)
        field = hull(solid, torch.Generator().manual_seed(0)) - 0.5
        true = solid.sdf(corners()[None])[0].reshape(field.shape) < 0
        began = time.process_time()
        away = hollow.opened(net, kind, field, LOW, CELL)
        seconds.append(time.process_time() - began)
        left = field > 0 if away is None else (field > 0) & ~(away > 0)
        before.append(iou(field > 0, true))
        after.append(iou(left, true))
    shown = (f"{sum(values) / len(values):.3f}" for values in (before, after, seconds))
    return f"{kind:10} " + "  ".join(shown)


def iou(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())


@torch.no_grad()
def pictures(folder: Path) -> Tensor:
    """[TILE, 3 TILE, 3] of a finished mesh: into it, from its side, and without its front."""
    run = Run.open(folder)
    scene = finished_scene(run)[1]
    assert isinstance(scene, TexturedMesh)
    low = any(kind in run.spec()["prompt"] for kind in FROM_BELOW)
    white = torch.ones(1, 3)
    cameras = orbit([30.0, 20.0], [BELOW if low else ABOVE, 15.0], 2.7, 42.0)
    shown = list(scene.render(cameras, TILE, white.expand(2, 3)).rgb)
    state, (vertices, faces) = scene.state_dict(), (scene.surface.vertices, scene.surface.faces)
    behind = vertices[faces].mean(1)[:, 2] < 0
    cut = {"shape.vertices": vertices, "shift": torch.zeros_like(vertices)}
    cut |= {name: state[name][behind] for name in ("shape.faces", "shape.uv_faces")}
    scene.load_state_dict({name: value for name, value in state.items() if name != "shape.led"} | cut)
    shown += list(scene.render(orbit([8.0], [12.0], 2.7, 42.0), TILE, white).rgb)
    return torch.cat(shown, 1).clamp(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path, help="a PNG of --runs")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="finished run folders that end in a mesh")
    given = parser.parse_args()
    if given.sheet is not None:
        from PIL import Image

        tiles = [pictures(folder) for folder in given.runs]
        rows = [torch.cat(tiles[i : i + 2], 1) for i in range(0, len(tiles), 2)]
        Image.fromarray((torch.cat(rows) * 255).round().byte().numpy()).save(given.sheet, optimize=True)
        return
    net = hollow.load(SHIPPED / HOLLOW / hollow.FILE)
    print(f"{'kind':10} hull   emptied  CPU s")
    for kind in net.kinds:
        print(row(kind, net))


if __name__ == "__main__":
    main()
