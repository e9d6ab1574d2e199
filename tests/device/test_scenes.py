# SPDX-License-Identifier: Apache-2.0
"""Every kind of scene on the second device: trained, grown, saved, taken back, stepped again and exported; it ends with
the files that a run on the CPU makes.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dreamlab.export import export_mesh
from dreamlab.run import train
from tests.device.pretend import left_behind, the_device
from tests.device.runs import MOVING, SCENES, begun, cheap, recipe_of, steps

__all__ = ["cheap"]
HOST = ("grid.corners",)  # a table of 24 numbers, sent along when it is used


def through(text: str, folder: Path, device: str, *overrides: str) -> dict[str, bytes]:
    """Train, go back to the last checkpoint as a roll-back does, take a step more, export."""
    run, wanted, assembler = begun(text, folder, device, *overrides)
    train.train(run, wanted, assembler)
    assembler.reset_streams()
    position, stage = train.restore(run, wanted, assembler)
    found = steps(stage, [position.step - 1], assembler.device)
    assert found[0]["healthy"] == 1
    if device != "cpu":
        here = [*left_behind(stage.scene, "scene"), *left_behind(stage.optimiser, "optimiser")]
        assert not [name for name in here if not any(known in name for known in HOST)]
    return {path.name: path.read_bytes() for path in export_mesh(run, wanted, stage.scene, position.step)}


def numbers(obj: bytes) -> np.ndarray:
    """All of an OBJ's."""
    return np.array(re.findall(rb"-?\d+\.?\d*(?:e-?\d+)?", obj), np.float64)


@pytest.mark.parametrize("kind", SCENES)
def test_a_run_on_the_device_makes_what_the_cpu_makes(kind: str, tmp_path: Path, cheap: None, one_thread: None) -> None:
    text = recipe_of(SCENES[kind], kind in MOVING)
    expected = through(text, tmp_path / "cpu", "cpu")
    with the_device() as device:
        found = through(text, tmp_path / "device", device)
    assert found.keys() == expected.keys() and "model.glb" in found
    ours, theirs = numbers(found["model.obj"]), numbers(expected["model.obj"])
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-3)


def test_particles_too(tmp_path: Path, cheap: None, one_thread: None) -> None:
    text = recipe_of(SCENES["mcmc"])
    expected = through(text, tmp_path / "cpu", "cpu", "stages.0.particles=2")
    with the_device() as device:
        assert through(text, tmp_path / "device", device, "stages.0.particles=2") == expected
