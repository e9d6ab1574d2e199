# SPDX-License-Identifier: Apache-2.0
"""A clip under two guidances: one sees every frame, the other a few of them, drawn anew in each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from dreamlab import recipe
from dreamlab.core.cameras import Cameras
from dreamlab.core.types import Condition, Frames, Prompt
from dreamlab.recipe.tables import TABLES
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from dreamlab.toybox.scoring.cells import CountingAssembler

RECIPE = """
prompt: a spinning windmill
stages:
  - name: motion
    scene: {kind: gaussians4d, count: 64}
    terms:
      - {guidance: truth, system: photometric}
      - {guidance: {kind: oracle, others: 1}, system: {kind: csd, t_max: 0.5}, sample: 3}
    steps: 6
    views: 8
    size: 12
    cameras: {clip: 8}
"""


def test_an_image_model_sees_some_frames_of_each_clip() -> None:
    assembler = CountingAssembler(recipe.load(RECIPE, TABLES), "cpu")
    stage = assembler.stage(0)
    truth, oracle = (term.guidance for term in stage.terms)
    seen: dict[int, list[Cameras]] = {id(truth): [], id(oracle): []}

    for guidance in (truth, oracle):

        def condition(
            prompt: Prompt,
            cameras: Cameras,
            frames: Frames,
            own: int = id(guidance),
            plain: Callable[[Prompt, Cameras, Frames], Mapping[str, Condition]] = guidance.condition,
        ) -> Mapping[str, Condition]:
            seen[own].append(cameras)
            return plain(prompt, cameras, frames)

        guidance.condition = condition  # type: ignore[method-assign]
    ring = Ring(METRICS, 6, "cpu")
    for i in range(6):
        step(stage, i, ring)
    assert all(row["healthy"] == 1 for row in ring.drain())
    drawn = set()
    for whole, some in zip(seen[id(truth)], seen[id(oracle)], strict=True):
        assert len(whole) == 8 and len(some) == 3 and whole.time is not None and some.time is not None
        where = [int((whole.time == time).nonzero()[0]) for time in some.time]
        assert where == sorted(set(where))
        torch.testing.assert_close(some.camera_to_world, whole.camera_to_world[where])
        drawn |= set(where)
    assert len(drawn) > 5
    assert [counted.rows for counted in assembler.counted.values()] == [0, 6 * 3 * 2]
