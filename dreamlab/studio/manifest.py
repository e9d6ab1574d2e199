# SPDX-License-Identifier: Apache-2.0
"""The files of a run that may be sent: those that its export reports name, its pictures by their pattern, and its own
copies of what it was given. A name that is asked for is looked up here, and never made into a path."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dreamlab.core.files import Json
from dreamlab.export.report import REPORT, read_report
from dreamlab.recipe.given import DEPTH, NORMAL, PICTURE
from dreamlab.recipe.grammar import PRESETS

PREVIEWS = re.compile(r"(?:step_\d{6,12}\.png|live_\d{6,12}\.glb|truth\.png)")
GIVEN = (PICTURE, DEPTH, NORMAL)
OWN = ("recipe.yaml",)
EXPORT, PAINTED, SHOWN = "export", "painted", "previews"


@dataclass(frozen=True)
class Listed:
    """A file of a run."""

    name: str  # below the folder, with slashes
    kind: str
    bytes: int
    sha256: str  # empty: nobody has counted it
    lasting: bool  # its name never stands for anything else


def manifest(folder: Path) -> dict[str, Listed]:
    """By name, the exported files first."""
    found: dict[str, Listed] = {}
    for place in (EXPORT, *(f"{EXPORT}/{preset}" for preset in PRESETS), PAINTED):
        found |= {each.name: each for each in _reported(folder, place)}
    return found | {each.name: each for each in (*_pictures(folder), *_own(folder))}


def _reported(folder: Path, place: str) -> Iterator[Listed]:
    files: Json = read_report(folder / place).get("files", {}) if (folder / place).is_dir() else {}
    for name, entry in files.items():
        if isinstance(name, str) and isinstance(entry, dict) and _is_plain(name):
            size, digest = entry.get("bytes"), entry.get("sha256")
            size = size if isinstance(size, int) else 0
            digest = digest if isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest) else ""
            yield Listed(f"{place}/{name}", str(entry.get("format", "")), size, digest, False)
    if files:
        yield Listed(f"{place}/{REPORT}", "report", 0, "", False)


def _is_plain(name: str) -> bool:
    """What a report may name: a damaged one is believed nothing."""
    return all(step not in ("", ".", "..") for step in name.split("/")) and "\0" not in name and "\\" not in name


def _pictures(folder: Path) -> Iterator[Listed]:
    try:
        entries = sorted(entry.name for entry in os.scandir(folder / SHOWN) if PREVIEWS.fullmatch(entry.name))
    except OSError:
        return
    for name in entries:
        # A run that goes back to a checkpoint draws the same step again, the same.
        yield Listed(f"{SHOWN}/{name}", "live" if name.startswith("live") else "preview", 0, "", name != "truth.png")


def _own(folder: Path) -> Iterator[Listed]:
    for name in (*GIVEN, *OWN):
        if (folder / name).is_file():
            yield Listed(name, "given" if name in GIVEN else "recipe", 0, "", name in GIVEN)
