# SPDX-License-Identifier: Apache-2.0
"""Before a run's first step: are the weights that it names here, and if not, what would bring them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dreamlab.core.text import shell
from dreamlab.hub import is_path, places
from dreamlab.hub.download import RESERVE, room
from dreamlab.hub.listing import human
from dreamlab.hub.prefetch import plan
from dreamlab.hub.registry import registry


@dataclass(frozen=True)
class Supply:
    """Of the models that a run names."""

    there: tuple[str, ...]
    missing: tuple[str, ...]
    gated: tuple[str, ...]  # of the missing ones: their licences must be accepted first
    bytes: int  # to fetch, as far as the registry knows them
    open: bool  # and some that it does not know
    free: int  # bytes where they would go
    folder: Path

    @property
    def ready(self) -> bool:
        return not self.missing

    @property
    def fits(self) -> bool:
        return self.ready or self.free >= self.bytes + RESERVE

    def lines(self) -> list[str]:
        """What a person is told; nothing where nothing is named."""
        told = [f"weights: {', '.join(self.there)} here"] if self.there else []
        if self.missing:
            more = " and files of unknown size" if self.open else ""
            told.append(
                f"weights: {', '.join(self.missing)} not here: {human(self.bytes)}{more} to fetch, "
                f"{human(self.free)} free in {self.folder}{'' if self.fits else ': too little'}; "
                f"{shell('models', 'prefetch', *self.missing)}"
            )
        if self.gated:
            told.append(f"weights: {', '.join(self.gated)} gated: accept the licence, then set HF_TOKEN")
        return told


def supply(models: Iterable[str]) -> Supply:
    """Of names of the registry and paths; a name that is neither is an error, as in `located`."""
    there: list[str] = []
    missing: list[str] = []
    gated: list[str] = []
    size, unknown = 0, False
    known = registry()
    for name in dict.fromkeys(models):
        if name not in known.models and is_path(name):
            (there if Path(name).expanduser().exists() else missing).append(name)
            continue
        entry = known.find(name)
        found = places.find(entry)
        if found is not None and found.whole:
            there.append(name)
            continue
        missing.append(name)
        if not entry.shipped:
            todo = plan(entry)
            size, unknown = size + todo.bytes, unknown or bool(todo.open)
            gated += [name] if entry.gated else []
    folder = places.models_folder()
    return Supply(tuple(there), tuple(missing), tuple(gated), size, unknown, room(folder), folder)
