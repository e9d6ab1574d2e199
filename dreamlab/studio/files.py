# SPDX-License-Identifier: Apache-2.0
"""Sends files of a run: only what its own manifest names, opened below its folder and never through a link, whole or in
part, with a tag that lets a browser keep it (RFC 9110, 13 and 14)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from dreamlab.core.text import slug
from dreamlab.studio.answers import Refusal, Reply, unknown

PART = 1 << 18  # bytes that are read at once
SECURE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
KINDS = {
    ".png": "image/png", ".jpg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp", ".mp4": "video/mp4",
    ".glb": "model/gltf-binary", ".gltf": "model/gltf+json", ".obj": "model/obj", ".mtl": "model/mtl",
    ".stl": "model/stl", ".json": "application/json", ".usdz": "model/vnd.usdz+zip",
    ".txt": "text/plain; charset=utf-8",
    ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
    ".woff2": "font/woff2", ".yaml": "text/plain; charset=utf-8", ".html": "text/html; charset=utf-8",
}  # fmt: skip
INLINE = ("image/png", "image/jpeg", "image/gif", "image/webp", "video/mp4")  # a browser may show; all else it saves
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


def kind_of(name: str) -> str:
    return KINDS.get(Path(name).suffix.lower(), "application/octet-stream")


def opened_below(folder: Path, name: str) -> int:
    """A regular file's descriptor, reached from its folder step by step, no step of which is a link."""
    at = -1
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        steps = name.split("/")
        for i, step in enumerate(steps, 1):
            if step in ("", ".", "..") or "\0" in step:
                raise unknown(f"file {name[:80]!r}")
            below = os.open(step, SECURE if i == len(steps) else SECURE | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        if not stat.S_ISREG(os.fstat(at).st_mode):
            raise unknown(f"file {name[:80]!r}")
        found, at = at, -1
        return found
    except OSError:
        raise unknown(f"file {name[:80]!r}") from None
    finally:
        if at >= 0:
            os.close(at)


def sent(
    folder: Path, name: str, headers: Mapping[str, str], kind: str, tag: str, saved_as: str, lasting: bool = True
) -> Reply:
    """A file of a folder. `tag` is of its content; `lasting`: the same address never holds anything else."""
    handle = opened_below(folder, name)
    try:
        told = os.fstat(handle)
        quoted = f'"{tag or f"{told.st_ino:x}-{told.st_size:x}-{told.st_mtime_ns:x}"}"'
        shown = "inline" if kind in INLINE else "attachment"
        answer = {
            "ETag": quoted,
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, max-age=31536000, immutable" if lasting else "private, no-cache",
            "Content-Disposition": f"{shown}; {_name(saved_as)}",
        }
        if quoted in [each.strip().removeprefix("W/") for each in headers.get("if-none-match", "").split(",")]:
            os.close(handle)
            return Reply(b"", 304, answer, kind)
        first, count, status = _part(headers, quoted, told.st_size)
        answer["Content-Length"] = str(count)
        if status == 206:
            answer["Content-Range"] = f"bytes {first}-{first + count - 1}/{told.st_size}"
        return Reply(_parts(handle, first, count), status, answer, kind, lambda: os.close(handle))
    except Refusal:
        os.close(handle)
        raise


def _name(saved_as: str) -> str:
    """As RFC 6266 says it; the plain form is ASCII, the other all of Unicode."""
    stem, dot, suffix = saved_as.rpartition(".")
    plain = f"{slug(stem)}{dot}{slug(suffix)}" if dot else slug(saved_as)
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(saved_as, safe='')}"


def _part(headers: Mapping[str, str], tag: str, size: int) -> tuple[int, int, int]:
    """(first byte, count, status) of one range; several at once, or one of an older file, are answered whole."""
    found = _RANGE.fullmatch(headers.get("range", "").strip())
    if found is None or headers.get("if-range", tag) != tag or not (found[1] or found[2]):
        return 0, size, 200
    first = int(found[1]) if found[1] else max(size - int(found[2]), 0)
    last = min(int(found[2]), size - 1) if found[1] and found[2] else size - 1
    if first >= size or last < first:
        where = {"Content-Range": f"bytes */{size}"}
        raise Refusal(416, "range", f"the file has {size} bytes", "ask for a part of those", headers=where)
    return first, last - first + 1, 206


def _parts(handle: int, first: int, count: int) -> Iterator[bytes]:
    while count > 0 and (part := os.pread(handle, min(PART, count), first)):
        first, count = first + len(part), count - len(part)
        yield part
