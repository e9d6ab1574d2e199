# SPDX-License-Identifier: Apache-2.0
"""A step that does not fit is done again after a guidance gave something up; the scene ends where it would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dreamlab import recipe
from dreamlab.core.errors import RecipeError
from dreamlab.run import train as loop
from dreamlab.run.assemble import Assembler, BuiltStage
from dreamlab.run.folder import Run
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import train
from systems.video import amplified
from tests.wiring.toy import SAYS, Tile, Toy, flat, gradient, stepped, term
from tests.wiring.toy import toys as toys

pytestmark = pytest.mark.usefixtures("toys")


def trained(toy: Toy, out: Path) -> tuple[Run, Tile, Assembler]:
    wanted = toy.recipe()
    run = Run.create(out, recipe.dump(wanted), wanted.prompt, ["dreamlab"], {})
    assembler = Assembler(wanted, "cpu", run.path)
    scene = train(run, wanted, assembler)
    assert isinstance(scene, Tile)
    return run, scene, assembler


def test_a_step_out_of_memory_is_done_again_with_the_same_draws(tmp_path: Path) -> None:
    """The colour's gradient does not depend on the cameras, but the diary has them: the same ones, step by step."""
    _, easy, _ = trained(Toy(steps=3), tmp_path)
    run, hard, _ = trained(Toy(steps=3, terms=term(flat="bytes: 2")), tmp_path)
    torch.testing.assert_close(hard.colour, easy.colour, rtol=0, atol=0)
    torch.testing.assert_close(hard.rows, easy.rows, rtol=0, atol=0)
    seen, expected = ([cameras.camera_to_world for cameras, _, _, now in each.diary if now] for each in (hard, easy))
    assert len(seen) == 5 and len(expected) == 3  # the first step was begun three times
    for i, mine in enumerate(seen):
        torch.testing.assert_close(mine, expected[max(i - 2, 0)], rtol=0, atol=0)
    given_up = [event["given_up"] for event in run.events() if event["kind"] == "memory"]
    assert given_up == ["a thing, 1 left", "a thing, 0 left"]


def test_when_nothing_is_left_to_give_up_the_error_goes_on(tmp_path: Path) -> None:
    toy = Toy(steps=1, terms=term(flat="bytes: 1000000"))
    wanted = toy.recipe()
    run = Run.create(tmp_path, recipe.dump(wanted), wanted.prompt, ["dreamlab"], {})
    assembler = Assembler(wanted, "cpu", run.path)
    stubborn = assembler.guidance(wanted.stages[0].terms[0].guidance)
    stubborn.relieve = lambda: ""  # type: ignore[attr-defined]
    with pytest.raises(torch.OutOfMemoryError, match="does not fit"):
        train(run, wanted, assembler)


def test_a_step_that_fails_on_its_way_back_leaves_no_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scene of several tensors has some of their gradients when memory runs out, which the step done again must not
    add to: it would move the scene twice as far."""
    toy = Toy(steps=1, terms=term(flat="bytes: 2"))
    begun: list[list[bool]] = []

    def failing(stage: BuiltStage, *rest: Any) -> None:
        leaves = [group.tensor for group in stage.scene.groups().values()]
        begun.append([leaf.grad is None for leaf in leaves])
        if len(begun) < 3:
            for leaf in leaves:
                leaf.grad = torch.ones_like(leaf)
            raise torch.OutOfMemoryError("the backward pass does not fit")

    stage, run = toy.built(), Run.create(tmp_path, recipe.dump(toy.recipe()), toy.recipe().prompt, ["dreamlab"], {})
    monkeypatch.setattr(loop, "step", failing)
    loop.roomy_step(run, stage, 0, Ring(loop.METRICS, 1, "cpu"), 1.0)
    assert len(begun) == 3 and all(all(clean) for clean in begun)


def test_a_guidance_hears_all_prompts_once_before_the_first_step() -> None:
    stage = Toy().built()
    assert [[prompt.text for prompt in prompts] for prompts in flat(stage).heard] == [["a red ball"]]


def test_a_clip_that_is_one_row_of_latents_has_one_camera_and_one_time() -> None:
    """Two clips of four frames: two rows of 3 x 4 channels; the gradient is what four rows each would have given."""
    clip = "cameras: {clip: 4}"
    terms = term(flat="folds: 4, together: 4, clip: true")
    stage = Toy(terms=terms, views=8, stage=clip).built()
    stepped(stage)
    assert flat(stage).calls == [4]  # two rows, text and null
    (states, times) = flat(stage).states[0]
    assert states.shape == (4, 12, 8, 8) and times.shape == (4,)
    g = SAYS["text"][0] - SAYS["null"][0]
    # Summed over eight frames of 64 pixels, divided by the two rows instead of the eight.
    torch.testing.assert_close(gradient(stage), torch.full((3,), 2 * g * 64 * 4))


def test_a_rule_that_holds_frames_against_latents_is_refused_where_there_are_fewer_latents() -> None:
    hifa = "{guidance: {kind: flat, folds: 4, together: 4, clip: true}, system: hifa}"
    with pytest.raises(RecipeError, match="hifa compares each frame with its latent, and flat makes one latent of 4"):
        Toy(terms=hifa, views=8, stage="cameras: {clip: 4}").built()


def test_motion_is_amplified_alike_in_rows_and_in_folded_moments() -> None:
    frames = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))  # clips, frames, channels
    apart = amplified(frames.flatten(0, 1), 5, 0.7).unflatten(0, (2, 5))
    folded = amplified(frames.transpose(1, 2).flatten(1, 2), 1, 0.7, moments=5).unflatten(1, (3, 5)).transpose(1, 2)
    torch.testing.assert_close(folded, apart)
    torch.testing.assert_close(apart.mean(1), frames.mean(1))
    torch.testing.assert_close(apart - apart.mean(1, keepdim=True), 1.7 * (frames - frames.mean(1, keepdim=True)))
