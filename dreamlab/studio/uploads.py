# SPDX-License-Identifier: Apache-2.0
"""Files that users send: kept under the SHA-256 of what they hold, apart for each owner, for a while.

`ROOT/.jobs/uploads/<16 hex of the owner's SHA-256>/<id><suffix>` with `<id>.json` beside it. An id is a digest, an
owner's folder is a digest: no part of a path ever comes from a request. What is no picture and no mesh by its own bytes
is refused; what is, is read once in a bounded child before anybody is given an id of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from dreamlab.core.errors import InputError
from dreamlab.core.files import Json, disk_errors, fsync_path, sha256, write_json
from dreamlab.core.foreign.picture_parser import MAX_FILE as MOST_PICTURE
from dreamlab.core.foreign.picture_parser import MAX_SIDE, MIN_SIDE
from dreamlab.core.text import printable
from dreamlab.jobs.database import FOLDER
from dreamlab.studio.answers import Refusal, busy, unknown
from dreamlab.studio.sniff import HEAD, MOST_PIXELS, Sniffed, sniff

ID = re.compile(r"[0-9a-f]{64}")
LASTS_S = 7 * 24 * 3600.0  # after the last use
MOST_FILES, MOST_BYTES = 200, 2 << 30  # of one owner
MOST_CHILDREN = 2
MOST_LOOKED_AT = 1_000_000  # triangles whose edges are counted
SECONDS = 30.0  # that a file may take to be read
TAKEN = "PNG, JPEG or WebP pictures, and GLB, OBJ, PLY or STL meshes"


@dataclass(frozen=True)
class Upload:
    """A file that may be named in a job."""

    id: str
    kind: str  # picture or mesh
    bytes: int
    width: int
    height: int
    name: str  # as its owner calls it; shown, never used
    suffix: str
    facts: Json = field(default_factory=dict)


class Uploads:
    """All of a root's."""

    def __init__(self, root: Path) -> None:
        self.root = root / FOLDER / "uploads"
        self._children = threading.BoundedSemaphore(MOST_CHILDREN)

    def folder(self, owner: str) -> Path:
        return self.root / hashlib.sha256(owner.encode()).hexdigest()[:16]

    def arriving(self) -> Path:
        """Where a body is written to as it comes."""
        with disk_errors("keeping an upload", self.root):
            (self.root / ".new").mkdir(parents=True, exist_ok=True)
        return self.root / ".new" / f"{os.getpid()}.{time.monotonic_ns()}.{os.urandom(4).hex()}"

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A few children at once, for each takes a core and memory."""
        if not self._children.acquire(timeout=SECONDS):
            raise busy(503, "too many files are being read", 10)
        try:
            yield
        finally:
            self._children.release()

    def take(self, owner: str, arrived: Path, name: str) -> Upload:
        """Keep a file that has arrived; Refusal for what is none of those taken, or too much."""
        try:
            return self._taken(owner, arrived, name)
        finally:
            arrived.unlink(missing_ok=True)

    def _taken(self, owner: str, arrived: Path, name: str) -> Upload:
        size = arrived.stat().st_size
        with arrived.open("rb") as handle:
            found = sniff(handle.read(HEAD), size)
        if found is None:
            raise Refusal(415, "kind", f"these {size} bytes are no file that is read here", f"send {TAKEN}")
        check_promise(found, size)
        identity, folder = sha256(arrived), self.folder(owner)
        if (there := self._read(folder, identity)) is not None:
            os.utime(self._path(folder, there))
            return there
        self._check_room(folder, size)
        named = arrived.with_suffix(found.suffix)
        arrived.rename(named)
        try:
            with self.reading():
                facts = read_apart(found, named)
            made = Upload(
                identity, found.kind, size, found.width, found.height, printable(name)[:100], found.suffix, facts
            )
            with disk_errors("keeping an upload", folder):
                folder.mkdir(parents=True, exist_ok=True)
                fsync_path(named)
                named.replace(self._path(folder, made))
                write_json(folder / f"{identity}.json", asdict(made))
        finally:
            named.unlink(missing_ok=True)
        return made

    def get(self, owner: str, identity: str) -> Upload:
        """One of the owner's; Refusal 404 for any other."""
        found = self._read(self.folder(owner), identity) if ID.fullmatch(identity) else None
        if found is None:
            raise unknown(f"upload {identity[:64]!r}")
        return found

    def path(self, owner: str, identity: str) -> Path:
        """Its file, kept for another while."""
        found = self._path(self.folder(owner), self.get(owner, identity))
        os.utime(found)
        return found

    def finder(self, owner: str) -> Callable[[str], Path]:
        """What a job's maker asks for the files that a request names."""

        def find(identity: str) -> Path:
            try:
                return self.path(owner, identity)
            except Refusal:
                raise InputError(f"upload {identity[:64]!r}: there is none, or it has expired; send it again") from None

        return find

    def sweep(self, now: float | None = None) -> int:
        """Take away what nobody has used for a while, and what never arrived whole; how many files."""
        limit, gone = (time.time() if now is None else now) - LASTS_S, 0
        for path in self.root.glob("*/*") if self.root.is_dir() else ():
            old = limit if path.parent.name != ".new" else limit + LASTS_S - 3600
            if path.suffix == ".json" or path.stat(follow_symlinks=False).st_mtime > old:
                continue
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
            gone += 1
        return gone

    def _path(self, folder: Path, upload: Upload) -> Path:
        return folder / f"{upload.id}{upload.suffix}"

    def _read(self, folder: Path, identity: str) -> Upload | None:
        try:
            found = Upload(**json.loads((folder / f"{identity}.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return found if self._path(folder, found).is_file() else None

    def _check_room(self, folder: Path, size: int) -> None:
        there = [path.stat().st_size for path in folder.glob("*") if path.suffix != ".json"]
        if len(there) >= MOST_FILES or sum(there) + size > MOST_BYTES:
            days = LASTS_S / 86400
            raise busy(
                429, f"{len(there)} files of {sum(there) >> 20} MiB wait here; they go {days:g} days after use", 3600
            )


def check_promise(found: Sniffed, size: int) -> None:
    """What a head promises, before anything is unpacked."""
    if found.kind != "picture":
        return
    wide, high = found.width, found.height
    if size > MOST_PICTURE:
        raise Refusal(
            413, "too_large", f"{size} bytes of a picture; at most {MOST_PICTURE} are read", "save it smaller"
        )
    if wide * high > MOST_PIXELS or max(wide, high) > MAX_SIDE:
        most = f"at most {MOST_PIXELS // 1_000_000} megapixels, and sides of {MAX_SIDE}, are read"
        raise Refusal(413, "too_large", f"{wide} x {high} pixels; {most}", "save it smaller")
    if min(wide, high) < MIN_SIDE:
        raise Refusal(
            415, "kind", f"{wide} x {high} pixels are no picture; sides of {MIN_SIDE} or more are", f"send {TAKEN}"
        )


def read_apart(found: Sniffed, path: Path) -> Json:
    """Whether it can be read, by the parser that a run reads it with, in a bounded child; what a mesh has."""
    from dreamlab.core.foreign.apart import parsed

    try:
        arrays = parsed("picture" if found.kind == "picture" else "asset", path, "upload", SECONDS)
    except InputError as error:
        said = str(error).replace(f" {path}", "").removeprefix("upload: ")
        raise Refusal(415, "unreadable", f"the file {said}", f"send {TAKEN}") from None
    if found.kind == "picture":
        return {}
    faces, points = arrays["faces"], arrays["points"]
    if not len(faces):
        raise Refusal(415, "unreadable", "the file holds no triangles", "send a mesh")
    told = json.loads(arrays["facts"].tobytes())
    return {
        "vertices": len(points),
        "triangles": len(faces),
        "parts": len(told.get("parts", [])),
        "metres": [round(float(side), 4) for side in points.max(0) - points.min(0)],
        "uv": bool(np.isfinite(arrays["uv"]).all(1).any()),
        "watertight": watertight(points, faces),
        "materials": [printable(str(slot.get("name", "")))[:80] for slot in told.get("slots", [])][:50],
    }


def watertight(points: np.ndarray, faces: np.ndarray) -> bool | None:
    """Whether every edge, its corners welded by place, has a face on either side; None: too many to look."""
    if len(faces) > MOST_LOOKED_AT:
        return None
    _, welded = np.unique(points.round(6), axis=0, return_inverse=True)
    corners = welded.reshape(-1)[faces]
    edges = np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]]), 1)
    edges = edges[edges[:, 0] != edges[:, 1]]
    return bool((np.unique(edges, axis=0, return_counts=True)[1] == 2).all())
