# SPDX-License-Identifier: Apache-2.0
"""Where nothing can be compiled for a GPU, the torch twins of our ops run on it: a step of each kind of scene."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamlab import recipe
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from tests.device.pretend import the_device
from tests.device.runs import SCENES, steps
from tests.toybox.tiny_prior import tiny_prior

KINDS = ("adaptive", "field", "mesh", "dmtet")  # between them they use all ops of scenes; the prior uses `volume`


@pytest.mark.parametrize("kind", KINDS)
def test_twins_on_the_device(kind: str, tmp_path: Path, one_thread: None) -> None:
    prior = tiny_prior(tmp_path / "prior")
    scene = SCENES[kind].replace("count: 48", "count: 5").replace("step: 0.1", "step: 0.4")
    term = f"{{guidance: {{kind: toybox, weights: {prior}, dtype: float32}}, system: sds}}"
    stage = f"{{name: s, scene: {scene}, terms: [{term}], steps: 4, views: 1, size: 8}}"
    text = f"prompt: a red mushroom\nstages: [{stage}]"

    def figures(device: str) -> list[dict[str, float]]:
        assembler = Assembler(recipe.load(text, TABLES), device)
        return steps(assembler.stage(0, {}), [0], assembler.device)

    expected = figures("cpu")
    with the_device(kernels=False) as device:
        (found,) = figures(device)
    assert found["healthy"] == 1 and found["loss"] == pytest.approx(expected[0]["loss"], rel=1e-3)
