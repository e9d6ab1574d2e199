# SPDX-License-Identifier: Apache-2.0
"""The prior's vocabulary: whatever the world says is understood, whatever it does not know is named."""

from __future__ import annotations

import pytest

from dreamlab.core.errors import InputError, ModelError
from dreamlab.toybox.caption import RELATIONS, Caption, singular
from dreamlab.toybox.colours import Finish
from dreamlab.toybox.grammar import PHRASINGS, say
from dreamlab.toybox.shapes import CATEGORIES
from guidance.toybox.words import NULL, START, Words

WORDS = Words.of_world()


@pytest.mark.parametrize("phrasing", PHRASINGS)
def test_every_object_in_every_phrasing_is_understood(phrasing: str) -> None:
    """Category, parts and colours survive as tokens; nothing is unknown."""
    for category in CATEGORIES.values():
        chosen = {part: Finish("red" if i == 0 else "cyan") for i, part in enumerate(category.nameable[:2])}
        reading = WORDS.read(say(Caption(category.name, chosen), phrasing))
        assert not reading.unknown, (category.name, reading)
        if (phrasing, category.name) == ("hyphened", "dice"):
            continue  # "cyan-dotted": the world reads "dotted" as the pattern
        wanted = {category.name, "red", *(["cyan"] if len(chosen) > 1 else []), *category.nameable[1:2]}
        assert {singular(word) for word in wanted} <= {singular(token) for token in reading.tokens}, reading


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A photo of the grey CUP!", ["gray", "mug"]),
        ("a white-stemmed red mushroom", ["white", "stem", "red", "mushroom"]),
        ("ice-cream with a pink cone", ["ice cream", "with", "pink", "cone"]),
        ("two-wheeled car, ", ["wheels", "car"]),
        ("front view of a duck", ["duck"]),
        ("a ball on top of a table", ["ball", "on", "table"]),
        ("a duck with", ["duck"]),
    ],
)
def test_spellings_become_tokens(text: str, tokens: list[str]) -> None:
    assert list(WORDS.read(text).tokens) == tokens


def test_unknown_words_are_named_with_the_nearest() -> None:
    reading = WORDS.read("a red muzhrom with glitter")
    assert reading.tokens == ("red",)
    assert "mushroom" in reading.unknown["muzhrom"] and "glitter" in reading.unknown
    assert "'muzhrom' (did you mean mushroom" in reading.report()
    assert WORDS.read("a red mushroom").report() == ""


def test_untrained_words_count_as_unknown() -> None:
    words = Words.of_world(untrained=RELATIONS)
    reading = words.read("a ball behind a table")
    assert list(reading.unknown) == ["behind"] and reading.tokens == ("ball", "table")
    assert words.ids == WORDS.ids


def test_ids_and_limits() -> None:
    ids = WORDS.encode(WORDS.read("a red mug"), 8)
    assert ids[0] == START and [WORDS.tokens[i] for i in ids[1:]] == ["red", "mug"]
    assert WORDS.encode(WORDS.read("a small toy"), 8) == [NULL]
    with pytest.raises(InputError, match="9 words"):
        WORDS.encode(WORDS.read("red " * 9), 8)


def test_stored_and_grown() -> None:
    assert Words.from_json(WORDS.to_json()) == WORDS
    with pytest.raises(ModelError, match=r"vocab\.json"):
        Words.from_json("{}")
    old = Words(WORDS.tokens[:20], {"mug": "red"}, frozenset({"mushroom"}))
    new = old.grown(WORDS)
    assert new.tokens[:20] == old.tokens and set(new.tokens) == set(WORDS.tokens)
    assert new.read("a red mushroom, a mug").tokens == WORDS.read("a red mushroom, a mug").tokens


def test_advice_is_of_what_is_missing() -> None:
    """An object first: `cover`, a part of a book, is no answer to `rover`; it is where an object was named."""
    words = Words.of_world()
    assert "cover" not in words.read("a rover").report()
    read = [words.read(text).unknown for text in ("a rover", "a red muzhrom", "a planter")]
    near = {word for unknown in read for advice in unknown.values() for word in advice}
    assert near and all(words.aliases.get(word, word) in CATEGORIES for word in near)
    assert words.read("a book with a red covr").unknown["covr"][0] == "cover"
