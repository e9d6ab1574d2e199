# SPDX-License-Identifier: Apache-2.0
"""Every video model drives a moving scene through the engine, from its folder alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from dreamlab import recipe
from dreamlab.core.cameras import turntable
from dreamlab.core.errors import RecipeError
from dreamlab.recipe.checks import check
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.folder import Run
from dreamlab.run.train import train
from tests.guidance.pretrained import PROMPT, frames
from tests.guidance.video.common import adapter, drawn, picture, save_picture


@dataclass(frozen=True)
class Case:
    """A family at its smallest."""

    kind: str
    layout: str
    frames: int
    size: int = 32
    moments: int = 0  # of a folded clip
    pictured: bool = False  # it follows a picture

    def recipe(self, folder: Path, beside: Path, frames: int = 0, system: str = "video", clip: int = 0) -> str:
        frames = frames or self.frames
        more = f", motion: {adapter(beside / 'motion')}" if self.kind == "animatediff" else ""
        image = ""
        if self.pictured:
            beside.mkdir(exist_ok=True)
            save_picture(beside / "given.png")
            image = f"image: {{file: {beside / 'given.png'}}}"
        rule = f"{{kind: video, frames: {frames}, cfg: 5}}" if system == "video" else system
        return f"""
prompt: a red mushroom
{image}
stages:
  - name: move
    scene: {{kind: gaussians4d, count: 60}}
    terms:
      - guidance: {{kind: {self.kind}, model: {folder}, dtype: float32, frames: {frames}, size: {self.size}{more}}}
        system: {rule}
    steps: 2
    views: {clip or frames}
    size: 24
    cameras: {{clip: {clip or frames}}}
"""


CASES = [
    Case("animatediff", "sd15", 3),
    Case("modelscope", "modelscope", 3),
    Case("svd", "svd", 3, pictured=True),
    Case("wan", "wan21-1.3b", 5, moments=2),
    Case("wan", "wan22-t2v-a14b", 9, moments=3),
    Case("wan-i2v", "wan21-i2v-14b", 5, moments=2, pictured=True),
    Case("cogvideox", "cogvideox-2b", 9, moments=3),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.layout}")
def test_two_steps_move_the_scene(
    case: Case, random_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wanted = recipe.load(case.recipe(random_folder(case.layout), tmp_path), TABLES)
    run = Run.create(tmp_path / "run", recipe.dump(wanted), wanted.prompt, ["dreamlab"], {})
    assembler = Assembler(wanted, "cpu", run.path)
    before = {name: group.tensor.detach().clone() for name, group in assembler.stage(0).scene.groups().items()}
    assembler = Assembler(wanted, "cpu", run.path)
    scene = train(run, wanted, assembler)
    metrics = [event for event in run.events() if event["kind"] == "metrics"]
    assert metrics[-1]["healthy"] == 1 and metrics[-1]["grad_rms"] > 0
    after = {name: group.tensor for name, group in scene.groups().items()}
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert "means" in moved and all(torch.isfinite(after[name]).all() for name in after)
    (term,) = wanted.stages[0].terms
    card = TABLES.guidance[case.kind].card(term.guidance.settings)
    assert card.picture is case.pictured
    assert (card.folds, card.moments) == ((case.frames, case.moments) if case.moments else (1, 1))


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[5]], ids=lambda case: case.kind)
def test_half_precision_answers_nearly_the_same(case: Case, random_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Every input of the network is cast, and its answer is float32 again."""
    said = []
    for dtype in ("float32", "bfloat16"):
        wanted = recipe.load(case.recipe(random_folder(case.layout), tmp_path).replace("float32", dtype), TABLES)
        term = wanted.stages[0].terms[0].guidance
        model = TABLES.guidance[term.kind].build(term.settings, None).to("cpu")
        told = model.condition(replace(PROMPT, image=picture()), turntable(case.frames), frames(case.frames))
        rows = 1 if case.moments else case.frames
        z = drawn(rows, model.codec.channels * max(case.moments, 1), 4, 4)
        said.append(model.predict(z, torch.full((rows,), 400), told["text"]))
    assert said[1].dtype == torch.float32
    assert 0 < (said[1] - said[0]).norm() < 0.05 * said[0].norm()


@pytest.mark.parametrize("case", CASES[:1], ids=lambda case: case.kind)
def test_a_recipe_that_shows_no_whole_clips_is_refused(
    case: Case, random_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = random_folder(case.layout)
    with pytest.raises(RecipeError, match="looks at frames of one time of noise, and sds draws one for each"):
        check(recipe.load(case.recipe(folder, tmp_path / "a", system="sds"), TABLES))
    with pytest.raises(RecipeError, match=r"3, and the stage's clips have 2 frames"):
        check(recipe.load(case.recipe(folder, tmp_path / "b", clip=2).replace("views: 2", "views: 6"), TABLES))
    fewer = case.recipe(folder, tmp_path / "c", frames=6).replace("video, frames: 6", "video, frames: 3")
    fewer = fewer.replace("views: 6", "views: 3").replace("clip: 6", "clip: 3")
    with pytest.raises(RecipeError, match=r"looks at 6 frames together; 3 is no multiple of that"):
        check(recipe.load(fewer, TABLES))
