# SPDX-License-Identifier: Apache-2.0
"""What a prompt asks of a maker of single still objects that it will not get: said before a run, not found after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dreamlab.core.cards import WordsHeard
from dreamlab.toybox.caption import ALIASES, CATEGORY_WORDS, EAR, FILLERS, PART_WORDS, RELATIONS, Caption, named, parse
from dreamlab.toybox.colours import COLOURS, MATERIALS, PATTERNS
from dreamlab.toybox.grammar import article
from dreamlab.toybox.layout import uncounted
from dreamlab.toybox.motion import ACTIONS, can
from dreamlab.toybox.places import OPEN
from dreamlab.toybox.shapes import CATEGORIES, finishes

EXACT = "the exact world shows it: --recipe oracle"
BOTH = "--recipe toybox makes each by its own words, --recipe oracle the exact world's"
MOVING = "--recipe video makes it move"
FOUND = "one object by --recipe toybox gets it at the end"


def hearing(text: str, moves: bool) -> WordsHeard:
    """Of a guidance that is the world itself: with several objects, patterns, and every part as it is asked for."""
    return WordsHeard(read=EAR.hear(text).read, unmade=unmade(text, moves, several=True, exact=True))


def unmade(text: str, moves: bool = False, several: bool = False, exact: bool = False) -> tuple[str, ...]:
    """A line for every part, object, pattern, material, motion, number and look that is asked for and cannot be
    made."""
    return (*EAR.hear(text).lacking, *dict.fromkeys(_unmade(text, moves, several, exact)))


def miscounted(text: str, each: bool) -> tuple[str, ...]:
    """A line for every number of something else than an object; for every number, where not each object is made."""
    spare = uncounted(text)
    lines = [f"{word!r}: one is made" for word in spare]
    if not each:
        counted = [number.word for number in EAR.hear(text).numbers if number.count > 1 and number.word not in spare]
        lines += [f"{word!r}: one is made; --recipe toybox makes each" for word in counted]
    return tuple(dict.fromkeys(lines))


def moved(heard: WordsHeard) -> WordsHeard:
    """What a maker of still objects hears, where another makes its object move."""
    return replace(heard, unmade=tuple(line for line in heard.unmade if not line.endswith(MOVING)))


def dressed(heard: WordsHeard) -> WordsHeard:
    """What a maker of pictures hears, where a surface gets its material at the end."""
    return replace(heard, unmade=tuple(line for line in heard.unmade if not line.endswith(FOUND)))


def _unmade(text: str, moves: bool, several: bool, exact: bool) -> Iterator[str]:
    words = [word.replace("_", " ") for word in EAR.hear(text).text.split()]
    try:
        asked = parse(text)
    except ValueError:
        if any(word not in FILLERS for word in words):
            yield _no_object(words)
        return
    yield from miscounted(text, each=False)
    captions = [asked] if asked.other is None else [asked, asked.other]
    for one in captions[: 2 if several else 1]:
        yield from _of_one(one, moves)
        if not exact:
            yield from _beyond_the_prior(one)
    if several and asked.relation == "in" and asked.other and asked.other.category not in OPEN:
        yield f"'in': a {asked.other.category} is not open (open are: {', '.join(OPEN)}); it stands beside it"
    if len(captions) > 1 and not several:
        yield f"one object is made, the {asked.category}; {BOTH}"
    elif not any(one.unknown for one in captions):
        yield from _lost(words, captions)


def _no_object(words: list[str]) -> str:
    """A part alone is of something."""
    for word in words:
        if owners := [name for name, category in CATEGORIES.items() if PART_WORDS.get(word) in category.parts]:
            return f"it names no object, and {word!r} is a part of {', '.join(owners[:5])}: say of which"
    return "it names no object: what comes is whatever the other words bring to mind (dreamlab list objects)"


def _of_one(asked: Caption, moves: bool) -> Iterator[str]:
    category = CATEGORIES[asked.category]
    for word in asked.unknown:
        if word in CATEGORY_WORDS:
            yield (
                f"{word!r}: one object is made, the {category.name}, and it has no {word}; as an object beside it: "
                f'--recipe toybox "{article(category.name)} and {article(CATEGORY_WORDS[word])}"'
            )
        elif ALIASES.get(word) in RELATIONS and len(asked.unknown) == 1:
            yield f"{word!r}: it names no second object"
        elif word in PART_WORDS:
            yield f"{word!r}: a {category.name} has none here; its parts are {', '.join(category.nameable)}"
    if asked.action and not moves:
        yield f"{asked.action!r}: it stands still; {MOVING}"
    elif asked.action and not can(category, asked.action):
        able = ", ".join(name for name in ACTIONS if can(category, name))
        yield f"{asked.action!r}: a {category.name} cannot; it can be {able}"


def _beyond_the_prior(asked: Caption) -> Iterator[str]:
    """What the embedded prior knows by name and draws badly (docs/toybox.md)."""
    usual = finishes(CATEGORIES[asked.category], {})
    for part, finish in asked.finishes.items():
        if finish.pattern != "plain":
            yield f"{finish.pattern!r}: the pattern comes blotched or not at all; {EXACT}"
        if finish.material != usual[part].material:
            yield f"{finish.material!r}: its surface stays matte; {FOUND}"


def _lost(words: list[str], captions: list[Caption]) -> Iterator[str]:
    """Adjectives that no part has taken: a second colour of what has one, a second pattern."""
    taken = {one.action for one in captions}
    for one in captions:
        for finish in one.finishes.values():
            taken |= {finish.colour, finish.second, finish.pattern, finish.material}
            taken |= {"glossy"} if finish.material == "metal" else set()  # "shiny metal" is one look
    parts = {part for one in captions for part in CATEGORIES[one.category].parts}
    for word in dict.fromkeys(named(word) for word in words if PART_WORDS.get(word) not in parts):
        if (word in COLOURS or word in PATTERNS or word in MATERIALS or word in ACTIONS) and word not in taken:
            yield f"{word!r} is left out: another word has its place already"
