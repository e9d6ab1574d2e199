# SPDX-License-Identifier: Apache-2.0
"""Several objects in a prompt: each with its own words, and what it is to the others.

    a red mushroom beside a blue table and two yellow ducks on it

is four things: "a red mushroom", next to the second; "a blue table"; "a yellow duck", on the second, and another like
it. A relation between two nouns is of the first to the second; one with "it" is to the noun before; "the" and a noun
that was said already mean that one; what "and" or a comma joins stands to the right of the one before; of two that
something is between, one is to its left and one to its right. `places.py` says where they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from dreamlab.toybox.caption import ALIASES, CATEGORY_WORDS, EAR, PLURALS, RELATIONS, kind, part_words, relation_at
from dreamlab.toybox.grammar import article
from dreamlab.toybox.shapes import CATEGORIES

MOST = 6  # objects of a scene
NEW = frozenset(["a", "an", "one"])
JOINTS = frozenset(["and", ",", ";", "."])
NUMBER, BETWEEN = "#", "between"  # "#2" among the words


@dataclass(frozen=True)
class Thing:
    """An object of a prompt: its own words, and what it is to another one, by number."""

    category: str
    text: str
    relation: str = "next to"
    to: int | None = None
    like: int | None = None  # the first of as many as one number asks for, of which this is another


@dataclass(frozen=True)
class _Head:
    """A noun that begins an object: where its words begin, the noun, and what joins it to what was before."""

    start: int
    noun: int
    joint: str = ""  # a relation, "and", "with"
    turned: bool = False  # the relation is of this one to the one before: "and next to it a table"


def things(text: str) -> tuple[Thing, ...]:
    """The objects of a prompt in its order; one or none where it is not of several. One number asks for at most one
    more than there can be."""
    words, found, last = _words(text), list[Thing](), 0
    heads, sides = _heads(words), list[int]()  # what something is between; the thing itself is before them
    for k, head in enumerate(heads):
        own = words[head.start : heads[k + 1].start - 1 if k + 1 < len(heads) else len(words)]
        name = kind(words[head.noun])
        own, relation = _without_it(own)
        said = next((i for i, each in enumerate(found) if each.category == name and own[0] == "the"), None)
        number = len(found) if said is None else said
        if said is None:
            count = _count(words, head, k + 1 == len(heads))
            found.append(Thing(name, _said(own, words[head.noun], count), to=last if k else None))
            found += [Thing(name, found[number].text, like=number)] * (count - 1)
        if head.joint == BETWEEN:
            sides = [last, *range(number, min(number + 2, len(found)))]
        elif len(sides) == 2 and head.joint in JOINTS:
            sides = [*sides, number]
        elif k and head.joint in RELATIONS and not head.turned:
            found[last] = replace(found[last], relation=head.joint, to=number)
            if said is None:
                found[number] = replace(found[number], to=None)
        elif relation == BETWEEN and number > 1:
            sides = [number, number - 2, number - 1]
        elif k and (head.turned or relation):
            found[number] = replace(found[number], relation=relation or head.joint, to=last)
        if len(sides) == 3:
            _put_between(found, *sides)
            sides = []
        last = number
    return tuple(found)


def _put_between(found: list[Thing], middle: int, left: int, right: int) -> None:
    found[left] = replace(found[left], relation="left of", to=middle, like=None)
    found[right] = replace(found[right], relation="right of", to=middle, like=None)
    if found[middle].to in (left, right):
        found[middle] = replace(found[middle], to=None)


def uncounted(text: str) -> tuple[str, ...]:
    """The numbers of a text that are of no object."""
    words = _words(text)
    at = [i for i, word in enumerate(words) if word.startswith(NUMBER)]
    heads = _heads(words)
    pairs = zip(at, EAR.hear(text).numbers, strict=True)
    return tuple(number.word for i, number in pairs if not any(head.start <= i < head.noun for head in heads))


def _words(text: str) -> list[str]:
    """The words as they are heard, and the numbers where they were."""
    heard = EAR.hear(text)
    words = [word.replace("_", " ") for word in heard.text.split()]
    for number in reversed(heard.numbers):
        words.insert(number.at, f"{NUMBER}{number.count}")
    return words


def _count(words: Sequence[str], head: _Head, ends: bool) -> int:
    """How many are asked for: "between tables" is between two."""
    told = [int(word[1:]) for word in words[head.start : head.noun] if word.startswith(NUMBER)]
    count = prod(told) if told else 1
    two = ends and head.joint == BETWEEN and words[head.noun] in PLURALS
    return max(1, min(max(count, 2 if two else 1), MOST + 1))


def _heads(words: Sequence[str]) -> list[_Head]:
    heads: list[_Head] = []
    foreign = False  # what the last object is "with" is no part of it: nor is what "and" adds
    for i, word in enumerate(words):
        if not kind(word):
            continue
        if not heads:
            heads.append(_Head(0, i))
            continue
        last = heads[-1].noun
        parts = part_words(CATEGORIES[kind(words[last])])
        joints = (j for j in range(i - 1, last, -1) if words[j] in {*JOINTS, "with"} or _relation(words, j, parts))
        near = next(joints, None)
        if near is None:
            if word in CATEGORY_WORDS and words[last] not in CATEGORY_WORDS:  # "a pirate ship"
                heads[-1] = replace(heads[-1], noun=i)
            continue
        between, relation = words[near + 1 : i], _relation(words, near, parts)
        # "and a hat", where "hat" alone may be a part
        fresh = any(each in NEW or each.startswith(NUMBER) for each in between)
        mine = word in parts
        if words[near] == "with":
            begins = not mine and _refers_back(words, i)  # "a table with a duck on it"
            foreign = foreign or not (begins or mine)
        elif relation:
            begins = True
        else:
            same = kind(word) == kind(words[last])
            begins = not foreign and (fresh if same or mine else True) and not (mine and "with" in words[last:near])
        if begins:
            it = relation != "" and "it" in between
            heads.append(_Head(near + 1, i, relation or words[near], it))
            foreign = False
    return heads


def _relation(words: Sequence[str], i: int, parts: Sequence[str] | dict[str, str] = ()) -> str:
    return BETWEEN if words[i] == BETWEEN else relation_at(words, i, parts)


def _refers_back(words: Sequence[str], noun: int) -> bool:
    """Whether a relation to "it" follows."""
    return len(words) > noun + 2 and _relation(words, noun + 1) != "" and words[noun + 2] == "it"


def _without_it(own: Sequence[str]) -> tuple[list[str], str]:
    """The words of an object without "on it" or "between them", and that relation."""
    for i in range(len(own) - 1):
        if own[i + 1] == ("them" if own[i] == BETWEEN else "it") and (relation := _relation(own, i)):
            return [*own[:i], *own[i + 2 :]], relation
    return list(own), ""


def _said(own: Sequence[str], noun: str, count: int) -> str:
    """An object's words without what joins it to others, and of several the words of one."""
    words = [word for word in own if not word.startswith(NUMBER)]
    while words and (words[-1] in {*JOINTS, "with", "that", "which", "it", "is"} or _relates(words[-1])):
        words.pop()
    while words and words[0] in {*JOINTS, "it", "is"}:
        words.pop(0)
    if count == 1:
        return " ".join(words)
    at = words.index(noun)
    look = [word for word in words[:at] if word not in NEW | {"of", "the"}]
    return article(" ".join([*look, PLURALS.get(noun, noun), *words[at + 1 :]]))


def _relates(word: str) -> bool:
    """ "in" has been cut off with the object after it, and a mug has an inside."""
    return ALIASES.get(word) in RELATIONS.keys() - {"in"}
