# SPDX-License-Identifier: Apache-2.0
"""One file from a server: resumed, hashed while it is written, refused in one line. Where it goes is decided here."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import ssl
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dreamlab.core.errors import ModelError, is_disk_error
from dreamlab.core.files import disk_errors, fsync_path
from dreamlab.hub.listing import human
from dreamlab.hub.wire import TOKEN, HubSaid, ask, host, why

RESERVE = 256 << 20  # bytes of the disk that are left alone
BLOCK = 1 << 20
TRIES, ONCE_GOING = 4, 8  # answers in a row that brought nothing; a connection that had brought something is waited for
PAUSE_S = 0.1  # doubled with every such answer
SMALL = 64 << 20  # more is no configuration
FETCHING = "fetching a model"
Progress = Callable[[int, int], None]  # bytes there, bytes in all (0: not known)


class Absent(Exception):
    """The server has no such file; another may."""


@dataclass(frozen=True)
class RemoteFile:
    """A file, what is known of it, and where it shall lie."""

    url: str
    path: Path
    what: str  # as messages call it
    bytes: int = 0
    sha256: str = ""
    by: str = "the registry"  # who says so
    small: bool = False
    gated: bool = False  # as far as the registry knows
    page: str = ""  # of its repository, where a licence is accepted


@dataclass(frozen=True)
class Fetched:
    """What arrived."""

    bytes: int
    sha256: str
    commit: str  # of the repository, where the server says


class _Part:
    """The file as far as it is there, with the hash of what is in it."""

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.digest = path, 0, hashlib.sha256()
        if path.exists():
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    self._count(block)

    def _count(self, block: bytes) -> None:
        self.size += len(block)
        self.digest.update(block)

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self.size, self.digest = 0, hashlib.sha256()

    def write(self, blocks: Iterator[bytes]) -> None:
        with self.path.open("ab") as file:
            for block in blocks:
                file.write(block)
                self._count(block)


def room(folder: Path) -> int:
    """Free bytes of the disk on which a folder lies or would lie."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_room(what: str, needed: int, folder: Path) -> None:
    free = room(folder)
    if needed and free < needed + RESERVE:
        raise ModelError(
            f"{what}: needs {human(needed)} and {human(RESERVE)} to spare, {folder} has {human(free)} free; make room, "
            "or name another disk's folder in DREAMLAB_MODELS"
        )


def fetch(wanted: RemoteFile, progress: Progress = lambda there, total: None) -> Fetched:
    """Puts the file into place, whole and as it should be, or raises; Absent where the server lacks it."""
    place = wanted.path.with_name(wanted.path.name + ".part")
    with disk_errors(FETCHING, place):
        wanted.path.parent.mkdir(parents=True, exist_ok=True)
        part = _Part(place)
        if wanted.bytes and part.size >= wanted.bytes and not wanted.sha256:
            part.forget()  # nothing would tell whose end this is
    said, misses, began = HubSaid(), 0, part.size
    while not wanted.bytes or part.size < wanted.bytes:
        before = part.size
        try:
            _receive(wanted, part, said, progress)
            break
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and _of_disk(error):
                with disk_errors(FETCHING, place):
                    raise
            misses = 0 if part.size > before else misses + 1
            if misses >= (TRIES if part.size == began else ONCE_GOING):
                kept = f"; {human(part.size)} are kept, the same command goes on from there" if part.size else ""
                raise ModelError(f"{wanted.what}: {host(wanted.url)} {why(error)}{kept}") from None
            time.sleep(PAUSE_S * 2**misses if misses else 0.0)
    return _settle(wanted, part, said, began > 0)


def _of_disk(error: OSError) -> bool:
    return is_disk_error(error) and not isinstance(error, (urllib.error.URLError, ssl.SSLError))


def _receive(wanted: RemoteFile, part: _Part, said: HubSaid, progress: Progress) -> None:
    """One answer, appended to what is there."""
    try:
        answer = ask(wanted.url, wanted.what, part.size, said)
    except urllib.error.HTTPError as error:
        with error:
            _refused(wanted, error, part)
        raise
    with answer:
        if answer.status == 206 and not _continues(answer, part.size, wanted.sha256 or said.sha256):
            part.forget()
            raise http.client.IncompleteRead(b"")  # asked for anew, from its start
        if answer.status != 206:
            part.forget()
        left = int(text) if (text := answer.headers.get("Content-Length") or "").isdecimal() else 0
        total = part.size + left if left else 0
        _check_length(wanted, total)
        check_room(wanted.what, left, part.path.parent)

        def blocks() -> Iterator[bytes]:
            while block := answer.read(BLOCK):
                yield block
                if wanted.small and part.size > SMALL:
                    raise ModelError(f"{wanted.what}: over {human(SMALL)} are no configuration")
                progress(part.size, total)

        part.write(blocks())
        if part.size < total:
            raise http.client.IncompleteRead(b"", total - part.size)


def _refused(wanted: RemoteFile, error: urllib.error.HTTPError, part: _Part) -> None:
    """What an answer of 400 and above means; returns where it may pass. The Hub answers 401 for repositories that are
    not there, as for those that a stranger may not see, and says which in a header."""
    code, kind = error.code, error.headers.get("X-Error-Code") or ""
    if code == 404 or kind in ("RepoNotFound", "RevisionNotFound", "EntryNotFound"):
        raise Absent(f"{code} for {wanted.url}")
    if code in (401, 403):
        token = os.environ.get(TOKEN)
        if token and "credentials" in (error.headers.get("X-Error-Message") or ""):
            raise ModelError(f"{wanted.what}: {host(wanted.url)} does not know the {TOKEN} that is set; make another")
        if not (wanted.gated or kind == "GatedRepo"):
            raise Absent(f"{code} for {wanted.url}")
        after = f"the account of {TOKEN} must accept its licence" if token else ""
        after = after or f"it is gated: accept its licence, and set {TOKEN} to a token of that account"
        page = f" at {wanted.page}" if wanted.page else ""
        raise ModelError(f"{wanted.what}: {host(wanted.url)} refuses it ({code}); {after}{page}")
    if code == 416 and part.size:  # what is there is no beginning of theirs
        part.forget()
    elif code < 500 and code not in (408, 425, 429):
        raise ModelError(f"{wanted.what}: {host(wanted.url)} answers {code}; look at {wanted.url}")


def _continues(answer: http.client.HTTPResponse, offset: int, sha256: str) -> bool:
    """Whether this is the rest of the same file: only a known hash can tell in the end."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(?:\d+|\*)", answer.headers.get("Content-Range") or "")
    return found is not None and int(found[1]) == offset and bool(sha256)


def _check_length(wanted: RemoteFile, total: int) -> None:
    if total and wanted.bytes and total != wanted.bytes:
        raise ModelError(
            f"{wanted.what}: {host(wanted.url)} offers {total} bytes, the registry knows {wanted.bytes}: another file "
            "under its name; nothing is kept. Use a copy that you trust by model: PATH"
        )
    if not total and not wanted.small:
        raise ModelError(f"{wanted.what}: {host(wanted.url)} does not say how large it is; try another mirror")
    if wanted.small and total > SMALL:
        raise ModelError(f"{wanted.what}: {human(total)} are no configuration")


def _settle(wanted: RemoteFile, part: _Part, said: HubSaid, resumed: bool) -> Fetched:
    """The file under its name, if it is the one that was meant."""
    found, meant = part.digest.hexdigest(), wanted.sha256 or said.sha256
    with disk_errors(FETCHING, wanted.path):
        if meant and found != meant:
            aside = wanted.path.with_name(wanted.path.name + ".wrong")
            part.path.replace(aside)
            by = wanted.by if wanted.sha256 else "the Hub"
            after = " (it was continued from an earlier start)" if resumed else ""
            raise ModelError(
                f"{wanted.what}: sha256 is {found[:12]}..., {by} says {meant[:12]}...: damaged, or another file{after}"
                f"; set aside as {aside}; fetch it again"
            )
        fsync_path(part.path)
        part.path.replace(wanted.path)
        fsync_path(wanted.path.parent)
    return Fetched(part.size, found, said.commit)
