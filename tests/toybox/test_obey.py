# SPDX-License-Identifier: Apache-2.0
"""What `toybox obey` measures: closed forms, near perfect on the truth, low on answers that did not listen."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from dreamlab.core.cameras import orbit, turntable
from dreamlab.core.errors import RecipeError
from dreamlab.toybox.draw import draw
from dreamlab.toybox.program import stack
from dreamlab.toybox.scoring import obedience
from dreamlab.toybox.scoring.board import prompts
from dreamlab.toybox.scoring.obey import Drawing, Obeyed, acted, obey
from dreamlab.toybox.scoring.obey_report import ROLES, checks, command, content, table
from dreamlab.toybox.shapes import program
from tests.toybox.tiny_prior import tiny_prior


def disc(across: int, down: int, radius: int = 9, size: int = 64) -> torch.Tensor:
    """[S, S, 3] a disc with spots of many colours before gray."""
    line = torch.arange(-radius, radius + 1)
    inside = (line[None] ** 2 + line[:, None] ** 2 < radius**2)[..., None]
    spots = 0.6 * torch.rand(len(line), len(line), 3, generator=torch.Generator().manual_seed(0))
    page = torch.full((size, size, 3), 0.9)
    page[down - radius : down + radius + 1, across - radius : across + radius + 1] = torch.where(inside, spots, 0.9)
    return page


def test_a_shifted_disc_moves_as_it_was_shifted() -> None:
    """Four frames around a square of 6 pixels: trajectory, and flow of every block that shows only object."""
    corners = [(26, 30), (32, 30), (32, 36), (26, 36)]
    clip = torch.stack([disc(*corner, radius=14) for corner in corners])
    way = obedience.trajectory(clip)
    places = torch.tensor(corners).float()
    expected = places - places.mean(0)
    torch.testing.assert_close(way, expected, atol=0.02, rtol=0)
    moved = places.roll(-1, 0) - places
    found = obedience.flow(clip, 8)
    for i in range(4):  # the block that begins at pixel 24, 28 lies inside the disc for all four
        torch.testing.assert_close(found[i, 7, 6], moved[i])
    assert not obedience.flow(clip[:1].expand(4, -1, -1, -1), 8).any()
    assert not obedience.covered(clip)[:, 0, 0].any() and obedience.covered(clip)[:, 7, 6].all()


def test_nothing_seen_rests() -> None:
    clip = torch.stack([disc(30, 30), torch.full((64, 64, 3), 0.9), disc(30, 30)])
    assert obedience.trajectory(clip).abs().max() < 1e-4
    assert not obedience.trajectory(torch.full((3, 64, 64, 3), 0.7)).any()
    assert obedience.overlap(torch.zeros(4, 4).bool(), torch.zeros(4, 4).bool()) == 0.0


def test_correlation_and_likeness_by_hand() -> None:
    a = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert obedience.correlation(a, 5 - 2 * a) == pytest.approx(-1.0) and obedience.correlation(a, a * 0 + 1) == 0.0
    assert obedience.correlation(a, torch.tensor([1.0, -1.0, -1.0, 1.0])) == pytest.approx(0.0)
    assert obedience.likeness(torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])) == pytest.approx(24 / 25)


def test_shading_is_heard_through_colours_and_belongs_to_a_surface() -> None:
    camera = orbit([35.0], 20.0, 3.2, 42.0)
    gray, blue = (program("duck", dict.fromkeys(("body", "beak"), colour)) for colour in ("gray", "blue"))
    lit, painted = draw(gray, camera, 64), draw(blue, camera, 64)
    part = torch.where(lit.alpha[0, 0, ..., 0] > 0.99, lit.part[0, 0], -1)
    other = draw(program("house"), camera, 64).over(0.7)[0, 0]
    assert obedience.shading(painted.over(0.7)[0, 0], lit.over(0.7)[0, 0], part) > 0.9
    assert abs(obedience.shading(other, lit.over(0.7)[0, 0], part)) < 0.5
    assert obedience.shading(other, lit.over(0.7)[0, 0], torch.full_like(part, -1)) == 0.0


def test_pixels_beside_another_part_show_both() -> None:
    part = torch.zeros(6, 6, dtype=torch.int32)
    part[:, 3:] = 1
    expected = part.clone()
    expected[:, 2:4] = -1
    assert torch.equal(obedience.inner(part), expected)


def test_depth_agrees_with_itself_turned_over_it_disagrees() -> None:
    shown = draw(program("house"), orbit([30.0], 20.0, 3.2, 42.0), 64)
    depth, alpha = shown.depth[0, 0], shown.alpha[0, 0]
    assert obedience.depth_agreement((depth, alpha), (depth, alpha)) == pytest.approx(1.0)
    assert obedience.depth_agreement((6.4 - depth, alpha), (depth, alpha)) == pytest.approx(-1.0)
    away = torch.zeros_like(alpha)
    assert obedience.depth_agreement((depth, away), (depth, alpha)) == 0.0


def test_a_set_of_pictures_finds_its_object_and_a_mixed_one_pays() -> None:
    cameras = turntable(4, 20.0, 3.2, 42.0)
    shown = draw(stack([program("chair", seed=seed) for seed in range(4)]), cameras, 32)
    pictures = shown.over(0.7)
    together, more = obedience.nearest_objects(pictures[2], shown.rgb, shown.alpha)
    assert together > 90 and more == 0.0
    mixed = torch.stack([pictures[i, i] for i in range(4)])
    alone, gain = obedience.nearest_objects(mixed, shown.rgb, shown.alpha)
    assert alone < 40 and alone + gain > 90
    assert obedience.explained(pictures[1, 3], shown.rgb[:, 3], shown.alpha[:, 3]) == 1


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Obeyed]:
    """All roles on two objects, drawn by a network of random weights."""
    drawing = Drawing(str(tiny_prior(tmp_path_factory.mktemp("prior"), 64)), steps=1)
    return {role: obey(role, prompts(2), drawing) for role in ROLES}


def test_the_truth_obeys_and_who_does_not_listen_does_not(measured: dict[str, Obeyed]) -> None:
    views, control, novel, video = (measured[role].rows for role in ROLES)
    assert views["a true object"]["accepted views"] == 1 and views["samples"]["accepted views"] == 0
    assert views["a true object"]["nearest object, dB"] > views["one view four times"]["nearest object, dB"] + 5
    assert views["four true instances"]["each its own, dB more"] > views["a true object"]["each its own, dB more"]
    truth, other = control["the true picture"], control["another object"]
    assert truth["silhouette IoU"] > 0.85 and truth["shading correlation"] > 0.8 and truth["depth correlation"] > 0.85
    assert all(other[figure] < truth[figure] - 0.2 for figure in truth)
    assert novel["another true instance"]["above copying"] > 4 and novel["the given picture"]["above copying"] == 0
    assert novel["the background"]["above copying"] < 0 and novel["the mean picture"]["above copying"] < 0
    for figure in ("trajectory error / still", "flow error / still"):
        assert video["another true instance"][figure] < 0.6 and video["a still clip"][figure] == pytest.approx(1.0)
        assert video["the true clip backwards"][figure] > 1 and video["another action"][figure] > 1
    assert video["another true instance"]["action recognised"] == 1 and video["a still clip"]["action recognised"] == 0


def test_random_weights_pass_no_check_that_asks_for_something(measured: dict[str, Obeyed]) -> None:
    claims = {claim["name"]: claim for one in measured.values() for claim in checks(one)}
    for name in ("novel: above copying", "video: flow error / still", "video: trajectory error / still"):
        claim = claims[name]
        better = claim["value"] >= claim["floor"] if claim["better"] == "higher" else claim["value"] < claim["floor"]
        assert not better and math.isfinite(claim["value"]), claim
    for one in measured.values():
        head, rule, *rows = table(one)[:-1]
        assert len(rows) == len(one.rows) and {line.count("|") for line in (head, rule, *rows)} == {head.count("|")}
        assert one.tiles.shape[0] == 2 and one.tiles.isfinite().all()
    assert json.loads(json.dumps(content(list(measured.values()))["roles"]))["video"]["count"] == 2


def test_the_command_writes_tables_sheets_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawing = Drawing(str(tiny_prior(tmp_path / "prior")), steps=1)
    command("novel", drawing, 1, tmp_path / "out", tmp_path / "found.json")
    printed = capsys.readouterr().out
    assert "| samples |" in printed and (tmp_path / "out" / "obey-novel.png").stat().st_size > 500
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"checks", "machine"} <= set(found) and found["checks"][0]["floor"] == 4.0
    with pytest.raises(RecipeError, match="did you mean 'novel'"):
        command("novle", drawing, 1, tmp_path, None)


def test_actions_are_ones_that_the_object_can_do() -> None:
    told = [acted(prompt) for prompt in prompts(30)]
    assert len({sentence.split()[1] for sentence in told}) >= 4  # of six actions
    assert acted("a red windmill with white blades") == acted("a red windmill with white blades")
