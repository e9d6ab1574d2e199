# SPDX-License-Identifier: Apache-2.0
"""A table of names whose entries are imported when somebody asks for them: a command that runs one rule does not load
thirty, and one that lists them loads none, for what a listing says of an entry stands in its source."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Spoken:
    """What a listing says of an entry: its description's first sentence, and what its class says by these names."""

    line: str
    paper: str
    cost: str = ""


class Table(MutableMapping[str, Kind], Generic[Kind]):
    """`places` maps a name to "module.Class" within `package`; a closed list, whatever a recipe says."""

    def __init__(self, package: str, places: Mapping[str, str]) -> None:
        self.package, self._places = package, dict(places)
        self._entries: dict[str, Kind] = {}

    def __getitem__(self, name: str) -> Kind:
        if name not in self._entries:
            module, _, kind = self._places[name].rpartition(".")
            self._entries[name] = cast(Kind, getattr(importlib.import_module(f"{self.package}.{module}"), kind))
        return self._entries[name]

    def __setitem__(self, name: str, entry: Kind) -> None:
        self._places[name], self._entries[name] = "", entry

    def __delitem__(self, name: str) -> None:
        del self._places[name]
        self._entries.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places  # Mapping's own would load the entry

    def spoken(self, name: str) -> Spoken:
        """Read off the entry's source, which is not run."""
        module, _, kind = self._places[name].rpartition(".")
        found = importlib.util.find_spec(f"{self.package}.{module}")
        assert found is not None and found.origin is not None
        return _spoken(Path(found.origin), kind)


def _spoken(source: Path, kind: str) -> Spoken:
    body = _classes(source)[kind]
    said: dict[str, str] = {}
    for node in body.body:
        named = node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else ""
        if isinstance(node, ast.AnnAssign) and named in ("paper", "cost") and node.value is not None:
            said[named] = ast.literal_eval(node.value)
    first = re.split(r"(?<=\.)\s", " ".join((ast.get_docstring(body) or "").split()), maxsplit=1)[0]
    return Spoken(first, said["paper"], said.get("cost", ""))


@functools.cache
def _classes(source: Path) -> dict[str, ast.ClassDef]:
    tree = ast.parse(source.read_text("utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
