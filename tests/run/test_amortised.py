# SPDX-License-Identifier: Apache-2.0
"""One generator, several prompts: the recipe, the turns, a resumed run, the assets, and that each prompt is learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreamlab import recipe
from dreamlab.core.errors import DreamError
from dreamlab.core.foreign.headers import glb_document
from dreamlab.core.types import Maker, Scene
from dreamlab.export import export_mesh, export_pictures
from dreamlab.recipe.checks import check
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler, BuiltStage
from dreamlab.run.folder import Run
from dreamlab.run.preview import orbit_views, save_preview
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from dreamlab.run.worlds import true_pictures

FIELD = "levels: 6, log2_entries: 12, finest: 24, step: 0.08, occupancy: 20"
TEXT = """
prompt: a red mushroom
prompts: {prompts}
stages:
  - name: shape
    scene: {scene}
    terms: [{{guidance: {{kind: oracle, others: 1}}, system: {system}}}]
    steps: 60
    views: 2
    size: 16
export: {{resolution: 24, turntable: 2, size: 32}}
"""


def text(
    prompts: str = "[a green pear]",
    scene: str = "{kind: hyper_field, " + FIELD + "}",
    system: str = "{kind: asd, cfg: 3}",
) -> str:
    return TEXT.format(prompts=prompts, scene=scene, system=system)


def built(source: str | None = None) -> tuple[Assembler, BuiltStage]:
    assembler = Assembler(recipe.load(source or text(), TABLES), "cpu")
    return assembler, assembler.stage(0)


def run(stage: BuiltStage, first: int, last: int) -> None:
    for i in range(first, last):
        step(stage, i, Ring(METRICS, 100, "cpu"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scene": "gaussians"}, "gaussians is of one prompt and the recipe lists prompts; use hyper_field"),
        ({"system": "vsd"}, "vsd remembers the renders of one prompt"),
        ({"system": "sds, prompting: {adaptive: 0.1}"}, "adaptive: learns from one prompt"),
        ({"prompts": "[a red mushroom]"}, "prompts.0: 'a red mushroom' is there already"),
        ({"prompts": "[a green pear, x]"}, "prompts.1: 'x' is empty or a single character"),
        ({"prompts": "[a green quux]"}, "quux"),
        ({"prompts": "{a: green pear}"}, "prompts must be a list"),
    ],
)
def test_what_cannot_be_learnt_together_is_said_when_the_recipe_is_read(settings: dict[str, str], said: str) -> None:
    with pytest.raises(DreamError) as caught:
        check(recipe.load(text(**settings), TABLES))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_prompts_are_no_overrides_and_a_generator_has_no_particles() -> None:
    with pytest.raises(DreamError, match="never given as an override"):
        recipe.load(text(), TABLES, overrides=["prompts=[a pear]"])
    with pytest.raises(DreamError, match="it has no particles"):
        check(recipe.load(text(), TABLES, overrides=["stages.0.particles=2"]))


def test_the_resolved_recipe_reads_back() -> None:
    made = recipe.load(text(), TABLES)
    assert recipe.load(recipe.dump(made), TABLES) == made


def test_prompts_take_turns() -> None:
    assembler, stage = built(text("[a green pear, a blue mug]"))
    turns = [stage.turn(i)[1][0].text for i in range(4)]
    assert turns == ["a red mushroom", "a green pear", "a blue mug", "a red mushroom"]
    assert stage.scene.state_dict()["codes"].shape == (3, 64)
    single = Assembler(recipe.load(text("[]"), TABLES), "cpu").stage(0)
    assert [single.turn(i)[1][0].text for i in range(2)] == ["a red mushroom"] * 2
    assert len(assembler.prompts) == 3


def test_a_resumed_run_ends_equal() -> None:
    (_, whole), (_, half), (_, again) = built(), built(), built()
    run(whole, 0, 9)
    run(half, 0, 5)
    again.scene.load_state_dict({name: value.clone() for name, value in half.scene.state_dict().items()})
    again.optimiser.load_state_dict(half.optimiser.state_dict())
    again.streams.load_state_dict(half.streams.state_dict())
    run(again, 5, 9)
    torch.testing.assert_close(again.scene.state_dict(), whole.scene.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(again.optimiser.state_dict(), whole.optimiser.state_dict(), rtol=0, atol=0)


def likeness(scene: Scene, prompt: int, assembler: Assembler) -> tuple[float, float]:
    """Silhouette IoU with a prompt's true object, and how far the colour of the middle is from it, over four views."""
    cameras = orbit_views(4)
    truth = true_pictures(assembler.prompts[prompt], assembler.recipe.seed)(cameras, 32)
    with torch.no_grad():
        frames = scene.render(cameras, 32, torch.zeros(4, 3))
    mine, true = frames.alpha[..., 0] > 0.5, truth.alpha[0, ..., 0] > 0.5
    both = mine & true
    assert both.any()
    colour = (frames.rgb - truth.rgb[0])[both].mean(0).abs().max()
    return float(both.sum() / (mine | true).sum()), float(colour)


@pytest.mark.parametrize("system", ["{kind: asd, cfg: 3}", "{kind: sds, cfg: 1.5, t_max: {from: 0.98, to: 0.3}}"])
def test_each_prompt_gets_its_own_shape_and_colour(system: str) -> None:
    """Against the oracle's own objects: better with its own prompt than with the other's."""
    assembler, stage = built(text(system=system))
    run(stage, 0, 60)
    assert isinstance(stage.scene, Maker)
    found = [[likeness(scene, prompt, assembler) for prompt in range(2)] for scene in stage.scene.each()]
    for i in range(2):
        (iou, colour), (iou_swapped, colour_swapped) = found[i][i], found[i][1 - i]
        assert iou > iou_swapped + 0.05, found
        assert colour < 0.5 * colour_swapped, found


def test_every_prompt_is_exported_and_shown(tmp_path: Path) -> None:
    assembler, stage = built()
    wanted = assembler.recipe
    folder = Run.create(tmp_path, recipe.dump(wanted), wanted.prompt, [])
    files = export_mesh(folder, wanted, stage.scene, 0) + export_pictures(folder, wanted, stage.scene, 0, stage.device)
    names = {str(path.relative_to(folder.export)) for path in files}
    each = {f"{one}/{name}" for one in ("0-a-red-mushroom", "1-a-green-pear") for name in
            ("model.glb", "check.png", "contact.png", "turntable.mp4", "poster.png")}  # fmt: skip
    assert names == each | {"contact.png", "between.png"}
    for one in ("0-a-red-mushroom", "1-a-green-pear"):
        assert glb_document((folder.export / one / "model.glb").read_bytes())["meshes"]
    assert np.asarray(Image.open(folder.export / "contact.png")).shape == (2 * 32, 4 * 32, 3)
    assert np.asarray(Image.open(folder.export / "between.png")).shape == (32, 7 * 32, 3)
    save_preview(stage.scene, tmp_path / "preview.png", stage.device, 24)
    assert np.asarray(Image.open(tmp_path / "preview.png")).shape == (2 * 24, 4 * 24, 3)


def test_the_embedded_prior_encodes_the_prompts_itself() -> None:
    """Its encoder's mean word, at the scene's width; a bag of words is only for guidances without an encoder."""
    source = text("[a green pear, a red mushroom with a white stem]").replace("kind: oracle, others: 1", "kind: toybox")
    assembler = Assembler(recipe.load(source, TABLES), "cpu")
    codes = assembler.codes(assembler.recipe.stages[0])
    oracle = Assembler(recipe.load(text(), TABLES), "cpu")
    assert codes.shape == (3, 64) and codes.dtype == torch.float32
    assert not torch.allclose(codes[0], oracle.codes(oracle.recipe.stages[0])[0])
    near, far = (float((codes[0] - codes[i]).norm()) for i in (2, 1))
    assert 0 < near < far  # the mushrooms are alike to it
