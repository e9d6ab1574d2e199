# SPDX-License-Identifier: Apache-2.0
"""Pretrained models of several and of other views on the second device: the same losses, nothing left on the host, and
no step waits for them once the picture has been looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreamlab import recipe
from dreamlab.recipe.tables import TABLES
from dreamlab.run import train
from dreamlab.run.assemble import Assembler
from dreamlab.run.telemetry import Ring
from tests.device.pretend import the_device
from tests.device.pretend import waits as waiting
from tests.device.runs import cheap
from tests.guidance.conftest import random_folder

__all__ = ["cheap", "random_folder"]

pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")
pytest.importorskip("transformers", reason="transformers is not installed (extra `models`)")


LENS = "distance: [3.7, 3.7], fovy_deg: [30, 30]}"
RING = "views: 4, cameras: {ring: 4}"
SIX = "views: 6, background: gray, cameras: {ring: 6, azimuth_deg: [30, 30], ring_elevations: [20, -10], " + LENS
ORBIT = "views: 3, background: white, cameras: {ring: 3, azimuth_deg: [120, 120], elevation_deg: [0, 30], " + LENS


@pytest.mark.parametrize(
    ("kind", "layout", "more", "stage"),
    [
        ("mvdream", "mvdream", "size: 64", RING),
        ("imagedream", "imagedream", "size: 64", RING),
        ("zero123", "zero123", "size: 64", RING),
        ("zero123plus", "zero123plus", "size: 32", SIX),
        ("sv3d", "sv3d-p", "size: 64, frames: 3", ORBIT),
    ],
    ids=lambda value: value if value.isalnum() else "",
)
def test_a_model_of_views_on_the_device(
    kind: str,
    layout: str,
    more: str,
    stage: str,
    random_folder: Callable[..., Path],
    tmp_path: Path,
    one_thread: None,
) -> None:
    shape = np.zeros((32, 32, 4), np.uint8)
    shape[8:24, 8:24] = (200, 30, 30, 255)
    Image.fromarray(shape).save(tmp_path / "p.png")
    guidance = f"{{kind: {kind}, model: {random_folder(layout)}, dtype: float32, {more}}}"
    text = (
        "prompt: a red mushroom\nstages:\n"
        f"  - {{name: s, scene: {{kind: gaussians, count: 24}}, terms: [{{guidance: {guidance}, system: sds}}],\n"
        f"     steps: 6, size: 16, {stage}}}\n"
    )
    picture = () if kind == "mvdream" else (f"image.file={tmp_path / 'p.png'}",)

    def figures(device: str) -> tuple[list[float], list[str]]:
        assembler = Assembler(recipe.load(text, TABLES, overrides=picture), device)
        made = assembler.stage(0, {})
        ring, waited = Ring(train.METRICS, 3, assembler.device), []
        for i in range(3):
            with waiting() as now:
                train.step(made, i, ring)
            waited = now
        return [float(row["loss"]) for row in ring.drain()], waited

    expected, _ = figures("cpu")
    with the_device() as device:
        losses, waited = figures(device)
    assert losses == pytest.approx(expected, rel=0.02)
    ours = Counter(line for line in waited if "guidance/" in line or "core/cameras" in line)
    assert not ours, ours
