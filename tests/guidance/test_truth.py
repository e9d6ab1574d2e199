# SPDX-License-Identifier: Apache-2.0
"""The truth shows what the world draws, at the right time, and answers in eps exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dreamlab.core.cameras import OrbitSettings, fixed_orbit, turntable
from dreamlab.core.errors import InputError
from dreamlab.core.types import Frames, Prompt
from dreamlab.run.worlds import true_pictures
from dreamlab.toybox.caption import parse, programs_for
from dreamlab.toybox.draw import draw
from guidance.truth import Truth


def truth() -> Truth:
    return Truth(Truth.Settings(), lambda prompt: true_pictures(prompt, seed=3))


def blank(views: int, size: int) -> Frames:
    rgb = torch.zeros(views, size, size, 3)
    return Frames(rgb, rgb[..., :1], rgb[..., :1], torch.rand(views, 3, generator=torch.Generator().manual_seed(0)))


def test_every_view_shows_its_own_moment() -> None:
    cameras = replace(turntable(3), time=torch.tensor([0.1, 0.4, 0.85]))
    prompt = Prompt("a spinning windmill")
    rows = truth().condition(prompt, cameras, blank(3, 32))["truth"].rows
    sight = true_pictures(prompt, seed=3)
    for i in range(3):
        alone = sight(cameras[i : i + 1], 32)
        expected = alone.over(blank(3, 32).background[i])[0]
        torch.testing.assert_close(rows["rgb"][i : i + 1], expected)
        torch.testing.assert_close(rows["alpha"][i : i + 1], alone.alpha[0])
    still = truth().condition(Prompt("a windmill"), cameras, blank(3, 32))["truth"].rows
    assert (still["rgb"] - rows["rgb"]).abs().max() > 0.1


def test_a_still_object_is_the_worlds_own_picture() -> None:
    from dreamlab.core.streams import derive

    caption = parse("a red mushroom with a white stem")
    program = programs_for(caption, derive(3, "instance") % 10_000)
    shown = draw(program, turntable(2), 24)
    rows = truth().condition(Prompt("a red mushroom with a white stem"), turntable(2), blank(2, 24))["truth"].rows
    assert torch.equal(rows["normal"], shown.normal[0]) and torch.equal(rows["depth"], shown.depth[0])


def test_its_score_points_at_the_picture() -> None:
    model, cameras = truth(), turntable(2)
    condition = model.condition(Prompt("a mushroom"), cameras, blank(2, 16))["truth"]
    noise, t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([200, 700])
    z_t = model.table.add_noise(model.encode(condition.rows["rgb"]), noise, t)
    torch.testing.assert_close(model.predict(z_t, t, condition), noise, atol=2e-5, rtol=1e-4)


def test_unknown_words_are_named() -> None:
    with pytest.raises(InputError, match="muzhrom"):
        true_pictures(Prompt("a red muzhrom"), seed=0)


def test_held_out_cameras_lie_between_the_fixed_ones() -> None:
    settings = OrbitSettings()
    shown, held = fixed_orbit(settings, 40), fixed_orbit(settings, 20, offset=0.5)
    ahead = [torch.nn.functional.normalize(c.camera_to_world[:, :3, 3], dim=-1) for c in (shown, held)]
    nearest_deg = torch.rad2deg(torch.acos((ahead[1] @ ahead[0].T).clamp(-1, 1))).amin(1)
    assert nearest_deg.min() > 1 and nearest_deg.max() < 30
