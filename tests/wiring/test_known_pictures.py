# SPDX-License-Identifier: Apache-2.0
"""Models that know their pictures: of each view over its own background, of each moment, and the asking that skips."""

from __future__ import annotations

from dataclasses import replace

import torch

from dreamlab.core.cameras import turntable
from dreamlab.core.prompting import Skips
from dreamlab.core.streams import derive
from dreamlab.core.types import Frames, Prompt
from dreamlab.run.worlds import oracle_world, true_pictures
from dreamlab.toybox.caption import parse, programs_for
from dreamlab.toybox.draw import draw
from guidance.oracle import Oracle
from guidance.truth import Truth

SEED, SIZE = 3, 24
GROUNDS = torch.tensor([[0.9, 0.1, 0.2], [0.0, 0.8, 0.3], [0.4, 0.4, 1.0]])


def frames() -> Frames:
    zeros = torch.zeros(3, SIZE, SIZE, 1)
    return Frames(zeros.expand(-1, -1, -1, 3), zeros, zeros, GROUNDS)


def test_the_truth_and_the_oracle_stand_each_view_before_its_own_colour() -> None:
    cameras, prompt = turntable(3), Prompt("a red mug")
    program = programs_for(parse(prompt.text), derive(SEED, "instance") % 10_000)
    shown = draw(program, cameras, SIZE)
    expected = shown.rgb[0] + (1 - shown.alpha[0]) * GROUNDS[:, None, None]
    truth = Truth(Truth.Settings(), lambda prompt: true_pictures(prompt, SEED))
    torch.testing.assert_close(truth.condition(prompt, cameras, frames())["truth"].rows["rgb"], expected)
    settings = Oracle.Settings(others=0)
    oracle = Oracle(settings, lambda prompt: oracle_world(prompt, settings, SEED))
    shared = oracle.condition(prompt, cameras, frames())["text"].shared
    pictures = (shared["centre"][:, None] + shared["offset"])[:, 0].reshape(3, 3, SIZE, SIZE)  # [B, C, H, W]
    torch.testing.assert_close((pictures.permute(0, 2, 3, 1) + 1) / 2, expected, atol=1e-5, rtol=0)


def test_a_moving_truth_is_drawn_at_the_cameras_times() -> None:
    """The windmill's own programs at three moments, one camera each."""
    times = torch.tensor([0.05, 0.3, 0.8])
    cameras, prompt = replace(turntable(3), time=times), Prompt("a spinning windmill")
    shown = true_pictures(prompt, SEED)(cameras, SIZE)
    pictures = []
    for i, time in enumerate(times.tolist()):
        program = programs_for(parse(prompt.text), derive(SEED, "instance") % 10_000, [time])
        pictures.append(draw(program, cameras[i : i + 1], SIZE).rgb[0, 0])
        torch.testing.assert_close(shown.rgb[0, i], pictures[i])
    still = programs_for(parse(prompt.text), derive(SEED, "instance") % 10_000, [0.0])
    assert (draw(still, cameras[1:2], SIZE).rgb[0, 0] - pictures[1]).abs().max() > 0.1


def test_what_may_be_skipped_is_measured_again_at_every_eighth_visit() -> None:
    """Bins of a twentieth: row 0 agrees and is asked at its visits 8 and 16; row 1 differs and is asked always."""
    skips = Skips(0.1)
    skips.saw(0.42, torch.ones(4), torch.ones(4) * 1.01)
    skips.saw(0.77, torch.ones(4), torch.zeros(4))
    asked = [skips.rows_to_ask([0.42, 0.77]) for _ in range(16)]
    assert [0 in rows for rows in asked] == [i % 8 == 7 for i in range(16)] and all(1 in rows for rows in asked)
    assert (skips.asked, skips.skipped) == (18, 14)
    assert skips.rows_to_ask([0.1]) == [0], "a bin that nobody has measured is asked"
