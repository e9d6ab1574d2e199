# SPDX-License-Identifier: Apache-2.0
"""How crisp finished runs of the toybox are at 512 pixels: the scene, and the file that left it, against the world.

    python -m benchmarks.crisp --before FOLDER --after FOLDER [--json FILE]

Each folder holds runs, as `dreamlab dream PROMPT --out FOLDER` leaves them, of prompts that the scoreboard can measure:
the first `toybox-gaussians`, say, the second `toybox`. Prompts that both have are compared. One thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dreamlab.core.cameras import Cameras
from dreamlab.core.threads import one_thread
from dreamlab.core.types import Frames, Mesh
from dreamlab.export.drawing import Viewed
from dreamlab.export.readback import read_back
from dreamlab.metrics.asset import Asset, Made, instances, true_answer
from dreamlab.metrics.crispness import Crispness, crisp_cameras, crispness, nearest, pictured
from dreamlab.metrics.figures import Check, report
from dreamlab.metrics.geometry import RESOLUTION, Likeness, compare, shape_of_mesh, shape_of_program
from dreamlab.metrics.measure import TRUTHS, parse_plain
from dreamlab.pipeline import finished_scene
from dreamlab.run.folder import Run

SIDES = ("before", "after")
WORSE = ("stray", "specks", "chamfer")  # figures of which less is better
HELD = ("psnr", "iou", "volume_iou", "chamfer")  # in which the file after may be no worse than the one before


@dataclass(frozen=True)
class FileShown:
    """A file's surface as an asset."""

    surface: Mesh
    device: torch.device = torch.device("cpu")

    def render(self, cameras: Cameras, size: int, background: torch.Tensor) -> Frames:
        return Viewed(self.surface).render(cameras, size, background)

    def mesh(self, resolution: int) -> Mesh:
        del resolution  # it is what it is
        return self.surface


def figures(assets: Mapping[str, Asset], prompt: str) -> dict[str, tuple[Crispness, Likeness]]:
    """Of each asset of a prompt against the instance that it is nearest to; volumes against the nearest of all."""
    caption, cameras = parse_plain(prompt), crisp_cameras()
    truths = [true_answer(caption, seed) for seed in instances(caption.category, TRUTHS)]
    bodies = [shape_of_program(truth.program) for truth in truths]
    shown: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    found = {}
    for name, asset in assets.items():
        which = nearest(asset, truths, cameras)
        if which not in shown:
            shown[which] = pictured(truths[which], cameras)
        likeness = compare(shape_of_mesh(asset.mesh(RESOLUTION)), bodies)
        found[name] = crispness(pictured(asset, cameras), shown[which]), likeness
    return found


def runs_of(folder: Path) -> dict[str, Path]:
    """Prompt -> the newest finished run of it."""
    found = {}
    for place in sorted(folder.glob("*/export/model.glb")):
        found[finished_scene(Run.open(place.parents[1]))[0].prompt] = place.parents[1]
    return found


def measured(folders: Mapping[str, Path]) -> dict[str, list[dict[str, float]]]:
    """'before scene', ... -> a row of figures for each prompt that both folders have."""
    places = {side: runs_of(folder) for side, folder in folders.items()}
    common = sorted(set.intersection(*(set(each) for each in places.values())))
    rows: dict[str, list[dict[str, float]]] = {}
    for prompt in common:
        assets: dict[str, Asset] = {}
        for side, known in places.items():
            assets[f"{side} scene"] = Made(finished_scene(Run.open(known[prompt]))[1])
            assets[f"{side} file"] = FileShown(read_back(known[prompt] / "export" / "model.glb"))
        for name, (crisp, like) in figures(assets, prompt).items():
            rows.setdefault(name, []).append({**vars(crisp), "volume_iou": like.iou, "chamfer": like.chamfer})
            print(f"{prompt:<34} {name:<13}" + " ".join(f"{k} {v:.4g}" for k, v in rows[name][-1].items()), flush=True)
    return rows


def checks(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Check]:
    """Means over the prompts."""
    mean = {name: {key: sum(row[key] for row in some) / len(some) for key in some[0]} for name, some in rows.items()}
    before, found = mean["before file"], []
    for name, values in mean.items():
        for key, value in values.items():
            floor = round(before[key], 4) if name == "after file" and key in HELD else None
            unit, better = {"psnr": "dB", "chamfer": "m"}.get(key, ""), "lower" if key in WORSE else "higher"
            found.append(Check(f"{name} {key}", round(value, 4), unit, floor, better))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crisp", description=__doc__)
    for side in SIDES:
        parser.add_argument(f"--{side}", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with one_thread():
        report(checks(measured({side: getattr(given, side) for side in SIDES})), given.json)


if __name__ == "__main__":
    main()
