# SPDX-License-Identifier: Apache-2.0
"""Writing captions: the same object in several phrasings, the inverse of `caption.parse`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dreamlab.toybox.caption import Caption, adjective, singular
from dreamlab.toybox.colours import Finish
from dreamlab.toybox.shapes import CATEGORIES


@dataclass(frozen=True)
class Said:
    """The words of one object, ready for a template: adjectives of the main part, and (part, its adjectives)."""

    name: str
    look: str
    parts: tuple[tuple[str, str], ...]


def article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _noun(part: str, look: str) -> str:
    """ "a white stem", "black wheels"."""
    words = f"{look} {part}".strip()
    return words if part.endswith("s") else article(words)


def _and(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _with(said: Said) -> str:
    head = f"{said.look} {said.name}".strip()
    return head + (" with " + _and([_noun(p, c) for p, c in said.parts]) if said.parts else "")


def _hyphened(said: Said) -> str:
    front = " ".join(f"{look}-{adjective(part)}".strip("-") for part, look in said.parts)
    return article(f"{front} {said.look} {said.name}".strip())


def _listed(said: Said) -> str:
    return ", ".join([said.name, *([said.look] if said.look else []), *(f"{p} {c}" for p, c in said.parts)])


def _clauses(said: Said) -> str:
    head = article(said.name) + (f" that is {said.look}" if said.look else "")
    tails = [f"with {_noun(p, '')} that {'are' if p.endswith('s') else 'is'} {c}" for p, c in said.parts]
    return ", ".join([head, *tails])


def _whose(said: Said) -> str:
    tails = [f"whose {p} {'are' if p.endswith('s') else 'is'} {c}" for p, c in said.parts]
    return article(f"{said.look} {said.name}".strip()) + (" " + " and ".join(tails) if tails else "")


def _having(said: Said) -> str:
    tails = [
        f"the {singular(p) if not p.endswith('s') else p} {'are' if p.endswith('s') else 'is'} {c}"
        for p, c in said.parts
    ]
    return "the " + f"{said.look} {said.name}".strip() + (", " + ", ".join(tails) if tails else "")


PHRASINGS: dict[str, Callable[[Said], str]] = {
    "with": lambda said: article(_with(said)),
    "bare": _with,
    "model": lambda said: "a 3d model of " + article(_with(said)),
    "toy": lambda said: "a small toy " + _with(said),
    "hyphened": _hyphened,
    "listed": _listed,
    "clauses": _clauses,
    "whose": _whose,
    "having": _having,
}


def look_of(finish: Finish) -> str:
    """The adjectives of a finish: "glossy red", "red and white striped"."""
    words = [finish.material] if finish.material != "matte" else []
    if finish.pattern == "plain":
        words.append(finish.colour)
    else:
        words += [finish.colour, "and", finish.second, finish.pattern]
    return " ".join(words)


def say(caption: Caption, phrasing: str = "with") -> str:
    """The caption in words; `parse(say(caption, any phrasing))` gives it back. Relations and actions use "with"."""
    category = CATEGORIES[caption.category]
    chosen = dict(caption.finishes)
    main = chosen.pop(category.main, None)
    parts = tuple((part, look_of(finish)) for part, finish in chosen.items())
    said = Said(category.name, look_of(main) if main else "", parts)
    if caption.action:
        said = Said(f"{caption.action} {said.name}", said.look, said.parts)
    text = PHRASINGS[phrasing](said)
    return f"{text} {caption.relation} {say(caption.other)}" if caption.relation and caption.other else text
