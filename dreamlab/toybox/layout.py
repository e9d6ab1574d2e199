# SPDX-License-Identifier: Apache-2.0
"""Several objects in a prompt: each with its own words, and where it stands.

    a red mushroom beside a blue table and a yellow duck on it

is three things: "a red mushroom", next to the second; "a blue table"; "a yellow duck", on the second. A relation
between two nouns is of the first to the second; one with "it" is to the noun before; "the" and a noun that was said
already mean that one; what "and" or a comma joins stands to the right of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from dreamlab.toybox.caption import ALIASES, CATEGORY_WORDS, EAR, RELATIONS, VOCABULARY, part_words
from dreamlab.toybox.hearing import nearest_by_sense
from dreamlab.toybox.program import OBJECT_RADIUS, Program
from dreamlab.toybox.scene import beside, join, transformed
from dreamlab.toybox.shapes import CATEGORIES, program

NEW = frozenset(["a", "an", "one"])
JOINTS = frozenset(["and", ",", ";", "."])


@dataclass(frozen=True)
class Thing:
    """An object of a prompt: its own words, and what it is to another one, by number."""

    category: str
    text: str
    relation: str = "next to"
    to: int | None = None


@dataclass(frozen=True)
class Whereabouts:
    """Where an object of radius OBJECT_RADIUS about its own origin stands."""

    position: tuple[float, float, float]
    scale: float


@dataclass(frozen=True)
class _Head:
    """A noun that begins an object: where its words begin, the noun, and what joins it to what was before."""

    start: int
    noun: int
    joint: str = ""  # a relation, "and", "with"
    turned: bool = False  # the relation is of this one to the one before: "and next to it a table"


def things(text: str) -> tuple[Thing, ...]:
    """The objects of a prompt in its order; one or none where it is not of several."""
    words = [word.replace("_", " ") for word in EAR.hear(text).text.split()]
    heads, found, last = _heads(words), list[Thing](), 0
    for k, head in enumerate(heads):
        own = words[head.start : heads[k + 1].start if k + 1 < len(heads) else len(words)]
        name = _kind(words[head.noun])
        own, relation = _without_it(own)
        said = next((i for i, each in enumerate(found) if each.category == name and own[0] == "the"), None)
        number = len(found) if said is None else said
        if said is None:
            found.append(Thing(name, " ".join(_trimmed(own)), to=last if k else None))
        if k and head.joint in RELATIONS and not head.turned:
            found[last] = replace(found[last], relation=head.joint, to=number)
            if said is None:
                found[number] = replace(found[number], to=None)
        elif k and (head.turned or relation):
            found[number] = replace(found[number], relation=relation or head.joint, to=last)
        last = number
    return tuple(found)


def _heads(words: Sequence[str]) -> list[_Head]:
    heads: list[_Head] = []
    foreign = False  # what the last object is "with" is no part of it: nor is what "and" adds
    for i, word in enumerate(words):
        if not _kind(word):
            continue
        if not heads:
            heads.append(_Head(0, i))
            continue
        last = heads[-1].noun
        near = next((j for j in range(i - 1, last, -1) if words[j] in {*JOINTS, "with"} or _relation(words[j])), None)
        if near is None:
            if word in CATEGORY_WORDS and words[last] not in CATEGORY_WORDS:  # "a pirate ship"
                heads[-1] = replace(heads[-1], noun=i)
            continue
        between, relation = words[near + 1 : i], _relation(words[near])
        fresh = bool(NEW.intersection(between))  # "and a hat", where "hat" alone may be a part
        mine = word in part_words(CATEGORIES[_kind(words[last])])
        if words[near] == "with":
            begins = not mine and _refers_back(words, i)  # "a table with a duck on it"
            foreign = foreign or not (begins or mine)
        elif relation:
            begins = True
        else:
            same = _kind(word) == _kind(words[last])
            begins = not foreign and (fresh if same or mine else True) and not (mine and "with" in words[last:near])
        if begins:
            it = relation != "" and "it" in between
            heads.append(_Head(near + 1, i, relation or words[near], it))
            foreign = False
    return heads


def _kind(word: str) -> str:
    """The object that a word names, or would be taken for: one that is not of the world is still one of several."""
    strange = "" if word in VOCABULARY else nearest_by_sense(word) or ""
    return CATEGORY_WORDS.get(word, strange)


def _relation(word: str) -> str:
    return ALIASES[word] if ALIASES.get(word) in RELATIONS else ""


def _refers_back(words: Sequence[str], noun: int) -> bool:
    """Whether a relation to "it" follows."""
    return len(words) > noun + 2 and _relation(words[noun + 1]) != "" and words[noun + 2] == "it"


def _without_it(own: Sequence[str]) -> tuple[list[str], str]:
    """The words of an object without "on it", and that relation."""
    for i in range(len(own) - 1):
        if _relation(own[i]) and own[i + 1] == "it":
            return [*own[:i], *own[i + 2 :]], _relation(own[i])
    return list(own), ""


def _trimmed(own: Sequence[str]) -> list[str]:
    """Without what joins it to others, at either end."""
    words = list(own)
    while words and (words[-1] in {*JOINTS, "with", "that", "which", "it", "is"} or _relation(words[-1])):
        words.pop()
    while words and words[0] in {*JOINTS, "it", "is"}:
        words.pop(0)
    return words


@lru_cache(maxsize=256)
def places(objects: tuple[Thing, ...]) -> tuple[Whereabouts, ...]:
    """Each object placed by its relation, the whole in a ball of radius OBJECT_RADIUS about the origin; by the shapes
    that the world gives to their names."""
    programs = [program(one.category) for one in objects]
    stand: dict[int, Whereabouts] = {}
    while len(stand) < len(objects):
        ready = [i for i, one in enumerate(objects) if i not in stand and (one.to is None or one.to in stand)]
        i = ready[0] if ready else next(i for i in range(len(objects)) if i not in stand)  # a circle of relations
        to = objects[i].to
        if to is None or to not in stand:
            to = max(stand, default=None)
        if to is None:
            stand[i] = Whereabouts((0.0, 0.0, 0.0), 1.0)
            continue
        (x, y, z), ground = stand[to].position, stand[to].scale
        scale, (dx, dy, dz) = _beside(objects[i].category, objects[i].relation, objects[to].category)
        stand[i] = Whereabouts((x + ground * dx, y + ground * dy, z + ground * dz), ground * scale)
    whole = placed(programs[0], stand[0])
    for i in range(1, len(objects)):
        whole = join(whole, placed(programs[i], stand[i]))
    centre, radius = whole.bound[0, :3], float(whole.bound[0, 3])
    fit = OBJECT_RADIUS / radius
    return tuple(_fitted(stand[i], centre.tolist(), fit) for i in range(len(objects)))


@lru_cache(maxsize=4096)
def _beside(first: str, relation: str, second: str) -> tuple[float, tuple[float, float, float]]:
    return beside(program(first), relation, program(second))


def placed(one: Program, at: Whereabouts) -> Program:
    return transformed(one, shift=torch.tensor(at.position), scale=at.scale)


def _fitted(at: Whereabouts, centre: Sequence[float], fit: float) -> Whereabouts:
    x, y, z = (round(fit * (p - c), 4) for p, c in zip(at.position, centre, strict=True))
    return Whereabouts((x, y, z), round(fit * at.scale, 4))
