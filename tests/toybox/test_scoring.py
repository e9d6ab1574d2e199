# SPDX-License-Identifier: Apache-2.0
"""The scoreboard: cells are runs, finished ones are read, sums are means, and the command writes what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamlab.core.cameras import orbit
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.metrics.asset import instances, true_answer
from dreamlab.metrics.measure import Figures, Yardstick
from dreamlab.toybox.caption import parse
from dreamlab.toybox.colours import COLOURS
from dreamlab.toybox.scoring import board as boards
from dreamlab.toybox.scoring import cells
from dreamlab.toybox.scoring.board import prompts, score_run, summed, verdict_of
from dreamlab.toybox.scoring.cells import Cell, Cost, Outcome, named, read_outcome
from dreamlab.toybox.scoring.images import judge_picture
from dreamlab.toybox.scoring.report import checks, lines
from dreamlab.toybox.shapes import CATEGORIES
from dreamlab.toybox.split import held_out_combination

SMALL = (
    "stages.0.scene.count=200",
    "stages.0.views=2",
    "stages.0.cameras.ring=2",
    "stages.0.size=16",
    "stages.0.steps=6",
)
FIGURES = Figures(
    accepted=True, category="duck", score=0.9, none=0.0, janus=False, main="red", second="blue", main_right=True,
    second_right=True, iou=0.8, iou_aligned=0.9, chamfer=0.02, saturation=1.1, contrast=0.9, saturation_off=1.0,
    contrast_off=-2.0, retrieved=True,
)  # fmt: skip


def test_prompts_are_held_out_and_one_for_each_category() -> None:
    every = prompts()
    captions = [parse(text) for text in every]
    assert sorted(c.category for c in captions) == sorted(CATEGORIES)
    assert prompts(5) == every[:5]
    for caption in captions:
        parts = CATEGORIES[caption.category].nameable
        if len(parts) > 1:
            colours = [caption.colours[part] for part in parts[:2]]
            assert held_out_combination(caption.category, *colours)


def test_sums_are_means_and_an_empty_cell_is_a_refused_one() -> None:
    worse = replace(FIGURES, accepted=False, second_right=None, janus=None, iou=0.4, contrast_off=1.0)
    costs = [Cost(10, 20, 160, 2.0, 4.0, 3.0), Cost(10, 40, 320, 2.0, 4.0, 1.0), Cost(0, 0, 0, 0.0, 0.0, 0.0)]
    row = summed(list(zip([FIGURES, worse, None], costs, strict=True)), 0.5)
    assert (row.cells, row.accepted, row.iou) == (3, pytest.approx(1 / 3), pytest.approx(0.4))
    assert row.colours_right == pytest.approx(2 / 3)
    assert row.second_right == 1.0 and row.janus == 0.0  # only where they were asked
    assert row.contrast_off == pytest.approx(1.5) and row.chamfer == pytest.approx(0.02)
    assert row.network_share == pytest.approx(0.5) and row.network_calls == pytest.approx(20)
    assert row.diversity == 0.5


def test_a_cell_changes_the_recipe_only_where_it_says() -> None:
    plain = Cell("a red duck").read()
    other = Cell("a red duck", seed=3, system="ism", steps=7).read()
    assert other.seed == 3 and other.stages[0].steps == 7 and other.stages[0].terms[0].system.kind == "ism"
    assert other.stages[0].scene == plain.stages[0].scene
    assert other.stages[0].terms[0].guidance == plain.stages[0].terms[0].guidance
    assert Cell("a red duck", system=plain.stages[0].terms[0].system.kind).read() == plain
    assert named(Cell("a red duck")).row == ("sds", "gaussians")


def test_a_board_is_run_once_and_read_after_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def board() -> boards.Board:
        one = ["red mug with blue handle"]
        return score_run(one, (0, 1), ("sds",), out=tmp_path, recipe="toybox-gaussians", settings=SMALL)

    first = board()
    monkeypatch.setattr(cells, "_trained", None)  # a second training would fail
    second = board()
    assert first.rows == second.rows
    assert [done.figures for done in first.outcomes] == [done.figures for done in second.outcomes]
    cost = first.outcomes[0].cost
    assert (cost.steps, cost.calls) == (6, 6) and cost.rows == 6 * 2 * 2  # steps x views x (text, null)
    assert 0 < cost.network_cpu_s < cost.cpu_s
    row = first.rows["sds", "gaussians"]
    assert row.cells == 2 and row.diversity is not None and row.diversity > 0
    assert set(first.trivial) == {"true", "sphere", "wrong category", "blob"}
    assert first.trivial["true"].accepted == 1.0 and first.trivial["true"].iou > 0.8
    assert first.trivial["sphere"].accepted == first.trivial["blob"].accepted == 0.0
    assert len(lines(first)) == 6 and "IoU" in lines(first)[0]
    assert {check["name"].split()[0] for check in checks(first, None)} >= {"accepted", "iou", "colours_right"}


def test_a_damaged_cell_is_said_and_an_older_one_is_run_again(tmp_path: Path) -> None:
    cell = Cell("a red duck")
    assert read_outcome(tmp_path, cell) == (None, "")
    (tmp_path / "cell.json").write_text('{"format": 0}')
    assert read_outcome(tmp_path, cell) == (None, "")
    (tmp_path / "cell.json").write_text('{"format": 1, "figures"')
    with pytest.raises(InputError, match="delete the folder"):
        read_outcome(tmp_path, cell)


def test_a_bad_name_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        score_run(["a red duck"], systems=("nonesuch",), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_truth_measures_as_true_and_its_verdict_says_so() -> None:
    yardstick = Yardstick("a pink duck with a purple beak")
    figures, features = yardstick.measure(true_answer(yardstick.caption, instances("duck", 9)[-1]))
    assert figures.accepted and figures.colours_right and figures.janus is False and figures.retrieved
    assert figures.iou > 0.9 and abs(figures.saturation - 1) < 0.1 and abs(figures.contrast - 1) < 0.1
    assert features.shape == (160,)
    done = Outcome(Cell("a pink duck"), figures, Cost(0, 0, 0, 0.0, 0.0, 0.0))
    assert verdict_of(done).startswith("accepted, pink/purple, IoU 0.")


def test_one_picture_is_judged_with_its_colours() -> None:
    caption = parse("a pink duck with a purple beak")
    camera = orbit([30.0], 20.0, 3.2, 42.0)
    asset = true_answer(caption, instances("duck", 9)[-1])
    ground = torch.tensor([[0.2, 0.6, 0.3]])
    accepted, category, score, main, second = judge_picture(asset.render(camera, 64, ground).rgb[0], caption, camera)
    assert accepted and category == "duck" and score > 0.5 and main and second
    noise = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
    assert not judge_picture(noise, caption, camera)[0]
    assert len(COLOURS) == 12


def test_the_command_writes_table_sheet_and_json(dreamlab: Callable, tmp_path: Path) -> None:
    from PIL import Image

    options = ["--systems", "sds", *(part for setting in SMALL for part in ("--set", setting))]
    ended = dreamlab("toybox", "score", "--prompts", "1", "--out", "scores", "--json", "s.json", *options)
    assert ended.code == 0, ended.err
    written = json.loads((tmp_path / "s.json").read_text())
    assert {"checks", "machine", "rows", "trivial", "cells"} <= set(written)
    assert all({"name", "value", "unit", "floor", "better"} <= set(check) for check in written["checks"])
    assert written["cells"][0]["cost"]["calls"] == 6
    picture = np.asarray(Image.open(tmp_path / "scores" / "scores.png"))
    assert picture.shape[0] >= 96 and picture.std() > 5
    for bad, word in (
        (["--systems", "sdss"], "sds"),
        (["--guidance", "oracel"], "oracle"),
        (["--set", "x"], "key=value"),
    ):
        ended = dreamlab("toybox", "score", *bad)
        assert ended.code == 2 and word in ended.err and ended.err.count("\n") == 1, ended.err


def test_train_is_the_same_command(dreamlab: Callable, tmp_path: Path) -> None:
    ended = dreamlab("toybox", "train", "--role", "imgae")
    assert ended.code == 2 and "image" in ended.err
    ended = dreamlab("toybox", "train", "--resume", "--out", "nothing")
    assert ended.code == 3 and "nothing to resume" in ended.err


def test_diversity_is_a_ratio_of_sums() -> None:
    """A prompt whose true instances do not differ at all adds its spread and no division by nothing."""

    def done(prompt: str, seed: int, *features: float) -> Outcome:
        return Outcome(Cell(prompt, seed=seed), None, Cost(0, 0, 0, 0.0, 0.0, 0.0), features)

    right_angle = [done("a", 0, 1.0, 0.0), done("a", 1, 0.0, 1.0)]  # cosine distance 1
    opposite = [done("b", 0, 1.0, 0.0), done("b", 1, -1.0, 0.0)]  # 2
    assert boards._diversity([*right_angle, *opposite], {"a": 4.0, "b": 0.0}) == pytest.approx(3 / 4)
    assert boards._diversity(right_angle[:1], {"a": 4.0}) is None
