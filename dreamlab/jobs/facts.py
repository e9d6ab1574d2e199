# SPDX-License-Identifier: Apache-2.0
"""One run folder as the gallery lists it, read without YAML or torch: a fraction of a millisecond each, whatever is in
there. A damaged folder is a row that says so."""

from __future__ import annotations

import json
import os
import re
import socket
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from configs import DEFAULT, PICTURED
from dreamlab.core.files import Json

MARKS = "marks.json"  # what is said of a run that no queue knows: {"favourite": bool, "deleted": when it was}
DAMAGED = "damaged"
_IDENTITY = re.compile(r"[a-z0-9]{12}\Z")
_SEED = re.compile(r"^seed: (\d{1,10})$", re.MULTILINE)
_EVENT = re.compile(rb'^\{"time": "([^"\n]{10,40})", "kind": "(\w{1,20})"', re.MULTILINE)
_HOLDER = re.compile(r"pid (\d{1,9}) on (\S+) since ")
_WORD = re.compile(r"\w+")
MOST_EVENTS = 4 << 20  # bytes of a log that is still read for how long the run took
MOST_READ = 1 << 20  # bytes of any other file
BEING_MADE_S = 10.0  # a folder younger than this may be about to get its spec.json
WATCHED = ("", "/state.json", "/export")  # "": the folder itself, whose time changes with whatever is written whole


@dataclass(frozen=True)
class FolderFacts:
    """What a folder says of itself."""

    folder: str
    own_id: str
    prompt: str = ""
    recipe: str = ""
    seed: int | None = None
    state: str = DAMAGED
    step: int = 0
    created: str = ""
    seconds: float | None = None
    poster: str = ""  # within the folder
    favourite: bool = False
    trashed: str = ""
    parent: str = ""
    damage: str = ""  # what is wrong, in a few words


def signature(path: str) -> tuple[str, int]:
    """What changes whenever a row might, without reading a file; and the newest time in it, ns."""
    parts, newest = [], 0
    for name in WATCHED:
        try:
            found = os.stat(path + name)  # noqa: PTH116  # ten thousand folders: a Path each costs more than the look
        except OSError:
            parts.append("-")
            continue
        newest = max(newest, found.st_mtime_ns)
        parts.append(f"{found.st_mtime_ns}.{found.st_size}.{found.st_ino}")
    return " ".join(parts), newest


def read_folder(path: Path, in_trash: bool = False) -> FolderFacts | None:
    """The row of a folder; none for one that is no run, is gone, or is still being made."""
    there = {name for name in ("spec.json", "recipe.yaml", "state.json") if (path / name).exists()}
    if not there:
        return None
    if "spec.json" not in there and time.time() - path.stat().st_mtime < BEING_MADE_S:
        return None
    spec, state, marks = (_object(path / name) for name in ("spec.json", "state.json", MARKS))
    missing = [name for name in ("spec.json", "recipe.yaml") if name not in there]
    wrong = [name for name, found in (("spec.json", spec), ("state.json", state)) if name in there and found is None]
    damage = "; ".join([f"{name} is missing" for name in missing] + [f"{name} is damaged" for name in wrong])
    spec, state, marks = spec or {}, state or {}, marks or {}
    parent, step = spec.get("parent"), state.get("step")
    said = _text(state, "state") or "created"
    return FolderFacts(
        folder=path.name,
        own_id=_identity(spec, path.name),
        prompt=_text(spec, "prompt"),
        recipe=_recipe_name(spec),
        seed=_seed(path / "recipe.yaml"),
        state=DAMAGED if damage else standing(path, said),
        step=step if isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 1 << 53 else 0,
        created=_moment(_text(spec, "created")) or _moment_of(path),
        seconds=_seconds(path / "events.jsonl"),
        poster=_poster(path),
        favourite=marks.get("favourite") is True,
        trashed=(_moment(_text(marks, "deleted")) or _moment_of(path)) if in_trash else "",
        parent=_text(parent, "id") if isinstance(parent, dict) else "",
        damage=damage,
    )


def standing(path: Path, said: str) -> str:
    """A killed process cannot write that it was: it runs, and the one that holds the folder is gone. The lock itself is
    left alone, for whoever tries it holds it."""
    if said != "running":
        return said
    found = _HOLDER.match(_read(path / ".lock", 200) or "")
    if found is None:
        return "interrupted"
    if found[2] != socket.gethostname():
        return said  # of another machine nothing can be known
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return "interrupted"
    except (OSError, OverflowError):
        pass
    return said


def folded(text: str) -> str:
    """Words as a search sees them: small letters without accents, each character of a script without spaces a word of
    its own; a space before each, so that words are found by how they begin."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    return "".join(f" {word}" for run in _WORD.findall(plain.replace("_", " ")) for word in _split(run))


def _split(run: str) -> Iterator[str]:
    """Ideographs and kana stand alone: nobody writes spaces between words of them."""
    start = 0
    for i, char in enumerate(run):
        if char > "\u2e80" and unicodedata.category(char) == "Lo":
            if start < i:
                yield run[start:i]
            yield char
            start = i + 1
    if start < len(run):
        yield run[start:]


def _read(path: Path, most: int) -> str | None:
    try:
        with path.open("rb") as handle:
            data = handle.read(most + 1)
    except OSError:
        return None
    return data.decode("utf-8", "replace") if len(data) <= most else None


def _object(path: Path) -> Json | None:
    try:
        found = json.loads(_read(path, MOST_READ) or "")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _text(found: Json, key: str) -> str:
    value = found.get(key)
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _identity(spec: Json, folder: str) -> str:
    for word in (_text(spec, "id"), folder[-12:]):
        if _IDENTITY.match(word):
            return word
    return folder


def _recipe_name(spec: Json) -> str:
    """As the command that made it said."""
    given = spec.get("command")
    command = [word for word in given if isinstance(word, str)] if isinstance(given, list) else []
    for i, word in enumerate(command):
        if word == "--recipe" and i + 1 < len(command):
            return command[i + 1]
        if word.startswith("--recipe="):
            return word.removeprefix("--recipe=")
    if "texture" in command[1:2]:
        return "texture"
    return PICTURED if "--image" in command else DEFAULT


def _seed(recipe: Path) -> int | None:
    found = _SEED.search(_read(recipe, MOST_READ) or "")
    return None if found is None else int(found[1])


def _moment(text: str) -> str:
    """One spelling for all, so that times sort as words."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return ""


def _moment_of(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="milliseconds")


def _seconds(events: Path) -> float | None:
    """How long processes worked on it: each from its start to its last word."""
    try:
        if not 0 < events.stat().st_size <= MOST_EVENTS:
            return None
        said = _EVENT.findall(events.read_bytes())
    except OSError:
        return None
    starts = [i for i, (_, kind) in enumerate(said) if kind == b"start"]
    ends = [*(i - 1 for i in starts[1:]), len(said) - 1]
    spans = [(_time(said[i][0]), _time(said[j][0])) for i, j in zip(starts, ends, strict=bool(starts))]
    known = [max(end - begin, 0.0) for begin, end in spans if begin is not None and end is not None]
    return round(sum(known), 3) if known else None


def _time(text: bytes) -> float | None:
    try:
        return datetime.fromisoformat(text.decode()).timestamp()
    except (ValueError, OverflowError):
        return None


def _poster(path: Path) -> str:
    """What shows it best: the poster, the sheet, or the newest preview."""
    for name in ("export/poster.png", "export/contact.png"):
        if (path / name).is_file():
            return name
    try:
        found = [entry.name for entry in os.scandir(path / "previews") if entry.name.startswith("step_")]
    except OSError:
        return ""
    pictures = [name for name in found if name.endswith(".png") and name[5:-4].isdecimal()]
    return f"previews/{max(pictures, key=lambda name: int(name[5:-4]))}" if pictures else ""
