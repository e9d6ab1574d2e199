# SPDX-License-Identifier: Apache-2.0
"""Pictures nobody here drew: the 3D-shaded emoji of `@lobehub/fluent-emoji-3d` (MIT, npm), never committed, never
trained on. What each shows is in its Unicode name.

The rule: files of one code point (and its variation selector) whose whole Unicode name is, in lower case, a name of a
kind that the world knows; of each kind the first code point. In the order of code points, the first, third, fifth and
so on are the test set; the others may be looked at while something is built.
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from dreamlab.core.errors import InputError
from dreamlab.toybox.caption import CATEGORY_WORDS

PACKAGE, VERSION = "@lobehub/fluent-emoji-3d", "1.1.0"
FOLDER = "DREAMLAB_EMOJI"  # environment variable: the package's folder
SELECTOR = "fe0f"


@dataclass(frozen=True)
class Stranger:
    file: Path
    name: str
    kind: str  # that the world knows it as; "" of other things


def folder() -> Path:
    """Where the package is; InputError says how to get it."""
    place = Path(os.environ.get(FOLDER, Path("build/node/node_modules") / PACKAGE))
    if not (place / "assets").is_dir():
        raise InputError(
            f"{place}: the emoji are not here; get them with `npm install --no-save --prefix build/node "
            f"{PACKAGE}@{VERSION}`, or set {FOLDER} to the package's folder"
        )
    return place / "assets"


def pictures(place: Path) -> list[Stranger]:
    """All of one code point that have a name, in order."""
    found = []
    for file in place.glob("*.webp"):
        points = [part for part in file.stem.split("-") if part != SELECTOR]
        name = unicodedata.name(chr(int(points[0], 16)), "").lower() if len(points) == 1 else ""
        if name:
            found.append((int(points[0], 16), Stranger(file, name, CATEGORY_WORDS.get(name, ""))))
    return [one for _, one in sorted(found, key=lambda each: each[0])]


def known(place: Path) -> list[Stranger]:
    """The first of each kind that the world has."""
    first: dict[str, Stranger] = {}
    for one in pictures(place):
        if one.kind:
            first.setdefault(one.kind, one)
    return list(first.values())


def tested(place: Path) -> list[Stranger]:
    return known(place)[::2]


def others(place: Path) -> list[Stranger]:
    """Of kinds that the world has, but for looking at while building."""
    return known(place)[1::2]


def unknown(place: Path) -> list[Stranger]:
    """Things (no faces, signs or people: code points of food, plants, animals and objects) that the world has no word
    for in any part of their names; every fifth."""
    found = []
    for one in pictures(place):
        point = int(one.file.stem.split("-")[0], 16)
        thing = 0x1F330 <= point < 0x1F440 or 0x1F4A0 <= point < 0x1F550 or 0x1F680 <= point < 0x1F700
        words = one.name.replace("-", " ").split()
        if thing and not any(word in CATEGORY_WORDS for word in words):
            found.append(one)
    return found[::5]
