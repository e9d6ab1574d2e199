# SPDX-License-Identifier: Apache-2.0
"""Reads YAML as data and nothing else: no tags, no anchors, no duplicate keys, bounded size and depth.

Scalars stay text with their file and line; what they mean is decided by the field they land in (`recipe.bind`), so
`prompt: yes` is the word yes and `lr: 1e-3` is a number. Trees hold each scalar as an index into `Source.scalars`:
the container that merges them (OmegaConf) never sees a value, so no `${...}` in one can ever be interpreted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from dreamlab.core.errors import RecipeError

MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MOST_KEPT = 32_768  # characters of a file that is remembered as parsed; those of the package have a few thousand
Tree = Any  # dict[str, Tree] | list[Tree] | int (an index into Source.scalars)


@dataclass(frozen=True)
class Scalar:
    """One value as written."""

    text: str
    plain: bool  # unquoted
    file: str
    line: int  # 0: it has none, for it was given with the command

    @property
    def spoken(self) -> bool:
        return self.line == 0


@dataclass
class Source:
    """The scalars of every file and override that a recipe is made of."""

    scalars: list[Scalar] = field(default_factory=list)

    def add(self, text: str, plain: bool, file: str, line: int) -> int:
        self.scalars.append(Scalar(text, plain, file, line))
        return len(self.scalars) - 1

    def where(self, tree: Tree) -> str:
        """'file:line' of the first scalar below `tree`, or an empty string."""
        if isinstance(tree, int):
            found = self.scalars[tree]
            return f"{found.file}:{found.line}" if found.line else found.file
        for child in tree.values() if isinstance(tree, dict) else tree or []:
            if place := self.where(child):
                return place
        return ""


def read_file(path: Path, source: Source) -> Tree:
    """Parse a recipe file, once for each text of it: a studio reads those of the package at every submit. One that is
    too large is refused before it is read. The tree is shared with other callers: never change it."""
    try:
        if not path.is_file():
            raise RecipeError(f"{path}: no such recipe file")
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path}: {path.stat().st_size} bytes; a recipe has at most {MAX_BYTES}")
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from None
    if len(text) > MOST_KEPT or source.scalars:
        return parse(text, str(path), source)
    tree, scalars = _known(text, str(path))
    source.scalars.extend(scalars)
    return tree


@lru_cache(maxsize=64)
def _known(text: str, file: str) -> tuple[Tree, tuple[Scalar, ...]]:
    source = Source()
    return parse(text, file, source), tuple(source.scalars)


def parse(text: str, file: str, source: Source, numbered: bool = True) -> Tree:
    """One YAML document as a tree; built from parser events without recursion, so nesting cannot exhaust the stack.

    `numbered`: whether messages name lines; an override has only one.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(f"{file}: {len(text)} characters; a recipe has at most {MAX_BYTES}")
    builder = _Builder(file, source, numbered)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = error.problem or "is not YAML"
        raise RecipeError(f"{file}{line}: {problem}; quote text that holds ': ' or starts with a sign") from None
    except yaml.YAMLError as error:  # reader errors: NUL and other characters YAML forbids
        raise RecipeError(f"{file}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RecipeError(f"{file}: nested deeper than {MAX_DEPTH} levels") from None
    return builder.root


class _Builder:
    """Turns parser events into a tree, refusing what a recipe may not hold."""

    def __init__(self, file: str, source: Source, numbered: bool) -> None:
        self.file, self.source, self.numbered = file, source, numbered
        self.root: Tree = {}
        self.stack: list[Tree] = []
        self.keys: list[str | None] = []  # the pending key of each open mapping
        self.documents = 0

    def take(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self.fail(line, "a second document; a recipe is one")
        elif isinstance(event, yaml.AliasEvent):
            self.fail(line, "aliases (*name) are not allowed; write the value again")
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self.refuse_node(event, line)
            opened: Tree = {} if isinstance(event, yaml.MappingStartEvent) else []
            if self.stack and isinstance(self.stack[-1], dict) and self.keys[-1] is None:
                self.fail(line, "a key must be a plain word")
            self.put(opened)
            self.stack.append(opened)
            self.keys.append(None)
            if len(self.stack) > MAX_DEPTH:
                self.fail(line, f"nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self.stack.pop()
            self.keys.pop()
        elif isinstance(event, yaml.ScalarEvent):
            self.refuse_node(event, line)
            self.scalar(event, line)

    def scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        if self.stack and isinstance(self.stack[-1], dict) and self.keys[-1] is None:
            if event.value in self.stack[-1]:
                self.fail(line, f"key {event.value!r} is written twice")
            self.keys[-1] = event.value
        else:
            place = line if self.numbered else 0
            self.put(self.source.add(event.value, event.style is None, self.file, place))

    def put(self, value: Tree) -> None:
        if not self.stack:
            self.root = value
        elif isinstance(self.stack[-1], list):
            self.stack[-1].append(value)
        else:
            key = self.keys[-1]
            assert key is not None
            self.stack[-1][key] = value
            self.keys[-1] = None

    def refuse_node(self, event: Any, line: int) -> None:
        if event.anchor is not None:
            self.fail(line, "anchors (&name) are not allowed")
        if event.tag is not None and event.tag != "!":
            self.fail(line, f"tags are not allowed ({event.tag})")

    def fail(self, line: int, message: str) -> None:
        raise RecipeError(f"{self.file}:{line}: {message}")
