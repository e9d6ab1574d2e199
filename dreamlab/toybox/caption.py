# SPDX-License-Identifier: Apache-2.0
"""Reading captions: which objects, which colours on which parts, how they stand and what they do.

A caption is adjectives and nouns. An adjective (colour, pattern, material) belongs to the next noun (a category or
a part), or, when a comma, "with", "and" or the end comes first, to the noun before it:

    a red mushroom with a white stem / a white-stemmed red mushroom / mushroom, red, stem white /
    a mushroom that is red, with a stem that is white / a red and white striped ball / a ball with white spots

Two nouns that are categories make a scene, joined by a relation ("a blue cube on a green table"); an action word
("a spinning windmill", "a duck nodding") makes it move. Words outside the vocabulary are kept in `unknown` with the
nearest known ones; nothing is dropped in silence.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from dreamlab.toybox.category import Category, draft
from dreamlab.toybox.colours import COLOURS, MATERIALS, PATTERNS, Finish
from dreamlab.toybox.hearing import Ear, nearest_by_sense
from dreamlab.toybox.motion import animate
from dreamlab.toybox.program import Program
from dreamlab.toybox.shapes import CATEGORIES, finishes
from dreamlab.toybox.stand import arrange

RELATIONS: dict[str, tuple[str, ...]] = {
    "on": ("on", "on top of", "upon", "sitting on", "standing on"),
    "next to": ("next to", "beside", "by"),
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "in front of": ("in front of", "before"),
    "behind": ("behind",),
    "under": ("under", "underneath", "beneath", "below"),
    "above": ("above", "over"),
    "in": ("in", "inside", "inside of", "within"),
}
ACTIONS: dict[str, tuple[str, ...]] = {
    "spinning": ("spinning", "rotating", "turning", "twirling"),
    "bouncing": ("bouncing", "jumping", "hopping"),
    "nodding": ("nodding",),
    "rocking": ("rocking", "swaying", "tilting"),
    "waving": ("waving", "flapping"),
    "rolling": ("rolling", "driving"),
}
SYNONYMS = {"grey": "gray", "violet": "purple", "turquoise": "cyan", "teal": "cyan"}
SYNONYMS |= {"stripes": "striped", "stripy": "striped", "stripe": "striped", "spots": "spotted", "dots": "spotted"}
SYNONYMS |= {"dotted": "spotted", "checks": "checked", "checkered": "checked", "chequered": "checked"}
SYNONYMS |= {"shiny": "glossy", "metallic": "metal"}
_FILLERS = (
    "a an the of with and its it is are that whose has having in some this which photo picture image render rendering "
    "3d model toy object small little nice cute coloured colored colour color one"
)
FILLERS = frozenset(_FILLERS.split())
BREAKS = frozenset([",", "with", "and", "that", "whose", "which", ";", "."])


@dataclass(frozen=True)
class Caption:
    """What a prompt asks for. `finishes` holds the parts it names; the others keep their usual colours."""

    category: str
    finishes: dict[str, Finish] = field(default_factory=dict)
    relation: str | None = None
    other: Caption | None = None  # the object this one stands on, beside, ...
    action: str | None = None
    unknown: dict[str, tuple[str, ...]] = field(default_factory=dict)  # word -> nearest known words

    @property
    def colours(self) -> dict[str, str]:
        """Colour by part, of every part of the object."""
        return {part: f.colour for part, f in finishes(CATEGORIES[self.category], self.finishes).items()}

    def report(self) -> str:
        """One line that names the words nobody knows, "" when there are none."""
        told = [f"{word!r}" + (f" (nearest: {', '.join(near)})" if near else "") for word, near in self.unknown.items()]
        return f"words the toy world does not know: {'; '.join(told)}" if told else ""


def named(word: str) -> str:
    """A known word as the world calls it."""
    return ALIASES.get(word, SYNONYMS.get(word, word))


def singular(word: str) -> str:
    if word.endswith("leaves"):
        return "leaf"
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us")) else word


_DOUBLING = re.compile(r"^[^aeiou]*[aeiou][bdgmnprt]$")


def adjective(part: str) -> str:
    """ "stem" -> "stemmed", "wheels" -> "wheeled", "handle" -> "handled"."""
    word = singular(part)
    if word.endswith("e"):
        return word + "d"
    return word + word[-1] + "ed" if _DOUBLING.match(word) else word + "ed"


def _category_words() -> dict[str, str]:
    words = {}
    for category in CATEGORIES.values():
        for word in (category.name, *category.words):
            words[word] = category.name
            words[_plural(word)] = category.name
    return words


def _plural(word: str) -> str:
    return word + ("es" if word.endswith(("s", "sh", "ch", "x")) else "s")


def part_words(category: Category) -> dict[str, str]:
    return {form: part for part in category.parts for form in (part, singular(part))}


CATEGORY_WORDS = _category_words()
PLURALS = {_plural(word): word for c in CATEGORIES.values() for word in (c.name, *c.words)}
ALIASES = {phrase: name for table in (RELATIONS, ACTIONS) for name, group in table.items() for phrase in group}
PART_WORDS = {form: part for c in CATEGORIES.values() for form, part in part_words(c).items()}
PART_WORDS |= {adjective(part): part for c in CATEGORIES.values() for part in c.parts}
VOCABULARY = tuple(sorted({*COLOURS, *PATTERNS, *MATERIALS, *CATEGORY_WORDS, *PART_WORDS, *ALIASES, *SYNONYMS}))


EAR = Ear((*VOCABULARY, *FILLERS, *BREAKS), PART_WORDS.keys() - CATEGORY_WORDS.keys())


def _tokens(text: str) -> list[str]:
    """Words of the world, with names of several words in one piece and "white-stemmed" as "white", "stemmed"."""
    return [word.replace("_", " ") for word in EAR.hear(text).text.split()]


@dataclass
class _Reader:
    """Gathers adjectives until a noun takes them."""

    category: Category
    looks: dict[str, dict[str, str]] = field(default_factory=dict)  # part -> words by kind
    pending: list[tuple[str, str]] = field(default_factory=list)
    last: str | None = None

    def give(self, part: str, adjectives: list[tuple[str, str]]) -> None:
        look = self.looks.setdefault(part, {})
        for kind, word in adjectives:
            if kind == "colour" and look.get("colour", word) != word:
                if "pattern" in look:  # "white-spotted red": the colour after the pattern is the ground
                    look["second"], look["colour"] = look["colour"], word
                    continue
                kind = "next"
            look[kind] = word

    def noun(self, part: str) -> None:
        self.give(part, self.pending)
        self.pending, self.last = [], part

    def flush(self) -> None:
        """A break: adjectives without a noun after them go to the noun before."""
        if self.last is not None:
            self.give(self.last, self.pending)
            self.pending = []

    def finish(self) -> dict[str, Finish]:
        self.flush()
        spare = [look.pop("next") for look in self.looks.values() if "next" in look]
        if spare and len(self.category.nameable) > 1:  # "a red and white mushroom"
            self.looks.setdefault(self.category.nameable[1], {}).setdefault("colour", spare[0])
        usual = finishes(self.category, {})
        return {part: _look(usual[part], look) for part, look in self.looks.items() if look}


def _look(usual: Finish, words: dict[str, str]) -> Finish:
    colour = words.get("colour", usual.colour)
    second = words.get("second", "black" if colour == "white" else "white")
    pattern, material = words.get("pattern", usual.pattern), words.get("material", usual.material)
    return replace(usual, colour=colour, pattern=pattern, second=second, material=material)


def parse(prompt: str) -> Caption:
    """Read a prompt; raises ValueError when it names no category, with the nearest names."""
    tokens = _tokens(prompt)
    nouns = [i for i, word in enumerate(tokens) if word in CATEGORY_WORDS]
    if not nouns:
        near = [n for word in tokens if word not in FILLERS for n in nearest(word, tuple(CATEGORY_WORDS))]
        hint = f"did you mean {', '.join(dict.fromkeys(near))}?" if near else f"known: {', '.join(CATEGORIES)}"
        raise ValueError(f"no object of the toy world in {prompt!r}; {hint}")
    joint = _find_relation(tokens, nouns)
    if joint is None:
        return _parse_object(tokens, CATEGORY_WORDS[tokens[nouns[0]]])
    before, after = tokens[:joint], tokens[joint + 1 :]
    first = _parse_object(before, CATEGORY_WORDS[tokens[nouns[0]]])
    ground = next(i for i in nouns if i > joint)
    second = _parse_object(after, CATEGORY_WORDS[tokens[ground]])
    unknown = {**first.unknown, **second.unknown}
    return replace(first, relation=ALIASES.get(tokens[joint], "next to"), other=second, unknown=unknown)


def kind(word: str) -> str:
    """The object that a word names, or would be taken for: one that is not of the world is still an object."""
    strange = "" if word in VOCABULARY else nearest_by_sense(word) or ""
    return CATEGORY_WORDS.get(word, strange)


def relation_at(tokens: Sequence[str], i: int, parts: Collection[str] = ()) -> str:
    """The relation that a word is to an object after it, that has no such part; "in red" is none, nor a mug's
    "red inside"."""
    name = ALIASES.get(tokens[i], "")
    if name != "in":
        return name if name in RELATIONS else ""
    after = (word for word in tokens[i + 1 :] if word == "it" or kind(word) or word in PART_WORDS or word in BREAKS)
    noun = next(after, ",")
    return name if noun not in parts and (noun == "it" or kind(noun)) else ""


def _find_relation(tokens: list[str], nouns: list[int]) -> int | None:
    """Where the words that relate two categories stand; a bare "and" before a second category means "next to"."""
    between = range(nouns[0] + 1, nouns[-1])
    parts = part_words(CATEGORIES[CATEGORY_WORDS[tokens[nouns[0]]]])  # "a clock with a white face and yellow bells"
    for i in between:
        if relation_at(tokens, i, parts):
            return i
    others = [
        i for i in nouns[1:] if tokens[i] not in parts and CATEGORY_WORDS[tokens[i]] != CATEGORY_WORDS[tokens[nouns[0]]]
    ]
    return max((i for i in between if tokens[i] == "and" and others and i < others[0]), default=None)


def _parse_object(tokens: list[str], name: str) -> Caption:
    category = CATEGORIES[name]
    parts, reader = part_words(category), _Reader(category)
    adjectives = {adjective(part): part for part in category.parts}
    unknown: dict[str, tuple[str, ...]] = {}
    action = None
    for i, token in enumerate(tokens):
        word = token if token in parts or token in adjectives else SYNONYMS.get(token, token)
        kind = next(
            (k for k, t in (("colour", COLOURS), ("pattern", PATTERNS), ("material", MATERIALS)) if word in t), None
        )
        if CATEGORY_WORDS.get(word) == name and word not in parts:
            reader.noun(category.main)
        elif kind == "pattern":
            _read_pattern(reader, word)
        elif kind:
            reader.pending.append((kind, word))
        elif word in adjectives:
            wanted = reader.pending[-1:]
            reader.pending = reader.pending[:-1]
            reader.give(adjectives[word], wanted)
        elif word in parts:
            reader.noun(parts[word])
        elif ALIASES.get(word) in ACTIONS:
            action = ALIASES[word]
        elif word in BREAKS:
            if not _joins_colours(tokens, i):
                reader.flush()
        elif word not in FILLERS:
            reader.pending = []  # they described what nobody knows
            unknown[word] = category.nameable if word in PART_WORDS else nearest(word, VOCABULARY)
    return Caption(name, reader.finish(), action=action, unknown=unknown)


def _joins_colours(tokens: list[str], i: int) -> bool:
    """Whether the "and" at `i` stands in "blue and white striped"."""
    around = [SYNONYMS.get(word, word) for word in tokens[max(i - 1, 0) : i + 3]]
    return len(around) == 4 and around[0] in COLOURS and around[2] in COLOURS and around[3] in PATTERNS


def _read_pattern(reader: _Reader, word: str) -> None:
    """ "striped ball", "ball with white stripes", "white-spotted ball", "red and white striped ball"."""
    colours = [w for kind, w in reader.pending if kind == "colour"]
    if reader.last is not None and len(colours) <= 1:
        extra = [("second", c) for c in colours]
        reader.pending = [p for p in reader.pending if p[0] != "colour"]
        reader.give(reader.last, [("pattern", word), *extra])
    elif len(colours) == 2:
        reader.pending = [p for p in reader.pending if p[0] != "colour"]
        reader.pending += [("colour", colours[0]), ("second", colours[1]), ("pattern", word)]
    else:
        reader.pending.append(("pattern", word))


def nearest(word: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """What of the world a word is nearest to: by sense where somebody thought of it, else by spelling."""
    if (sense := nearest_by_sense(word)) is not None:
        return (sense,)
    # Slips of the pen keep the first letter; and what is done is not what rhymes with it (chasing, icing).
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.8 if word.endswith("ing") else 0.65)
    return tuple(each for each in close if each[0] == word[0])


def programs_for(caption: Caption, instance_seed: int = 0, times: Sequence[float] | None = None) -> Program:
    """The program of what a caption asks for: a batch of one, or of `times` (in [0, 1]) when it moves."""
    category = CATEGORIES[caption.category]
    if caption.relation and caption.other:
        first = draft(category, instance_seed).pack(finishes(category, caption.finishes))
        return arrange(first, caption.relation, programs_for(caption.other, instance_seed))
    if caption.action:
        return animate(category, caption.action, times or [0.0], caption.finishes, instance_seed)
    return draft(category, instance_seed).pack(finishes(category, caption.finishes))
