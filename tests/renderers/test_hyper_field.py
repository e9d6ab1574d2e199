# SPDX-License-Identifier: Apache-2.0
"""The generator of fields: its formula, what gradients reach, prompts that stay apart, and its state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import turntable
from dreamlab.core.schedules import Progress
from dreamlab.core.types import Frames, Maker, Scene, Training
from renderers.hyper_field import TURNS, HyperField, HyperFieldSettings
from renderers.surface.extraction import extract

SMALL = HyperFieldSettings(
    levels=3, log2_entries=8, base=4, finest=16, hidden=8, code=6, hyper=5, occupancy=12, step=0.1
)
CODES = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


def generator(codes: Tensor = CODES) -> HyperField:
    """One that has learnt something: a grid starts near zero, where all codes look alike."""
    made = HyperField(SMALL, torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.base.params["table"].normal_(generator=torch.Generator().manual_seed(2))
    made.tell(codes)
    return made


def picture(scene: Scene, training: Training | None = None) -> Frames:
    return scene.render(turntable(2), 12, torch.ones(2, 3), training)


def test_heads_are_the_base_and_what_the_code_adds() -> None:
    """weights = base + out silu(norm(first code + bias)), in float64 by hand."""
    made = generator()
    with torch.no_grad():
        made.hyper["bias"] += torch.linspace(-1, 1, 5)
    p = {name: value.detach().double().numpy() for name, value in made.hyper.items()}
    told = p["first"] @ CODES[1].double().numpy() + p["bias"]
    told = (told - told.mean()) / np.sqrt(told.var() + 1e-5)
    change, start = p["out"] @ (told / (1 + np.exp(-told))), 0
    for name, got in made.weights(CODES[1]).items():
        part = change[start : start + got.numel()].reshape(got.shape)
        expected = made.base.params[name].detach().double() + torch.from_numpy(part)
        torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=1e-5)
        start += got.numel()
    assert start == len(change)
    assert isinstance(made, Maker)


def test_two_prompts_look_different_and_equal_ones_the_same() -> None:
    made = generator(torch.stack([CODES[0], CODES[1], CODES[0]]))
    with torch.no_grad():
        first, other, again = (picture(one).rgb for one in made.each())
    assert (first - other).abs().max() > 0.05
    assert torch.equal(first, again)


def test_the_gradient_of_one_prompt_reaches_the_grid_the_heads_and_the_network() -> None:
    made = generator()
    stream = torch.Generator().manual_seed(3)
    picture(made.made(1), Training(Progress(0, 10), stream)).rgb.square().sum().backward()
    for name, group in made.groups().items():
        assert group.tensor.grad is not None and torch.isfinite(group.tensor.grad).all(), name
        assert group.tensor.grad.abs().max() > 0, name


def test_a_turn_refreshes_the_occupancy_of_its_prompt_alone() -> None:
    made = generator()
    before = made.occupancy.clone()
    # Step 13 of three prompts is turn 4 of prompt 1, and prompts refresh every 4th of their own turns.
    for step, refreshed in ((10, False), (13, True)):
        one = made.made(1)
        one.adapt(Progress(step, 100), picture(one), torch.tensor(True))
        changed = [not torch.equal(made.occupancy[i], before[i]) for i in range(3)]
        assert changed == [False, refreshed, False]


def test_between_two_prompts_lies_a_way_from_one_to_the_other() -> None:
    made = generator()
    for turn in range(1, TURNS):  # as the occupancy of a code in between is found
        for i in range(3):
            made.made(i).refresh(turn)
    with torch.no_grad():
        ends = [picture(made.made(i)).rgb for i in (0, 2)]
        way = [picture(made.between(0, 2, share)).rgb for share in (0.0, 0.5, 1.0)]
    assert torch.equal(way[0], ends[0]) and torch.equal(way[2], ends[1])
    assert min(float((way[1] - end).abs().mean()) for end in ends) > 1e-3


def test_the_state_brings_everything_back() -> None:
    made = generator()
    with torch.no_grad():
        for group in made.groups().values():
            group.tensor.add_(0.1 * torch.randn(group.tensor.shape, generator=torch.Generator().manual_seed(4)))
    for one in made.each():
        one.refresh(1)
    again = HyperField(SMALL, torch.Generator().manual_seed(9))
    again.tell(torch.zeros(3, 6))
    again.load_state_dict({name: value.clone() for name, value in made.state_dict().items()})
    torch.testing.assert_close(again.state_dict(), made.state_dict(), rtol=0, atol=0)
    with torch.no_grad():
        for one, other in zip(made.each(), again.each(), strict=True):
            assert torch.equal(picture(one).rgb, picture(other).rgb)
    mesh = extract(made.made(2), 16, by_pictures=False)
    assert len(mesh.faces) > 0


def test_a_state_of_another_shape_and_codes_of_another_width_are_refused() -> None:
    made = generator()
    with pytest.raises(ValueError, match=r"codes of 4 numbers, scene.code is 6"):
        made.tell(torch.zeros(2, 4))
    state = {**made.state_dict(), "hyper.first": torch.zeros(5, 7)}
    with pytest.raises(ValueError, match=r"first is \[5, 7\] in the state"):
        made.load_state_dict(state)
