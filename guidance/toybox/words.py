# SPDX-License-Identifier: Apache-2.0
"""The words of the embedded prior: a small known vocabulary, and what to say about a word that is not in it.

A prompt becomes canonical tokens: names of several words are one token ("ice cream", "left of"), other spellings and
plurals are aliases ("grey", "mugs", "stemmed"), articles and fillers vanish. Commas, "with" and "and" stay: they say
where an adjective stops. The table is frozen with the weights (vocab.json), so that the world may grow without them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

from dreamlab.core.errors import InputError, ModelError
from dreamlab.toybox import caption as world
from dreamlab.toybox.colours import COLOURS, MATERIALS, PATTERNS
from dreamlab.toybox.hearing import Overheard
from dreamlab.toybox.shapes import CATEGORIES

PAD, NULL, START = 0, 1, 2
SPECIAL = ("<pad>", "<null>", "<start>")
VIEWS = frozenset(["front", "side", "back", "overhead", "view", "full", "seen", "from"])  # cameras say it better
USUAL = frozenset(["plain", "matte"])  # how everything looks unless told otherwise


@dataclass(frozen=True)
class Reading:
    """A prompt as tokens; `unknown` maps every word without a token to the nearest known ones."""

    tokens: tuple[str, ...]
    unknown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overheard: Overheard = field(default_factory=lambda: Overheard(""))

    def report(self) -> str:
        """One line that names the unknown words, "" when there are none."""
        told = [f"{w!r}{_hint(w, near)}" for w, near in self.unknown.items()]
        return f"the toybox prior does not know {', '.join(told)}" if told else ""


def _hint(word: str, near: Sequence[str]) -> str:
    if world.ALIASES.get(word) in world.RELATIONS:
        return " (it makes one object here; --recipe toybox makes each by its own words)"
    return f" (did you mean {' or '.join(near)}?)" if near else ""


@dataclass(frozen=True)
class Words:
    """`tokens` in the order of their ids; `untrained` ones have an id but no picture ever taught their meaning."""

    tokens: tuple[str, ...]
    aliases: Mapping[str, str]
    fillers: frozenset[str]
    untrained: frozenset[str] = frozenset()

    @staticmethod
    def of_world(untrained: Iterable[str] = ()) -> Words:
        """The vocabulary of the procedural world as it is now."""
        parts = [part for category in CATEGORIES.values() for part in category.parts]
        merged = {part: world.singular(part) for part in parts if world.singular(part) in parts}
        merged = {part: single for part, single in merged.items() if part != single and part not in CATEGORIES}
        # "in" may be said of anything: "in red".
        relations = {name: group for name, group in world.RELATIONS.items() if name not in world.FILLERS}
        groups = (CATEGORIES, parts, COLOURS, PATTERNS, MATERIALS, relations, world.ACTIONS, world.BREAKS)
        tokens = dict.fromkeys(word for group in groups for word in sorted(set(group)))
        tokens = {word: None for word in tokens if word not in USUAL and word not in merged}
        aliases = merged | {word: name for word, name in world.CATEGORY_WORDS.items() if word not in tokens}
        for table in (relations, world.ACTIONS):
            aliases |= {phrase: name for name, group in table.items() for phrase in group if phrase not in tokens}
        of_parts = [
            {form(part): merged.get(part, part) for part in parts} for form in (world.adjective, world.singular)
        ]
        for source in (world.SYNONYMS, *of_parts):
            aliases |= {word: name for word, name in source.items() if word not in tokens and word not in aliases}
        fillers = (world.FILLERS | VIEWS | USUAL) - tokens.keys() - aliases.keys()
        return Words((*SPECIAL, *tokens), aliases, frozenset(fillers), frozenset(untrained))

    def grown(self, other: Words) -> Words:
        """The words of both: these keep their ids, new ones follow."""
        tokens = tuple(dict.fromkeys((*self.tokens, *other.tokens)))
        aliases = {word: name for word, name in {**self.aliases, **other.aliases}.items() if word not in tokens}
        fillers = (self.fillers - set(tokens) - aliases.keys()) | other.fillers
        return Words(tokens, aliases, fillers, other.untrained)

    @cached_property
    def ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @cached_property
    def _readings(self) -> dict[str, Reading]:
        return {}

    @cached_property
    def _known(self) -> tuple[str, ...]:
        return tuple(sorted({*self.tokens[len(SPECIAL) :], *self.aliases} - self.untrained))

    @cached_property
    def _objects(self) -> tuple[str, ...]:
        return tuple(word for word in self._known if self.aliases.get(word, word) in CATEGORIES)

    @cached_property
    def _names(self) -> tuple[tuple[re.Pattern[str], str], ...]:
        """Names of several words, longest first."""
        names = sorted((w for w in (*self.tokens, *self.aliases) if " " in w), key=lambda w: (-len(w), w))
        return tuple((re.compile(rf"\b{name}\b"), name.replace(" ", "_")) for name in names)

    def read(self, text: str) -> Reading:
        """The tokens of a text in order, and the words that have none; a text is read once."""
        if text not in self._readings:
            self._readings[text] = self._read(text)
        return self._readings[text]

    def _read(self, text: str) -> Reading:
        overheard = world.EAR.hear(text)
        flat = overheard.text
        for pattern, joined in self._names:
            flat = pattern.sub(joined, flat)
        tokens: list[str] = []
        unknown: dict[str, tuple[str, ...]] = {}
        for word in (w.replace("_", " ") for w in flat.split()):
            token = self.aliases.get(word, word)
            if word in self.fillers:
                continue
            if token in self.ids and token not in self.untrained:
                tokens.append(token)
            else:
                unknown[word] = ()
        # Without an object, one is what is missing: the name of a part or of a colour would be no advice.
        known = self._known if any(token in CATEGORIES for token in tokens) else self._objects
        unknown = {w: () if self.aliases.get(w, w) in self.untrained else world.nearest(w, known) for w in unknown}
        while tokens and tokens[-1] in world.BREAKS:
            tokens.pop()
        return Reading(tuple(tokens), unknown, overheard)

    def encode(self, reading: Reading, longest: int, what: str = "prompt") -> list[int]:
        """<start> and the ids of a reading, or <null> alone when there is nothing to say."""
        if not reading.tokens:
            return [NULL]
        if len(reading.tokens) >= longest:
            raise InputError(
                f"{what}: {len(reading.tokens)} words, the limit is {longest - 1}; describe the object briefly"
            )
        return [START, *(self.ids[token] for token in reading.tokens)]

    def to_json(self) -> str:
        lists = {"fillers": sorted(self.fillers), "untrained": sorted(self.untrained)}
        table = {"tokens": list(self.tokens), "aliases": dict(sorted(self.aliases.items())), **lists}
        return json.dumps(table, indent=0, ensure_ascii=False) + "\n"

    @staticmethod
    @cache
    def from_json(text: str) -> Words:
        """The same words for the same text, so that whoever checks a prompt and whoever encodes it read it once."""
        try:
            table = json.loads(text)
            lists = (frozenset(table[name]) for name in ("fillers", "untrained"))
            return Words(tuple(table["tokens"]), table["aliases"], *lists)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"vocab.json is not a vocabulary of the toybox prior ({error!r}); install it again"
            ) from None
