# SPDX-License-Identifier: Apache-2.0
"""Other materials for an OBJ whose lines stay byte for byte: only what names the material file changes. A file without
texture coordinates gets them: new `vt` lines, and faces that name them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np

from dreamlab.core.foreign.obj import NAMELESS, corner

KEYS = {"base": b"map_Kd", "rough": b"map_Pr", "metal": b"map_Pm", "normal": b"norm"}
_REPLACED = (b"Kd", b"map_Kd", b"Pr", b"map_Pr", b"Pm", b"map_Pm")


def word_of(line: bytes) -> bytes:
    words = line.split(None, 1)
    return words[0] if words else b""


def patched_obj(data: bytes, library: str, fresh: np.ndarray | None) -> bytes:
    """The text with `library` as its material file; faces before any `usemtl` get one. `fresh` [F, 3, 2]: texture
    coordinates of its triangles, v downward."""
    lines = _whole(data)
    end = b"\r\n" if lines and lines[0].endswith(b"\r\n") else b"\n"
    first_face = next((i for i, line in enumerate(lines) if word_of(line) == b"f"), len(lines))
    named = any(word_of(line) == b"usemtl" for line in lines[:first_face])
    made = [b"mtllib " + library.encode() + end]
    for i, line in enumerate(lines):
        if i == first_face and fresh is not None:
            made += _coordinates(fresh, end)
        if i == first_face and not named:
            made.append(b"usemtl " + NAMELESS.encode() + end)
        if word_of(line) != b"mtllib":
            made.append(line)
    return b"".join(made if fresh is None else _renamed(made, fresh, end))


def _whole(data: bytes) -> list[bytes]:
    """Lines with their ends; one that ends in a backslash holds the next one, too."""
    *rows, last = data.split(b"\n")
    lines, held = list[bytes](), b""
    for line in (*(row + b"\n" for row in rows), last):
        held += line
        if not line.rstrip(b"\r\n").endswith(b"\\"):
            lines.append(held)
            held = b""
    return [line for line in (*lines, held) if line]


def _coordinates(fresh: np.ndarray, end: bytes) -> list[bytes]:
    keys = np.unique(fresh.reshape(-1, 2), axis=0)
    return [f"vt {u:.7g} {1 - v:.7g}".encode() + end for u, v in keys.tolist()]


def _renamed(lines: list[bytes], fresh: np.ndarray, end: bytes) -> list[bytes]:
    """Faces, triangle by triangle, naming the new coordinates beside the places and normals that they named."""
    index = np.unique(fresh.reshape(-1, 2), axis=0, return_inverse=True)[1].reshape(-1, 3) + 1
    made, counts, row = [], [0, 0, 0], 0
    for line in lines:
        word = word_of(line)
        if word in (b"v", b"vn"):
            counts[(b"v", b"vt", b"vn").index(word)] += 1
        if word != b"f":
            made.append(line)
            continue
        words = line.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").split()[1:]
        ring = [corner(each, (counts[0], 1 << 40, counts[2])) for each in words]
        for second, third in itertools.pairwise(ring[1:]):
            corners = zip((ring[0], second, third), index[row].tolist(), strict=True)
            named = [f"{place + 1}/{at}" + (f"/{bent + 1}" if bent >= 0 else "") for (place, _, bent), at in corners]
            made.append(b"f " + " ".join(named).encode() + end)
            row += 1
    return made


def patched_mtl(
    libraries: list[bytes], painted: Mapping[str, Mapping[str, str]], copied: Callable[[str], None]
) -> bytes:
    """One material file of all that an OBJ named: `painted` materials show new pictures (file names by what they are),
    the statements of others stay. `copied` hears of every picture that still is named."""
    made: list[bytes] = [b"# materials of the file, painted by DreamLab"]
    done: set[str] = set()
    current = ""
    for line in (line for library in libraries for line in library.splitlines()):
        word = word_of(line)
        if word == b"newmtl":
            current = line.split(None, 1)[1].strip().decode("utf-8", "replace") if len(line.split()) > 1 else ""
            made.append(line)
            if current in painted and current not in done:
                made += _statements(painted[current])
                done.add(current)
        elif current in painted and (word in _REPLACED or (word in (b"norm", b"map_Bump", b"bump")
                                                           and "normal" in painted[current])):  # fmt: skip
            continue
        else:
            if word.startswith((b"map_", b"norm", b"bump", b"disp", b"refl")) and len(line.split()) > 1:
                copied(line.split(None, 1)[1].strip().decode("utf-8", "surrogateescape"))
            made.append(line)
    for name in sorted(set(painted) - done):
        made += [b"newmtl " + name.encode(), *_statements(painted[name])]
    return b"\n".join(made) + b"\n"


def _statements(pictures: Mapping[str, str]) -> list[bytes]:
    return [b"Kd 1 1 1", *(KEYS[kind] + b" " + file.encode() for kind, file in pictures.items())]
