# SPDX-License-Identifier: Apache-2.0
"""The judge that is shipped: what it must accept, what it must refuse, and that its data are what they claim."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch

from dreamlab.core.cameras import orbit
from dreamlab.core.errors import InputError, ModelError
from dreamlab.metrics import impostors
from dreamlab.metrics.asset import Solid, blob, equal_sphere, instances, judging_cameras, true_answer
from dreamlab.metrics.calibration import threshold
from dreamlab.metrics.janus import Sides, apart
from dreamlab.metrics.judge import NONE, judge, views_of
from dreamlab.metrics.judge_data import NAMES, SKIP, draw_labelled, side_of, soften
from dreamlab.metrics.judge_net import JudgeNet, load, save, with_silhouette
from dreamlab.metrics.measure import Yardstick, parse_plain
from dreamlab.toybox.caption import parse
from dreamlab.toybox.draw import draw
from dreamlab.toybox.program import rotation
from dreamlab.toybox.scene import transformed
from dreamlab.toybox.shapes import CATEGORIES, program
from dreamlab.toybox.split import held_out_instance
from dreamlab.toybox.training.sample import held_out_prompts

SOME = NAMES[::6]


@pytest.fixture(scope="module")
def captions() -> list:
    return [parse(prompt) for prompt in held_out_prompts(SOME)]


def test_it_accepts_held_out_objects_and_refuses_spheres_and_blobs(captions: list) -> None:
    """The floors, on every sixth category; the whole table is `python -m dreamlab.metrics calibrate`."""
    it = judge()
    seeds = [instances(caption.category, 1)[0] for caption in captions]
    asked = list(zip(captions, seeds, strict=True))
    true = [it.asset(true_answer(caption, seed), caption.category).accepted for caption, seed in asked]
    false = [it.asset(make(c, seed), c.category).accepted for make in (equal_sphere, blob) for c, seed in asked]
    assert sum(true) >= len(true) - 1
    assert sum(false) <= 2  # a plain sphere may pass for a ball


def test_another_category_is_refused_however_good(captions: list) -> None:
    it = judge()
    for caption, other in list(itertools.pairwise(captions))[:6]:
        assert not it.asset(true_answer(other, 3), caption.category).accepted


def test_a_second_front_is_seen_and_a_back_is_not_taken_for_one() -> None:
    about = torch.tensor(rotation((0.0, 180.0, 0.0)))
    for name in ("chair", "car", "duck"):
        caption, seeds = parse(f"a red {name}"), instances(name, 4)
        sides = Sides([true_answer(caption, seed) for seed in seeds[1:]])
        one = true_answer(caption, seeds[0])
        rgb, alpha = views_of(one, judging_cameras())
        assert sides.fronts_seen(rgb, alpha) == 0.0
        assert sides.fronts_seen(*views_of(Solid(transformed(one.program, about)), judging_cameras())) == 1.0
        both = [(6 - i) % 12 for i in range(12)]  # front and back are mirror images: seen in the plane of the sides
        half = [i if i in (9, 10, 11, 0, 1, 2, 3) else both[i] for i in range(12)]
        assert sides.fronts_seen(rgb[half].flip(2), alpha[half].flip(2)) >= 2 / 3


def test_who_has_no_front_gets_no_janus_verdict() -> None:
    caption = parse("a red star")
    sides = Sides([true_answer(caption, seed) for seed in instances("star", 2)])
    assert sides.fronts_seen(*views_of(true_answer(caption, 0), judging_cameras())) is None


def test_apart_is_the_mean_over_what_either_covers() -> None:
    a, b = torch.zeros(2, 8, 8, 4), torch.zeros(2, 8, 8, 4)
    a[0, :4] = 1.0
    b[0, 2:6] = 1.0
    assert apart(a, b).tolist() == pytest.approx([32 / 48, 0.0])


def test_sectors_are_centred_on_the_front() -> None:
    assert side_of(torch.tensor([0.0, 22.0, -22.0, 23.0, 90.0, 180.0, -179.0, -45.0])).tolist() == [
        0,
        0,
        0,
        1,
        2,
        4,
        4,
        7,
    ]


def test_batches_are_a_function_of_seed_and_index_and_keep_the_split() -> None:
    one, again, other = draw_labelled(3, 5), draw_labelled(3, 5), draw_labelled(3, 6)
    assert torch.equal(one.rgb, again.rgb) and torch.equal(one.label, again.label)
    assert not torch.equal(one.rgb, other.rgb)
    assert len(one.rgb) == len(one.label) == len(one.side) == len(one.kind) == 128
    assert float(one.rgb.min()) >= 0 and float(one.rgb.max()) <= 1
    true = torch.tensor([kind == "true" for kind in one.kind])
    assert bool((one.label[true] < len(NAMES)).all()) and bool((one.side[~true] == SKIP).all())
    assert all(held_out_instance(name, seed) for name in SOME for seed in instances(name, 2))
    assert not any(held_out_instance(name, seed) for name in SOME for seed in instances(name, 2, held_out=False))


def test_a_hardly_changed_object_keeps_its_name_and_a_broken_one_loses_it() -> None:
    whole = program("snowman", seed=1)
    camera = orbit([20.0], 15.0, 3.2, 42.0)

    def look(one: object) -> torch.Tensor:
        shown = draw(one, camera, 64)  # type: ignore[arg-type]
        return torch.cat([shown.rgb, shown.alpha], -1)[0]

    broken = impostors.broken(random.Random(5), whole)
    assert float(impostors.difference(look(whole), look(whole))) == 0.0
    assert float(impostors.difference(look(broken), look(whole))) > impostors.OTHER
    half = look(whole).clone()
    half[:, :, 32:] = 0
    covered = look(whole)
    wanted = covered[:, :, 32:].abs().mean(-1).sum() / covered[..., 3].sum()
    assert float(impostors.difference(half, covered)) == pytest.approx(float(wanted), rel=1e-5)


def test_spoilt_pictures_are_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    rgb = draw(program("car"), orbit([0.0, 90.0, 200.0, 300.0], 15.0, 3.2, 42.0), 64).over(0.6)[0]
    for kind in impostors.PICTURES:
        spoilt = soften(impostors.spoil(kind, rgb, generator).clone(), generator) if kind != "blended" else rgb
        assert spoilt.shape == rgb.shape and bool(torch.isfinite(spoilt).all()), kind


def test_the_silhouette_channel_is_the_objects() -> None:
    shown = draw(program("duck"), orbit([30.0], 15.0, 3.2, 42.0), 64)
    found = with_silhouette(shown.over(torch.tensor([0.1, 0.2, 0.9]))[0])[0, ..., 3]
    alpha = shown.alpha[0, 0, ..., 0]
    assert bool((found[alpha == 0] == -1).all())
    assert float((found[alpha > 0.9] > 0).float().mean()) > 0.97


def test_thresholds_lie_between_the_two_kinds() -> None:
    true, false = torch.linspace(0.8, 1.0, 101), torch.linspace(0.0, 0.3, 101)
    assert threshold(true, false, 0.0) == pytest.approx((0.8 + 0.3) / 2)
    assert threshold(true, true, 0.0) == 0.8  # bounded


def test_what_cannot_be_asked_is_said_in_one_line() -> None:
    with pytest.raises(InputError, match="no category 'dragon'"):
        judge().index("dragon")
    with pytest.raises(InputError, match="names a relation"):
        parse_plain("a blue cube on a green table")
    with pytest.raises(InputError, match="does not know"):
        Yardstick("a red mushroom with a white flange")


def test_a_damaged_judge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "judge.safetensors"
    with pytest.raises(ModelError, match="there is no judge here"):
        load(path)
    save(path, JudgeNet(3).eval(), ("a", "b", "c"), {"seed": 1})
    assert load(path).categories == ("a", "b", "c")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ModelError, match="not a readable judge"):
        load(path)


def test_stored_weights_are_small_and_say_how_they_were_made() -> None:
    it = judge()
    assert it.categories == tuple(sorted(CATEGORIES))
    assert {"steps", "seed", "asset_threshold", "picture_threshold"} <= set(it.stored.facts)
    file = Path(__file__).parents[2] / "dreamlab" / "metrics" / "weights" / "judge.safetensors"
    assert file.stat().st_size <= 1.5e6
    assert it.look(torch.rand(2, 64, 64, 3)).shape == (2, len(NAMES) + 1)
    assert it.name(len(NAMES)) == NONE and len(judging_cameras()) == 12
