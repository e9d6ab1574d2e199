# SPDX-License-Identifier: Apache-2.0
"""Where a user's file is, and its bytes: a regular file, no larger than agreed. A pipe or a device could give bytes for
ever, or never one. Imports neither torch nor numpy, for the child that parses starts with it."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from dreamlab.core.errors import InputError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def located(name: str, folder: Path) -> Path:
    """The file that a recipe in `folder` calls `name`; an absolute name is what it says."""
    return folder / name


def read_bytes(path: Path, what: str, most: int) -> bytes:
    """All of a file; `what` it is stands first in a complaint."""
    size = checked_size(path, what, most)
    try:
        # Without O_NONBLOCK, opening what became a pipe since would wait for its writer.
        flags = os.O_RDONLY if sys.platform == "win32" else os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags), "rb") as handle:
            if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                raise InputError(f"{what} {path}: is not a regular file")
            data = handle.read(size + 1)
    except OSError as error:
        raise InputError(f"{what} {path}: cannot be read ({error.strerror})") from None
    if len(data) != size:
        raise InputError(f"{what} {path}: changed while it was read; try again")
    return data


def checked_size(path: Path, what: str, most: int) -> int:
    """Bytes of a regular file, without opening it."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise InputError(f"{what} {path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{what} {str(path)!r}: cannot be read ({error})") from None
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise InputError(f"{what} {path}: is {kind}; give a regular file")
    if found.st_size > most:
        raise InputError(f"{what} {path}: {found.st_size} bytes; at most {most} are read")
    return found.st_size
