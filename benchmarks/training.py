# SPDX-License-Identifier: Apache-2.0
"""A recipe's stages one after another as a run does them, without a run folder."""

from __future__ import annotations

import time

from dreamlab.core.types import Scene
from dreamlab.run.assemble import Assembler
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step


def every_stage(assembler: Assembler) -> tuple[dict[str, Scene], float]:
    """The scene that each stage ends with, by name, and the CPU seconds of all."""
    ring = Ring(METRICS, 10_000, assembler.device)
    done: dict[str, Scene] = {}
    began = time.process_time()
    for index, spec in enumerate(assembler.recipe.stages):
        stage = assembler.stage(index, done)
        for i in range(spec.steps):
            step(stage, i, ring)
        done[spec.name] = stage.scene
    return done, time.process_time() - began
