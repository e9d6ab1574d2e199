# SPDX-License-Identifier: Apache-2.0
"""Many prompts in one run: what a preview, a checkpoint and a step cost does not grow with their number."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreamlab import recipe
from dreamlab.core.cameras import turntable
from dreamlab.core.types import Maker
from dreamlab.recipe.tables import TABLES
from dreamlab.run import train
from dreamlab.run.assemble import Assembler, BuiltStage
from dreamlab.run.folder import Run
from dreamlab.run.preview import SHOWN, handful, save_preview
from dreamlab.toybox.shapes import CATEGORIES
from guidance.toybox.prior import Toybox
from guidance.toybox.words import Words
from renderers.hyper_field import REMEMBERED, HyperField
from tests.run.test_amortised import text

OBJECTS = [f"a {colour} {name}" for colour in ("green", "blue") for name in sorted(CATEGORIES)]


def source(count: int, **parts: str) -> str:
    return text(f"[{', '.join(OBJECTS[: count - 1])}]", **parts)


def built(count: int) -> tuple[Assembler, BuiltStage]:
    assembler = Assembler(recipe.load(source(count), TABLES), "cpu")
    return assembler, assembler.stage(0)


def steps(stage: BuiltStage, first: int, last: int) -> None:
    for i in range(first, last):
        train.step(stage, i, train.Ring(train.METRICS, 100, "cpu"))


def sizes(stage: BuiltStage) -> int:
    """Bytes a checkpoint holds of the scene and its optimiser, without the codes that the prompts are told in."""
    state = {**stage.scene.state_dict(), **stage.optimiser.state_dict()}
    return sum(value.numel() * value.element_size() for name, value in state.items() if name != "codes")


def test_checkpoints_do_not_grow_with_the_number_of_prompts() -> None:
    few, some, many = (built(count)[1] for count in (2, REMEMBERED + 1, 120))
    assert sizes(few) - sizes(some) == 2 * 20**3 * 4  # two prompts' own occupancies, of which many have none
    assert sizes(some) == sizes(many)


def test_a_resumed_run_of_many_prompts_ends_equal() -> None:
    (_, whole), (_, half), (_, again) = (built(REMEMBERED + 1) for _ in range(3))
    steps(whole, 0, 6)
    steps(half, 0, 3)
    again.scene.load_state_dict({name: value.clone() for name, value in half.scene.state_dict().items()})
    again.optimiser.load_state_dict(half.optimiser.state_dict())
    again.streams.load_state_dict(half.streams.state_dict())
    steps(again, 3, 6)
    torch.testing.assert_close(again.scene.state_dict(), whole.scene.state_dict(), rtol=0, atol=0)


def test_a_field_that_nobody_remembers_is_found_whole() -> None:
    """The pictures of a few steps' field: as one of few prompts that has been looked at, and as one of many."""
    made, few = (HyperField(built(2)[1].spec.scene.settings, torch.Generator().manual_seed(0)) for _ in range(2))
    codes = torch.randn(REMEMBERED + 1, made.settings.code, generator=torch.Generator().manual_seed(1))
    made.tell(codes)
    few.tell(codes[:2])
    for turn in range(1, 4):
        few.made(0).refresh(turn)
    cameras = turntable(2)
    with torch.no_grad():
        one, other = (scene.made(0).render(cameras, 24, torch.ones(2, 3)).rgb for scene in (made, few))
    assert float((one < 0.9).float().mean()) > 0.02  # there is something to see
    assert torch.equal(one, other)


def test_previews_show_a_handful_in_turn(tmp_path: Path) -> None:
    """Four rows whatever the number, and all prompts come up."""
    _, stage = built(10)
    assert isinstance(stage.scene, Maker)
    shown = [handful(stage.scene, turn) for turn in range(5)]
    assert shown[:3] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    assert {i for some in shown for i in some or []} == set(range(10))
    save_preview(stage.scene, tmp_path / "some.png", stage.device, 16, shown[1])
    picture = np.asarray(Image.open(tmp_path / "some.png"))
    assert picture.shape == (SHOWN * 16, 4 * 16, 3)
    save_preview(stage.scene, tmp_path / "fifth.png", stage.device, 16, [4])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "fifth.png")), picture[:16])
    assert handful(built(2)[1].scene, 7) == [0, 1]


def test_a_run_says_which_prompts_its_previews_show(tmp_path: Path) -> None:
    wanted = recipe.load(source(6), TABLES, overrides=["stages.0.steps=4", "keeping.preview=2"])
    run = Run.create(tmp_path, recipe.dump(wanted), wanted.prompt, [])
    train.train(run, wanted, Assembler(wanted, "cpu"))
    events = [event for event in run.events() if event["kind"] == "preview"]
    assert [event["prompts"] for event in events] == [[0, 1, 2, 3], [4, 5, 0, 1]]
    assert all(Image.open(run.previews / event["path"]).height == 4 * 128 for event in events)


def test_words_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever checks a recipe, tells a scene its prompts, and encodes them in each of their turns."""
    read, spoken = Counter[str](), Counter[str]()
    reading, speaking = Words._read, Toybox._spoken
    monkeypatch.setattr(Words, "_read", lambda self, said: (read.update([said]), reading(self, said))[1])
    monkeypatch.setattr(
        Toybox, "_spoken", lambda self, texts: (spoken.update([texts["prompt"]]), speaking(self, texts))[1]
    )
    Words.from_json.cache_clear()
    with_prior = source(3).replace("{kind: oracle, others: 1}", "toybox")
    assembler = Assembler(recipe.load(with_prior, TABLES), "cpu")
    steps(assembler.stage(0), 0, 7)
    prompts = [prompt.text for prompt in assembler.prompts]
    assert [read[prompt] for prompt in prompts] == [1, 1, 1]
    assert [spoken[prompt] for prompt in prompts] == [2, 2, 2]  # as a code, and as captions
