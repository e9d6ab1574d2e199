# SPDX-License-Identifier: Apache-2.0
"""What else the oracle can be asked: grids, the instance itself beside its category, a style beside its content."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dreamlab.core import pixels
from dreamlab.core.cameras import turntable
from dreamlab.core.errors import InputError
from dreamlab.core.types import Condition, Frames, Prompt
from dreamlab.run.worlds import oracle_world, styled, true_pictures
from dreamlab.toybox.caption import parse, programs_for
from dreamlab.toybox.draw import draw
from guidance.oracle import Oracle

PROMPT = Prompt("a red mushroom with a white stem")


def oracle(settings: Oracle.Settings) -> Oracle:
    return Oracle(settings, lambda prompt: oracle_world(prompt, settings, 0))


def blank(views: int, size: int = 16) -> Frames:
    rgb = torch.zeros(views, size, size, 3)
    return Frames(rgb, rgb[..., :1], rgb[..., :1], torch.rand(views, 3, generator=torch.Generator().manual_seed(0)))


def clean(guidance: Oracle, condition: Condition, shape: torch.Size) -> torch.Tensor:
    """x0 at the table's very end, where nothing but the prior speaks: the mean of what the condition allows."""
    t = torch.full((shape[0],), len(guidance.table) - 1)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return guidance.table.x0(z, guidance.predict(z, t, condition), t)


def test_a_grid_is_the_four_views_halved_and_tiled() -> None:
    settings = Oracle.Settings(others=0, grids=True, spread=0.01)
    guidance, frames, cameras = oracle(settings), blank(8), turntable(8)
    made = guidance.condition(PROMPT, cameras, frames)
    assert {"grid", "grid_null"} <= Oracle.card(settings).conditions
    views = oracle_world(PROMPT, settings, 0).look(cameras, 16)
    over = views.rgb[0] + (1 - views.alpha[0]) * frames.background[:, None, None]
    halved = pixels.encode(over).reshape(8, 3, 8, 2, 8, 2).mean((3, 5))
    expected = torch.stack([
        torch.cat([torch.cat([h[0], h[1]], 2), torch.cat([h[2], h[3]], 2)], 1) for h in halved.split(4)
    ])  # fmt: skip
    t = torch.tensor([300, 300])
    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    z = guidance.table.add_noise(expected, noise, t)
    found = guidance.table.x0(z, guidance.predict(z, t, made["grid"].take([0, 4])), t)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
    assert "grid" not in guidance.condition(PROMPT, turntable(6), blank(6))


def test_control_knows_the_instance_and_category_does_not() -> None:
    settings = Oracle.Settings(others=2, instances=3)
    guidance, frames, cameras = oracle(settings), blank(2), turntable(2)
    made = guidance.condition(PROMPT, cameras, frames)
    views = oracle_world(PROMPT, settings, 0).look(cameras, 16)
    over = pixels.encode((views.rgb + (1 - views.alpha) * frames.background[None, :, None, None]).flatten(0, 1))
    pictures = over.unflatten(0, (5, 2))
    shape = pictures[0].shape
    torch.testing.assert_close(clean(guidance, made["control"], shape), pictures[0], rtol=0, atol=0.05)
    torch.testing.assert_close(clean(guidance, made["category"], shape), pictures[:3].mean(0), rtol=0, atol=0.1)
    assert not {"control", "category"} & Oracle.card(Oracle.Settings()).conditions


def test_a_style_is_the_prompts_object_in_the_pictures_colours() -> None:
    caption, style = parse(PROMPT.text), parse("a blue mug with a yellow handle")
    content, dyed = styled(caption, style, 5)
    shown, wanted = (draw(program, turntable(3), 24) for program in (dyed, programs_for(caption, 5)))
    assert torch.equal(shown.alpha, wanted.alpha)  # the shape is the prompt's
    colour = (shown.rgb[0] * (shown.alpha[0] > 0.99)).sum((0, 1, 2))
    assert colour[2] > colour[0] or colour[1] > 0.5 * colour[0]  # blue or yellow, no longer red
    torch.testing.assert_close(draw(content, turntable(1), 8).rgb, draw(programs_for(style, 5), turntable(1), 8).rgb)
    settings = Oracle.Settings(others=1, style="a blue mug with a yellow handle")
    made = oracle(settings).condition(PROMPT, turntable(1), blank(1))
    assert {"content", "style"} <= Oracle.card(settings).conditions and {"content", "style"} <= made.keys()
    allowed = {name: torch.isfinite(made[name].rows["log_prior"][0]).tolist() for name in ("text", "content", "style")}
    assert allowed == {
        "text": [True, False, False, False], "content": [False, False, True, False], "style": [False] * 3 + [True],
    }  # fmt: skip


def test_frames_of_a_clip_are_one_object_at_their_times() -> None:
    """The posterior over objects is one for the clip: the product of what its frames say."""
    prompt, cameras = Prompt("a spinning windmill"), replace(turntable(4), time=torch.tensor([0.0, 0.2, 0.5, 0.7]))
    settings = Oracle.Settings(others=2, clip=2, spread=0.3)
    guidance, frames = oracle(settings), blank(4, 12)
    made = guidance.condition(prompt, cameras, frames)["null"]
    truth = true_pictures(prompt, 0)(cameras, 12)
    over = pixels.encode(truth.rgb[0] + (1 - truth.alpha[0]) * frames.background[:, None, None])
    means = made.shared["centre"][:, None] + made.shared["offset"]  # [B, K, D]
    torch.testing.assert_close(means[:, 0], over.flatten(1), rtol=0, atol=1e-5)  # each frame at its own time
    t = torch.tensor([880, 880, 600, 600])
    z = guidance.table.add_noise(over, torch.randn(over.shape, generator=torch.Generator().manual_seed(3)), t)
    a, s = (value[:, :, 0, 0].double() for value in guidance.table.signal_noise(t, z))
    variance = a.square() * 0.09 + s.square()
    square = (z.flatten(1)[:, None].double() - a[:, :, None] * means.double()).square().sum(-1)
    each = -square / (2 * variance)
    posterior = each.reshape(2, 2, 3).sum(1).repeat_interleave(2, 0).softmax(-1)  # even priors of three objects
    mean = (posterior[:, :, None] * means.double()).sum(1)
    x0 = mean + a * 0.09 / variance * (z.flatten(1).double() - a * mean)
    found = guidance.table.x0(z, guidance.predict(z, t, made), t).flatten(1).double()
    torch.testing.assert_close(found, x0, rtol=0, atol=5e-3)
    assert (each.softmax(-1) - posterior).abs().max() > 1e-3  # alone, the frames would not agree
    assert Oracle.card(settings).clip and not Oracle.card(Oracle.Settings()).clip
    with pytest.raises(InputError, match="not clips of 2"):
        guidance.condition(prompt, cameras[:3], blank(3, 12))
