# SPDX-License-Identifier: Apache-2.0
"""A run against Stable Diffusion 1.5 at its full size, random weights in the published layout: to the end, on the host,
in the memory that its parts add up to. A minute and a half of one quiet core."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dreamlab.core.files import write_json
from guidance.layouts.build import describe
from guidance.layouts.random import write_random
from tests.conftest import Commands

pytest.importorskip("diffusers")

RECIPE = {
    "prompt": "a red mushroom with a white stem",
    "stages": [
        {
            "name": "shape",
            "scene": {"kind": "gaussians", "count": 2000, "radius": 0.5},
            "terms": [{"guidance": {"kind": "sd", "dtype": "bfloat16"}, "system": {"kind": "sds", "cfg": 7.5}}],
            "steps": 2,
            "views": 1,
            "size": 64,
        }
    ],
    "export": {"resolution": 24, "texture": 0, "fit": False, "turntable": 3, "size": 32},
}
ENCODER = 2 * 1586 << 20  # what its encoder keeps for the way back at 512 pixels: 1586 MiB in bf16, here float32
REST = 1200 << 20  # Python, the libraries, and one call's activations


def peak(process_id: int) -> int:
    """Bytes that a process has held at most, 0 once it is gone."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)


@pytest.mark.release
@pytest.mark.timeout(1800)
def test_two_steps_at_full_size(dreamlab: Commands, tmp_path: Path) -> None:
    folder = write_random("sd15", "full", tmp_path / "sd15", without=("safety_checker",))
    recipe = tmp_path / "full.yaml"
    write_json(recipe, RECIPE)
    process, out, err = dreamlab.start(
        "dream", RECIPE["prompt"], "--recipe", str(recipe), f"model={folder}", HF_HUB_OFFLINE="1"
    )  # type: ignore[arg-type]
    most = 0
    while process.is_alive():
        assert process.pid is not None
        most = max(most, peak(process.pid))
        time.sleep(0.2)
    assert process.exitcode == 0, err.read_text()
    run = tmp_path / out.read_text().splitlines()[-1]
    assert (run / "export" / "model.glb").stat().st_size > 1000
    weights = 2 * describe("sd15", "unet").parameters + 4 * describe("sd15", "vae").parameters
    assert weights < most < weights + ENCODER + REST, f"{most >> 20} MiB"
