# SPDX-License-Identifier: Apache-2.0
"""A person's words before the world reads them: `Ear` turns everyday ones into the world's and says what it changed.

Three things can happen to a word that is not of the world (`senses.toml`). It is one of its words by another name
(automobile, grey; plurals, slips of the pen): it is read so. It asks for more than the world has (crimson, plaid, two,
wooden, running, without): the nearest is made, and that is said. It is something else (corgi): it stays unknown, with
what is nearest by sense (dog), where spelling would offer a house for a horse.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from dreamlab.toybox.colours import COLOURS

TABLES = ("same", "shades", "looks", "substances", "slips", "near", "motions", "numbers")
SETS = ("styles", "quiet", "tints", "negations")
LEAST = 5  # letters from which a slip of the pen is looked for
VOWELS = frozenset("aeiouy")
CLAUSE = frozenset([",", ";", ".", "with", "and", "but", "that", "whose", "which"])  # where what is denied ends
REMEMBERED = 4096  # texts
PRETRAINED = "a pretrained model may: --recipe paper/sds"


@dataclass(frozen=True)
class Number:
    """A number as it was written, before which word of the text it stood, and how many it asks for."""

    word: str
    at: int
    count: int


@dataclass(frozen=True)
class Overheard:
    """A text in words of the world, as far as it is."""

    text: str
    read: tuple[str, ...] = ()  # what was read as something: a slip of the pen
    lacking: tuple[str, ...] = ()  # what was asked and is not made as asked: a shade, a style
    numbers: tuple[Number, ...] = ()  # but those of parts, which are as many as they are


@dataclass(frozen=True)
class Senses:
    """`senses.toml`: tables of word -> word of the world, and sets of words."""

    same: Mapping[str, str]
    shades: Mapping[str, str]
    looks: Mapping[str, str]
    substances: Mapping[str, str]
    slips: Mapping[str, str]
    near: Mapping[str, str]
    motions: Mapping[str, str]
    numbers: Mapping[str, str]
    styles: frozenset[str]
    quiet: frozenset[str]
    tints: frozenset[str]
    negations: frozenset[str]

    @staticmethod
    @cache
    def read() -> Senses:
        told = tomllib.loads(Path(__file__).with_name("senses.toml").read_text("utf-8"))

        def table(name: str) -> dict[str, str]:
            rows = told[name].items()
            return {" ".join(word.split()): known for known, words in rows for word in words.split(",")}

        def words(name: str) -> frozenset[str]:
            return frozenset(told["words"][name].split())

        same, shades, looks, substances, slips, near, motions, numbers = map(table, TABLES)
        return Senses(same, shades, looks, substances, slips, near, motions, numbers, *map(words, SETS))


@dataclass
class _Heard:
    """What has become of a text's words so far."""

    out: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)


class Ear:
    """`known` are the words that need no hearing; `parts` those of which a number may stand."""

    def __init__(self, known: Collection[str], parts: Collection[str]) -> None:
        self.names = frozenset(name for name in known if " " in name)
        self.known = frozenset(word for name in known for word in (name, *name.split()))
        self.parts = frozenset(parts)
        self._heard: dict[str, Overheard] = {}

    def hear(self, text: str) -> Overheard:
        """A text is heard once."""
        if text not in self._heard:
            if len(self._heard) == REMEMBERED:
                self._heard.clear()
            self._heard[text] = self._hear(text)
        return self._heard[text]

    def _hear(self, text: str) -> Overheard:
        plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
        flat = " ".join(re.findall(r"[a-z0-9]+|[,;.]", re.sub(r"'(?:s?\b|t\b)", "", plain)))
        words, heard, i = self._joined(flat).split(), _Heard(), 0
        while i < len(words):
            if words[i] in self._senses.negations:
                end = next((j for j in range(i + 1, len(words)) if words[j] in CLAUSE), len(words))
                denied = " ".join(words[i:end]).replace("_", " ")
                heard.lacking.append(f"{denied!r} is not heard: nothing can be left out")
                i = end
            else:
                self._one(words[i], words[i + 1 : i + 4], heard)
                i += 1
        told = tuple(dict.fromkeys(heard.read)), tuple(dict.fromkeys(heard.lacking))
        return Overheard(" ".join(heard.out), *told, tuple(heard.numbers))

    def _one(self, word: str, following: Sequence[str], heard: _Heard) -> None:
        """What becomes of a word before some others."""
        senses, name = self._senses, word.replace("_", " ")
        if not word[0].isalnum():
            heard.out.append(word)
        elif name in senses.tints and (colour := self._colour(following[:1])) is not None:
            heard.lacking.append(f"'{name} {following[0]}' is made {colour}, the nearest of its colours")
        elif (single := next((form for form in forms(name) if form in self.known), None)) is not None:
            heard.out.append(word if name in self.known else single)
        elif (same := among(name, senses.same)) is not None:
            heard.out.append(same.replace(" ", "_"))
        elif (shade := among(name, senses.shades)) is not None:
            heard.out.append(shade)
            heard.lacking.append(f"{name!r} is made {shade}, the nearest of its colours")
        elif (look := among(name, senses.looks)) is not None:
            heard.out.append(look)
            heard.lacking.append(f"{name!r} is made {look}, the nearest of its patterns")
        elif (substance := among(name, senses.substances)) is not None:
            heard.out.append(substance)
            heard.read.append(f"{name!r} is read as {substance}")
        elif name in senses.numbers or name.isdigit():
            # "four black tyres" are as many as they are, a "two-wheeled" thing is one; "two red-wheeled cars" are not
            nouns = (each for i, each in enumerate(following) if i == 0 or not each.endswith("ed"))
            after = (form for each in nouns for form in forms(among(each, senses.same) or each))
            if self.parts.isdisjoint(after):
                heard.numbers.append(Number(name, len(heard.out), int(senses.numbers.get(name, name[:9]))))
        elif (motion := senses.motions.get(name)) is not None:
            heard.lacking.append(f"{name!r} is no motion of this world; the nearest is {motion!r} (--recipe video)")
        elif name in senses.styles:
            heard.lacking.append(f"{name!r} changes nothing: it knows colours and no such look; {PRETRAINED}")
        elif name not in senses.quiet:
            self._strange(word, name, heard)

    def _strange(self, word: str, name: str, heard: _Heard) -> None:
        """A word of no table: a slip of the pen, or unknown."""
        known = among(name, self._senses.near) is not None
        meant = None if known else self._senses.slips.get(name) or self._slip(name)
        heard.out.append(word if meant is None else meant.replace(" ", "_"))
        if meant is not None:
            heard.read.append(f"{name!r} is read as {meant}")

    def _colour(self, words: Sequence[str]) -> str | None:
        """The colour that a word is, by whatever name."""
        named = (among(word.replace("_", " "), self._senses.same) or word for word in words)
        return next((word for word in named if word in COLOURS), None)

    def _joined(self, flat: str) -> str:
        """Names of several words in one piece: the world's own before what is only like them."""
        for pattern in self._names:
            flat = pattern.sub(lambda found: found[0].replace(" ", "_"), flat)
        return flat

    @cached_property
    def _names(self) -> tuple[re.Pattern[str], ...]:
        senses = self._senses
        same = {name for table in (senses.same, senses.slips) for name in table if " " in name}
        other = {name for table in (senses.looks, senses.near, senses.motions) for name in table if " " in name}
        # In "cone orange, cherry red" each word is meant by itself.
        other |= {name for name in senses.shades if " " in name and not self.known.issuperset(name.split())}
        return one_of(self.names), one_of(same | other)

    @cached_property
    def _senses(self) -> Senses:
        return Senses.read()

    def _slip(self, word: str) -> str | None:
        """The one known word that a letter less or more, two changed places or another vowel away is."""
        if len(word) < LEAST:
            return None
        found = {meant for meant in self._long if abs(len(meant) - len(word)) <= 1 and is_slip(word, meant)}
        return found.pop() if len(found) == 1 else None

    @cached_property
    def _long(self) -> tuple[str, ...]:
        return tuple(sorted(word for word in self.known if len(word) >= LEAST))


def one_of(names: Collection[str]) -> re.Pattern[str]:
    """Any of some names as whole words, the longest first."""
    return re.compile(rf"\b(?:{'|'.join(sorted(names, key=lambda name: (-len(name), name)))})\b")


def nearest_by_sense(word: str) -> str | None:
    """What of the world comes nearest to a thing that it does not have."""
    return among(word, Senses.read().near)


def among(word: str, table: Mapping[str, str]) -> str | None:
    """What a table says of a word, or of what it is the plural of."""
    return next((table[form] for form in forms(word) if form in table), None)


def forms(word: str) -> Iterable[str]:
    """The word, and what it may be the plural of."""
    yield word
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        yield word[:-1]
        if word.endswith("es"):
            yield word[:-2]
        if word.endswith("ies"):
            yield word[:-3] + "y"
        if word.endswith("ves"):
            yield from (word[:-3] + "f", word[:-3] + "fe")


def is_slip(word: str, meant: str) -> bool:
    """A letter doubled, lost or added, two neighbours changed places, or one vowel for another; a consonant for another
    makes other words (horse, house)."""
    if len(word) == len(meant):
        wrong = [i for i, (a, b) in enumerate(zip(word, meant, strict=True)) if a != b]
        if len(wrong) == 1:
            return {word[wrong[0]], meant[wrong[0]]} <= VOWELS
        swapped = len(wrong) == 2 and wrong[1] == wrong[0] + 1
        return swapped and (word[wrong[0]], word[wrong[1]]) == (meant[wrong[1]], meant[wrong[0]])
    longer, shorter = (word, meant) if len(word) > len(meant) else (meant, word)
    return any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))
