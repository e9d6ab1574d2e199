# SPDX-License-Identifier: Apache-2.0
"""The reader of given pictures: its geometry in closed form, its file, its training, and what the shipped one knows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dreamlab.core.cameras import orbit
from dreamlab.core.errors import InputError, ModelError, RecipeError
from dreamlab.core.types import Framing, Hints, Prompt, Reference
from dreamlab.recipe.picture import reframed
from dreamlab.toybox.caption import parse
from dreamlab.toybox.shapes import CATEGORIES
from dreamlab.toybox.training import reader as training
from dreamlab.toybox.training import style
from dreamlab.toybox.training.command import READER, begin
from dreamlab.toybox.training.sample import scene_of
from guidance.toybox.prior import folder_of
from guidance.toybox.reader import (
    FILE,
    TURNS,
    Known,
    Reader,
    azimuth_of,
    load,
    looked_at,
    packed,
    prepared,
    read,
    sentence,
    turn_error,
    turned,
)
from guidance.toybox.roles import ToyboxNovel
from guidance.toybox.store import words_of

PLAN = training.ReaderPlan(total=4_000, batch=8, warmup=8)
SHIPPED = folder_of("toybox-reader") / FILE


def peaked(*azimuths: float) -> torch.Tensor:
    """Logits [1, TURNS] whose softmax has equal peaks shared between the two directions beside each azimuth."""
    likely = torch.full((TURNS,), 1e-6)
    for azimuth in azimuths:
        place = (azimuth % 360) / 360 * TURNS
        low = int(place)
        likely[low % TURNS] += 1 - (place - low)
        likely[(low + 1) % TURNS] += place - low
    return likely.log()[None]


@pytest.mark.parametrize("azimuth", [0.0, 12.5, 91.0, 179.0, -179.0, -2.0, -91.25])
def test_an_azimuth_comes_back_from_between_two_directions(azimuth: float) -> None:
    found = float(azimuth_of(peaked(azimuth)))
    assert abs((found - azimuth + 180) % 360 - 180) < 0.05


def test_of_several_sides_one_is_chosen_not_their_mean() -> None:
    """A four-fold solid: the mean of its four azimuths is none of them."""
    found = float(azimuth_of(peaked(10.0, 100.0, -170.0, -80.0)))
    assert min(abs(found - side) for side in (10.0, 100.0, -170.0, -80.0)) < 0.1


def test_the_error_of_a_turn_is_least_where_it_points() -> None:
    """Its gradient in float64 is the softmax less the two shares; at the target itself that is zero."""
    logits = torch.randn(3, TURNS, dtype=torch.float64, requires_grad=True)
    azimuth = torch.tensor([7.0, -1.0, 360.0], dtype=torch.float64)
    turn_error(logits, azimuth).sum().backward()
    share = torch.cat([peaked(a).double().exp() for a in azimuth.tolist()])
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - share, atol=1e-4, rtol=0)


def test_sentences_are_captions_that_the_world_and_the_prior_read() -> None:
    known, words = training.known(), words_of(folder_of("toybox"))
    for name, part in known.objects:
        said = sentence(name, part, ("red", "blue"))
        caption = parse(said)
        assert caption.category == name and caption.finishes[CATEGORIES[name].main].colour == "red"
        assert not part or caption.finishes[part].colour == "blue"
        assert not words.read(said).unknown, said


def test_labels_are_the_worlds_truth() -> None:
    """What is said of a picture is what the picture was drawn from: its main colour covers most of it."""
    shown = training.draw_shown(PLAN, 0, held_out=True)
    assert not shown.lean_deg.any() and set(shown.category.tolist()) <= set(range(len(training.NAMES)))
    assert shown.picture.shape == (8, 64, 64, 4) and not torch.equal(shown.azimuth_deg[0], shown.azimuth_deg[1])
    assert torch.equal(shown.category[::2], shown.category[1::2]) and torch.equal(shown.colour[::2], shown.colour[1::2])
    outside = shown.picture[..., 3] < -0.999
    assert shown.picture[..., :3][outside].abs().max() < 1e-3 and 0.05 < (~outside).float().mean() < 0.9
    assert torch.equal(shown.picture, training.draw_shown(PLAN, 0, held_out=True).picture)


def test_a_picture_of_any_size_is_seen_alike() -> None:
    """From the size at which its object has the pixels that the reader is shown; a smaller one is softer."""
    small, large = (scene_of("a yellow duck", orbit([30.0], 20.0, 3.2, 42.0), size)[0] for size in (96, 192))
    both = [prepared((f.rgb - 0.7 * (1 - f.alpha)), f.alpha) for f in (small, large)]
    assert both[1].shape == (1, 64, 64, 4) and (both[0] - both[1]).abs().mean() < 0.02


def test_an_object_is_seen_alike_wherever_it_stands_in_its_picture() -> None:
    """A picture of 128 and its object at half the size in a corner: the reader is shown the same."""
    frames, _ = scene_of("a yellow duck", orbit([30.0], 20.0, 3.2, 42.0), 128)
    whole = torch.cat([frames.rgb - 0.7 * (1 - frames.alpha), frames.alpha], -1)
    half = torch.nn.functional.avg_pool2d(whole.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    corner = torch.zeros_like(whole)
    corner[:, 60:124, 5:69] = half
    both = [prepared(each[..., :3], each[..., 3:]) for each in (whole, corner)]
    assert (both[0] - both[1]).abs().mean() < 0.03
    there = both[0][0, ..., 3] > 0
    sides = [int(there.any(axis).sum()) for axis in (0, 1)]
    assert max(sides) == pytest.approx(0.85 * 64, abs=2)


def test_training_shows_strange_pictures_whose_truth_is_known() -> None:
    """A batch has plain ones, others that lean, and some of nothing; the loss asks of these for no kind alone."""
    shown = training.draw_shown(training.ReaderPlan(batch=64), 1)
    assert not shown.lean_deg[:26].any() and (shown.lean_deg[26:].abs() > 20).any()
    assert (shown.category[-6:] == -1).all() and (shown.category[:-6] >= 0).all()
    torch.manual_seed(0)
    reader = Reader(training.known())
    answers = reader(shown.picture)
    flat = replace(answers, category=torch.zeros_like(answers.category))
    bold = replace(answers, category=flat.category.clone())
    bold.category[-6:, 0] = 9.0
    assert float(training.loss_of(bold, shown) - training.loss_of(flat, shown)) > 0.5


def test_a_lean_is_what_turns_the_picture_upright() -> None:
    """The world's rocket turned to the right by 40 degrees: framed by that lean it is the rocket again."""
    frames, _ = scene_of("a red rocket", orbit([0.0], 0.0, 3.2, 42.0), 96)
    rgba = torch.cat([frames.rgb - 0.7 * (1 - frames.alpha), frames.alpha], -1)
    turned = style.warped(rgba, torch.tensor([40.0]), torch.ones(1, 2))
    alpha = turned[0, ..., 3:]
    given = Reference(turned[0, ..., :3] / alpha.clamp(min=1e-3), alpha, orbit([0.0]))
    upright = reframed(given, Framing(1.0, (0.0, 0.0), (0.0, 0.0), 40.0))
    assert (upright.alpha - frames.alpha[0]).abs().mean() < 0.02 < (alpha - frames.alpha[0]).abs().mean()


def test_a_leaning_picture_stands_upright_before_the_reader() -> None:
    """The rocket again: in the same frame it is the true one, all of it."""
    frames, _ = scene_of("a red rocket", orbit([0.0], 0.0, 3.2, 42.0), 96)
    rgba = torch.cat([frames.rgb - 0.7 * (1 - frames.alpha), frames.alpha], -1)
    leaning = style.warped(rgba, torch.tensor([40.0]), torch.ones(1, 2))
    upright, left = (turned(leaning, torch.tensor([degrees])) for degrees in (40.0, -40.0))
    true = prepared(rgba[..., :3], rgba[..., 3:])[..., 3]
    off, wrong = ((prepared(x[..., :3], x[..., 3:])[..., 3] - true).abs().mean() for x in (upright, left))
    assert off < 0.05 < 0.2 < wrong


def test_every_look_says_the_same_side_and_kind() -> None:
    """The shipped reader of the world's own duck, which looks to its left, and of its mirror; of a leaning rocket."""
    reader = load(SHIPPED)
    frames, _ = scene_of("a yellow duck", orbit([60.0], 20.0, 3.2, 42.0), 96)
    rgba = torch.cat([frames.rgb - 0.7 * (1 - frames.alpha), frames.alpha], -1)
    for picture, azimuth in ((rgba, 60.0), (rgba.flip(2), -60.0)):
        said = looked_at(reader, picture)
        assert len(said) == 15
        sides = torch.cat([azimuth_of(each.turn) for each in said])
        assert (sides - azimuth).abs().max() < 25 and len({int(each.category.argmax()) for each in said}) == 1
    rocket, _ = scene_of("a red rocket", orbit([0.0], 0.0, 3.2, 42.0), 96)
    rgba = torch.cat([rocket.rgb - 0.7 * (1 - rocket.alpha), rocket.alpha], -1)
    said = looked_at(reader, style.warped(rgba, torch.tensor([40.0]), torch.ones(1, 2)))
    assert {round(float(azimuth_of(each.lean)) / 20) for each in said} == {2}, "of the picture as it is"
    kinds = [reader.known.objects[int(each.category.argmax())][0] for each in said[3:]]
    assert set(kinds) == {"rocket"}


def test_a_reader_comes_back_from_its_file_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reader = Reader(Known((("ball", ""), ("mug", "handle")), ("red", "blue"))).eval()
    (tmp_path / FILE).write_bytes(packed(reader, {"images": 1}))
    again = load(tmp_path / FILE)
    picture = torch.randn(2, 64, 64, 4)
    assert again.known == reader.known
    torch.testing.assert_close(again(picture).turn, reader(picture).turn, atol=5e-3, rtol=0)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"reader\.safetensors: not a readable reader"):
        load(tmp_path / FILE)
    with pytest.raises(ModelError, match="there is no reader here"):
        load(tmp_path / "nowhere" / FILE)


def test_training_learns_and_a_resumed_run_is_the_same(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {index: training.draw_shown(PLAN, index) for index in range(2)}  # two batches, over and over
    monkeypatch.setattr(training, "draw_shown", lambda plan, index: drawn[index % 2])
    whole, first = (training.Schooling(tmp_path / name, PLAN) for name in ("whole", "first"))
    for folder in (whole.folder, first.folder):
        folder.mkdir()
    losses = [whole.train_step() for _ in range(24)]
    assert sum(losses[-4:]) < sum(losses[:4]) - 2.0
    for _ in range(12):
        first.train_step()
    first.save()
    second = training.Schooling(first.folder, PLAN)
    second.restore()
    for _ in range(12):
        second.train_step()
    for name, value in whole.reader.state_dict().items():
        assert torch.equal(value, second.reader.state_dict()[name]), name


def test_the_command_trains_saves_and_refuses(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert begin(out, role=READER, threads=1, changes={"total": 16, "batch": 8}) == 0
    assert {"plan.json", "state.safetensors", "log.jsonl", FILE} <= {path.name for path in out.iterdir()}
    assert load(out / FILE).known == training.known()
    assert begin(out, role=READER, resume=True, changes={"total": 24}) == 0
    with pytest.raises(InputError, match="--resume"):
        begin(out, role=READER)
    (out / "plan.json").write_text('{"total": 8, "size": 3}')
    with pytest.raises(InputError, match=r"plan\.json: not a plan of a reader's training"):
        begin(out, role=READER, resume=True)
    with pytest.raises(InputError, match="nothing to resume"):
        begin(tmp_path / "other", role=READER, resume=True)
    with pytest.raises(RecipeError, match="--device cuda: the reader is trained on the CPU"):
        begin(tmp_path / "other", role=READER, device="cuda")
    with pytest.raises(RecipeError, match="--head-after: the reader has no such setting"):
        begin(tmp_path / "other", role=READER, changes={"head_after": 3})


def test_the_shipped_reader_reads_held_out_pictures() -> None:
    """Of 512 pictures of held-out instances and colourings; chance is 1 %, 1 % and 11 %. In other styles, too."""
    reader = load(SHIPPED)
    found = training.figures(reader, training.ReaderPlan(), batches=8)
    assert found["category"] > 0.97 and found["both_colours"] > 0.8
    assert found["degrees_off_median"] < 4 and found["within_20_degrees"] > 0.92
    strange = training.figures(reader, training.ReaderPlan(), batches=4, strange=True)
    assert strange["category"] > 0.9 and strange["lean_off_median"] < 6
    assert SHIPPED.stat().st_size < 4e6 and "MODEL_CARD.md" in {path.name for path in SHIPPED.parent.iterdir()}


def test_what_it_reads_is_what_novel_is_told() -> None:
    """A house seen from 70 degrees, given as if from the front: its views are asked for from where they really are."""
    frames, _ = scene_of("a green house with a red roof", orbit([70.0], 20.0, 3.2, 42.0), 64)
    alpha = frames.alpha[0]
    rgb = ((frames.rgb[0] - 0.7 * (1 - alpha)) / alpha.clamp(min=1e-3)).clamp(0, 1)
    given = Reference(rgb, alpha, orbit([0.0], 20.0, 3.2, 42.0))
    seen = read(load(SHIPPED), given)
    words, azimuth = seen.words, seen.azimuth_deg
    assert words == "green house with red roof" and abs(azimuth - 70) < 5
    guidance = ToyboxNovel(ToyboxNovel.Settings(dtype="float32"))
    blank = scene_of("a green house", orbit([90.0], 20.0, 3.2, 42.0), 64)[0]
    told = guidance.condition(Prompt("", image=given), orbit([90.0], 20.0, 3.2, 42.0), blank)["text"]
    sine, cosine = told.rows["camera"][0, :2].tolist()
    turned = math.degrees(math.atan2(sine, cosine)) - 90.0  # to the nearest of the sides that are tried
    assert abs(turned - 70) <= 10 and seen.sure
    # Who gave the picture knows better: another side, the same words.
    corrected = ToyboxNovel(ToyboxNovel.Settings(dtype="float32", side_deg=-90.0))
    told = corrected.condition(Prompt("", image=given), orbit([90.0], 20.0, 3.2, 42.0), blank)["text"]
    assert told.rows["camera"][0, :2].tolist() == pytest.approx([0.0, 1.0], abs=1e-4)  # 90 degrees on from -90


def nothing_known(seed: int = 0) -> Reference:
    """Blots with holes, of many colours: nothing of this world."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 4, 5, 5, generator=generator)
    blots = torch.nn.functional.interpolate(coarse, (96, 96), mode="bicubic", align_corners=True)[0].permute(1, 2, 0)
    return Reference(blots[..., :3].sigmoid(), (blots[..., 3:] > 0.1).float(), orbit([0.0], 20.0, 3.2, 42.0))


def test_of_what_it_does_not_know_it_says_so_and_names_nothing() -> None:
    guidance, given = ToyboxNovel(ToyboxNovel.Settings(dtype="float32")), nothing_known()
    assert sum(read(guidance.reader, nothing_known(seed)).sure for seed in range(12)) <= 2
    with pytest.warns(UserWarning, match=r"like nothing that the toybox prior knows.*image\.kind=NAME"):
        assert guidance.framing(Prompt("", image=given)) is None
    with pytest.warns(UserWarning, match="the picture is not named"):
        guidance.hear([Prompt("", image=given)])
    # Whoever gave it may say what it is; the world's names alone.
    named = replace(given, hints=Hints(side_deg=35.0, kind="hammer", colours=("red",)))
    with pytest.warns(UserWarning, match=r"taken for: red hammer with .*, seen from 35 degrees"):
        guidance.hear([Prompt("", image=named)])
    for hints, line in ((Hints(kind="corgi"), "image.kind: 'corgi'"), (Hints(colours=("mauve",)), "image.colours")):
        with pytest.raises(InputError, match=line):
            guidance.framing(Prompt("", image=replace(given, hints=hints)))
