# SPDX-License-Identifier: Apache-2.0
"""What the weights that come with the package are, byte for byte: one JSON file of SHA-256 beside them.

python -m dreamlab.core.digests FOLDER      writes down what lies there now, after a training
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from dreamlab.core.errors import ModelError
from dreamlab.core.files import sha256, write_json

FILE = "digests.json"
SUFFIXES = (".safetensors", ".json")  # what is read; logs and cards are for people


def held(folder: Path) -> dict[str, Path]:
    """What a folder of weights holds: name in it -> file."""
    found = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.name != FILE)
    return {path.relative_to(folder).as_posix(): path for path in found}


def write(folder: Path) -> None:
    write_json(folder / FILE, {name: sha256(path) for name, path in held(folder).items()})


def listed(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 as shipped; none where the list is missing or damaged."""
    try:
        return dict(json.loads((folder / FILE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def wrong(folder: Path, only: Mapping[str, Path] | None = None) -> dict[str, str]:
    """Name -> what is wrong with it, of all or `only` some; empty when they are as they were shipped."""
    known = listed(folder)
    if not known:
        return {FILE: "is missing or damaged"}
    there = held(folder) if only is None else only
    found = {name: "is missing" for name in known if name not in there} if only is None else {}
    return found | {name: "is damaged" for name, path in there.items() if sha256(path) != known.get(name)}


def check(path: Path, again: str) -> None:
    """Before a file is read that has digests beside it or in the folder above; ModelError in one line if it is not what
    they say. A user's own weights have none."""
    for folder in path.absolute().parents[:2]:
        if (folder / FILE).is_file():
            name = path.absolute().relative_to(folder).as_posix()
            if name in wrong(folder, {name: path}):
                raise ModelError(f"{path}: its SHA-256 is not the one in {folder / FILE}: damaged; {again}")
            return


if __name__ == "__main__":
    write(Path(sys.argv[1]))
