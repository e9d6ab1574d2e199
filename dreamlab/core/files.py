# SPDX-License-Identifier: Apache-2.0
"""Writing that survives a crash: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dreamlab.core.errors import DiskError

Json = dict[str, Any]  # an object of JSON: what of it is there, its reader finds out


def fsync_path(path: Path) -> None:
    """Flush a file or a folder to the disk; folders cannot be opened on Windows and need no flush there."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Either the old file or the whole new one is there, whatever happens."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def write_json(path: Path, value: object) -> None:
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomic(path, text.encode("utf-8", "backslashreplace"))  # bytes of a file name that are no text: "\\udcff"


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def try_lock(descriptor: int) -> bool:
    """An exclusive, non-blocking lock of the whole file; the kernel drops it with the process."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def disk_errors(what: str, path: Path) -> Iterator[None]:
    """Turns a refused write, whatever the system calls it, into exit code 7 and one line."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"{path}: {what} failed ({error.strerror or error}); {remedy(error)}") from error
    except UnicodeEncodeError as error:
        lacks = f"the locale's encoding, {error.encoding}, lacks a character of the name"
        shown = str(path).encode("ascii", "backslashreplace").decode()
        raise DiskError(f"{shown}: {what} failed ({lacks}); set LC_ALL=C.UTF-8, or choose another name") from None


_REMEDIES = {
    "free some space, or choose another --out": (errno.ENOSPC, errno.EDQUOT),
    "allow writing there, or choose another --out": (errno.EACCES, errno.EPERM, errno.EROFS),
    "raise the limit on the size of files (ulimit -f)": (errno.EFBIG,),
    "the disk itself fails: choose another --out": (errno.EIO,),
    "choose a shorter --out": (errno.ENAMETOOLONG,),
    "something else stands in its place: move that away": (errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
    "close other programs, or raise the limit on open files (ulimit -n)": (errno.EMFILE, errno.ENFILE),
}


def remedy(error: OSError) -> str:
    """What to do about a write that the system refused."""
    found = [words for words, numbers in _REMEDIES.items() if error.errno in numbers]
    return found[0] if found else "look whether the folder is still there, or choose another --out"
