# SPDX-License-Identifier: Apache-2.0
"""Training batches: nothing held out is ever drawn, everything sayable is, and a batch is a function of its index."""

from __future__ import annotations

import dataclasses
import random

import torch

from dreamlab.core.cameras import OrbitSettings
from dreamlab.toybox.caption import BREAKS, parse, programs_for
from dreamlab.toybox.grammar import PHRASINGS, Said, look_of, say
from dreamlab.toybox.shapes import CATEGORIES
from dreamlab.toybox.split import held_out_combination, held_out_instance, phrasings
from dreamlab.toybox.training.data import (
    UNTRAINED,
    Drawn,
    ahead,
    draw_background,
    draw_batch,
    draw_caption,
    program_of,
    vocabulary,
)
from dreamlab.toybox.training.plan import Plan
from dreamlab.toybox.training.roles import VIEWS
from guidance.toybox.net import NetSettings
from guidance.toybox.words import SPECIAL

WORDS = vocabulary()
PLAN = Plan(NetSettings(len(WORDS.tokens)), batch=6, views=3)


def main_and_second(drawn: Drawn) -> tuple[str, str | None]:
    """The colours that the object really has, named or usual."""
    parts, colours = CATEGORIES[drawn.caption.category].nameable, drawn.caption.colours
    return colours[parts[0]], colours[parts[1]] if len(parts) > 1 else None


def sentences(drawn: Drawn, phrasing: str) -> list[str]:
    """What `phrasing` makes of the caption: the main part's look before the object, or the part by its name."""
    parts = tuple((part, look_of(finish)) for part, finish in drawn.caption.finishes.items())
    return [say(drawn.caption, phrasing), PHRASINGS[phrasing](Said(drawn.caption.category, "", parts))]


def test_nothing_held_out_is_drawn_and_every_word_is() -> None:
    """20 000 captions; the split is asked about the colours that the drawn object has."""
    rng, said = random.Random(0), set()
    for i in range(20_000):
        drawn = draw_caption(rng, PLAN)
        name = drawn.caption.category
        assert not held_out_combination(name, *main_and_second(drawn)), drawn
        assert not held_out_instance(name, drawn.instance), drawn
        reading = WORDS.read(drawn.text)
        assert not reading.unknown and len(reading.tokens) < PLAN.net.longest, drawn
        said |= set(reading.tokens)
        if i < 1_500:  # the sentence: one that training phrasings say, with the main part as the object or by name
            trained = {text for phrasing in phrasings()[0] for text in sentences(drawn, phrasing)}
            held = {text for phrasing in phrasings()[1] for text in sentences(drawn, phrasing)} - trained
            assert drawn.text in trained and drawn.text not in held
    assert set(WORDS.tokens) - said <= {*SPECIAL, *BREAKS, *UNTRAINED}


def test_the_held_out_side_is_held_out() -> None:
    rng = random.Random(1)
    for _ in range(100):
        drawn = draw_caption(rng, PLAN, held_out=True)
        assert held_out_combination(drawn.caption.category, *main_and_second(drawn))
        assert held_out_instance(drawn.caption.category, drawn.instance)
        assert drawn.text in {text for phrasing in phrasings()[1] for text in sentences(drawn, phrasing)}


def test_captions_mean_what_is_drawn() -> None:
    """The world's own parser reads the colours of the drawn object back, and its programs have those finishes."""
    rng = random.Random(2)
    plain = dataclasses.replace(
        PLAN, share=PLAN.share | {"pattern": 0.0}
    )  # "red and white" are two colours of one part
    for _ in range(300):
        drawn = draw_caption(rng, plain)
        assert parse(drawn.text).colours == drawn.caption.colours, drawn.text
    still = [d for d in (draw_caption(rng, PLAN) for _ in range(40)) if not d.caption.action]
    for drawn in still:
        ours, theirs = program_of(drawn), programs_for(drawn.caption, drawn.instance)
        assert torch.equal(ours.rows, theirs.rows) and torch.equal(ours.parts, theirs.parts)


def test_a_batch_is_a_function_of_its_index_in_a_thread_or_not() -> None:
    with ahead(PLAN, WORDS, 5, 5 * PLAN.batch, "cpu") as batches:
        drawn = [next(batches) for _ in range(2)]
    for index, batch in zip((5, 6), drawn, strict=True):
        for name, value in vars(draw_batch(PLAN, WORDS, index, PLAN.net.half)).items():
            other = getattr(batch, name)
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name
    assert not torch.equal(drawn[0].rgb, drawn[1].rgb)


def test_batches_hold_pictures_weights_words_and_cameras() -> None:
    batch = draw_batch(PLAN, WORDS, 0, 24)
    assert batch.rgb.shape == (6, 24, 24, 3) and batch.weight.shape == (6, 24, 24)
    assert batch.rgb.min() >= 0 and batch.rgb.max() <= 1 + 1e-6
    assert torch.equal(batch.ids[0], batch.ids[2]) and not torch.equal(batch.ids[0], batch.ids[3])
    corner = batch.weight[:, 0, 0]
    assert torch.equal(corner, torch.ones(6))  # background
    assert batch.weight.max() == 2 + PLAN.second_weight  # wholly covered by another part than the main one
    plain = draw_batch(dataclasses.replace(PLAN, second_weight=0.0), WORDS, 0, 24)
    assert plain.weight.max() == 2 and torch.equal(plain.rgb, batch.rgb)
    assert (plain.weight > 1).any((1, 2)).all()  # every picture shows something
    even = draw_batch(PLAN, WORDS, 0, 24, weighted=False)
    assert torch.equal(even.weight, torch.ones(6, 24, 24)) and torch.equal(even.rgb, batch.rgb)


def test_cameras_cover_those_of_a_recipe() -> None:
    usual = OrbitSettings()
    for name in ("distance", "fovy_deg", "elevation_deg"):
        (low, high), (usual_low, usual_high) = getattr(VIEWS, name), getattr(usual, name)
        assert low < usual_low and usual_high < high, name


def test_backgrounds_are_solid_and_of_every_kind() -> None:
    colour = draw_background(4_000, torch.Generator().manual_seed(0))
    white = (colour == 1).all(1).float().mean().item()
    gray = ((colour.amax(1) == colour.amin(1)) & (colour[:, 0] < 1)).float().mean().item()
    assert abs(white - 0.1) < 0.02 and abs(gray - 0.2) < 0.03
