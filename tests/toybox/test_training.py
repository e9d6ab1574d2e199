# SPDX-License-Identifier: Apache-2.0
"""The training loop on a network of a few thousand weights: it learns, and stopping and resuming changes no bit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from dreamlab.core.cameras import turntable
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.noise import make_table
from dreamlab.toybox.split import held_out_combination
from dreamlab.toybox.training.data import Batch, draw_batch, vocabulary
from dreamlab.toybox.training.loss import Chance, errors
from dreamlab.toybox.training.plan import Plan
from dreamlab.toybox.training.sample import held_out_prompts, sample
from dreamlab.toybox.training.trainer import STATE, Folder, Trainer, train
from guidance.toybox.net import NetSettings
from guidance.toybox.prior import Toybox
from guidance.toybox.words import Words

WORDS = vocabulary()
NET = NetSettings(len(WORDS.tokens), size=16, fine=8, wide=16, middle=24, core=48, blocks=1, words=24, word_blocks=1)
PLAN = Plan(NET, batch=4, views=2, warmup=8, head_after=12, total=10_000)


def steps(trainer: Trainer, count: int) -> None:
    for _ in range(count):
        index = trainer.step
        size = trainer.plan.size_at(trainer.seen, index)
        trainer.train_step(draw_batch(trainer.plan, trainer.words, index, size))


def test_resuming_changes_no_bit(tmp_path: Path) -> None:
    """Six steps, the head joining after three, against four, a save, a new process's worth of objects, and two."""
    whole = Trainer(PLAN, WORDS)
    steps(whole, 6)
    first = Trainer(PLAN, WORDS)
    steps(first, 4)
    folder = Folder(tmp_path)
    folder.start(PLAN)
    folder.save(first)
    plan, words = folder.resumed()
    assert plan == PLAN and words == WORDS
    second = Trainer(plan, words)
    folder.restore(second)
    steps(second, 2)
    assert second.seen == whole.seen
    ours, theirs = second.state(), whole.state()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    folder.save(second)
    (tmp_path / "whole").mkdir()
    Folder(tmp_path / "whole").save(whole)
    assert (tmp_path / STATE).read_bytes() == (tmp_path / "whole" / STATE).read_bytes()


def test_the_loop_saves_logs_and_stops_when_told(tmp_path: Path) -> None:
    folder, trainer = Folder(tmp_path), Trainer(PLAN, WORDS)
    folder.start(PLAN)
    train(trainer, folder, 1.0, lambda: trainer.step >= 2)
    assert trainer.step == 2
    again = Trainer(*folder.resumed(total=12))
    folder.restore(again)
    train(again, folder, 1.0, lambda: False)  # to its total, then one look at what it has learnt
    assert again.seen == 12
    assert [json.loads(line)["images"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [12]
    assert len(list((tmp_path / "sheets").glob("*.png"))) == 1
    prior = Toybox(Toybox.Settings(weights=str(tmp_path / "prior")))
    assert prior.size == 16 and prior.words == WORDS


def test_words_that_the_world_has_learnt_since_join_a_resumed_run(tmp_path: Path) -> None:
    old = Words(WORDS.tokens[:-5], {}, WORDS.fillers)
    plan = dataclasses.replace(PLAN, net=dataclasses.replace(NET, vocabulary=len(old.tokens)))
    trainer, folder = Trainer(plan, old), Folder(tmp_path)
    steps_with = draw_batch(plan, WORDS, 0, 8)
    trainer.train_step(dataclasses.replace(steps_with, ids=steps_with.ids.clamp(max=len(old.tokens) - 1)))
    folder.start(plan)
    folder.save(trainer)
    grown = Trainer(*folder.resumed())
    folder.restore(grown)
    assert grown.words.tokens == WORDS.tokens
    table = grown.net.encoder.table.weight
    assert torch.equal(table[:-5], trainer.net.encoder.table.weight) and table[-5:].abs().amin() > 0
    steps(grown, 1)


def test_a_small_network_learns_eight_pictures_by_heart() -> None:
    """In the noisier half, where only words and cameras tell pictures apart; with those exchanged it is lost."""
    changes = {"batch": 8, "views": 1, "warmup": 80, "rate": 5e-3, "head_after": 10**6, "total": 10**6}
    trainer = Trainer(dataclasses.replace(PLAN, **changes, drop_text=0.0, drop_camera=0.0), WORDS)
    batch = draw_batch(trainer.plan, WORDS, 0, 8)
    swapped = dataclasses.replace(batch, ids=batch.ids.roll(1, 0), camera=batch.camera.roll(1, 0))
    chance = trainer.chance(batch, "fixed", trainer.plan)

    def error(of: Batch) -> float:
        with torch.no_grad():
            return errors(trainer.net, trainer.table, of, chance)[0][chance.t_index > 500].mean().item()

    start = error(batch)
    for _ in range(200):
        trainer.train_step(batch)
    assert error(batch) < 0.25 * start
    assert error(swapped) > 3 * error(batch)


def test_dropping_text_and_camera_happens_as_often_as_told() -> None:
    generator = torch.Generator().manual_seed(0)
    plan = dataclasses.replace(PLAN, drop_camera=0.3, tilt=1.0)
    chance = Chance.draw(torch.Size([4_000, 1, 1, 3]), 1000, plan, generator)
    assert abs(chance.no_text.float().mean().item() - 0.1) < 0.02
    assert abs(chance.no_camera.float().mean().item() - 0.3) < 0.03
    both = (chance.no_text & chance.no_camera).float().mean().item()
    assert abs(both - 0.03) < 0.01  # independent
    assert torch.equal(chance.t_index.sort().values // 250, torch.arange(4_000) // 1000)  # stratified
    tilted = Chance.draw(torch.Size([4_000, 1, 1, 3]), 1000, dataclasses.replace(PLAN, tilt=0.5), generator)
    assert torch.equal((tilted.t_index < 500).sum(), torch.tensor(1_000))  # t = sqrt(u) lies below 1/2 for a quarter


def test_a_dropped_caption_is_the_null_caption() -> None:
    """The error of a picture without text depends on no word, without camera on no camera."""
    trainer = Trainer(PLAN, WORDS)
    steps(trainer, 3)
    batch = draw_batch(PLAN, WORDS, 7, 16)
    other = Batch(batch.rgb, batch.weight, batch.ids.flip(0), torch.randn_like(batch.camera), batch.shown, batch.graded)
    chance = trainer.chance(batch, 0, PLAN)
    blind = dataclasses.replace(chance, no_text=torch.ones(4).bool(), no_camera=torch.ones(4).bool())
    seeing = dataclasses.replace(chance, no_text=torch.zeros(4).bool(), no_camera=torch.zeros(4).bool())
    with torch.no_grad():
        first, second = (errors(trainer.net, trainer.table, one, blind)[0] for one in (batch, other))
        assert torch.equal(first, second)
        first, second = (errors(trainer.net, trainer.table, one, seeing)[0] for one in (batch, other))
        assert not torch.equal(first, second)


def test_rate_and_size_over_a_run() -> None:
    plan = dataclasses.replace(PLAN, rate=1.0, warmup=100, total=1_000, cooldown=0.5, even=0.4, head_after=400)
    rates = [plan.rate_at(seen) for seen in (0, 96, 300, 500, 750, 1_000)]
    assert rates == pytest.approx([0.04, 1.0, 1.0, 1.0, 0.5, 0.0])
    assert [plan.weighted_at(seen) for seen in (0, 599, 600, 999)] == [True, True, False, False]
    assert [plan.size_at(seen, 0) for seen in (0, 399, 400)] == [8, 8, 16]
    assert [plan.size_at(0, step) for step in range(16)] == [*[8] * 7, 16] * 2
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(RecipeError, match="plan"):
        Plan.from_json("{}")


def test_probes_are_held_out_and_sampling_is_repeatable() -> None:
    for prompt, name in zip(held_out_prompts(("mug", "house")), ("mug", "house"), strict=True):
        main, _, _, second, _ = prompt.split()
        assert held_out_combination(name, main, second)
    guidance = Trainer(PLAN, WORDS).guidance("image")
    pictures = [sample(guidance, ["a red mug", "a cat"], turntable(2), 3.0, 4, seed) for seed in (0, 0, 1)]
    assert pictures[0].shape == (2, 16, 16, 3) and torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])
    assert make_table("cosine").alpha_bar.shape == guidance.table.alpha_bar.shape


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        Folder(tmp_path).resumed()
