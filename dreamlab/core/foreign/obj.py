# SPDX-License-Identifier: Apache-2.0
"""Wavefront OBJ and its materials as arrays, with texture coordinates and the material of every triangle as the file
has them; runs in the child of `apart`. What it knows nothing of, it passes over."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dreamlab.core.foreign.headers import Refused

NAMELESS = "default"  # what a face wears before any usemtl
MOST_CORNERS = 30_000_000


@dataclass
class Stuff:
    """What is taken of a material: its colour (sRGB, as every program shows it) and its picture's file name."""

    base: tuple[float, float, float] = (1.0, 1.0, 1.0)
    picture: str = ""


class ObjArrays(NamedTuple):
    """Corners that faces name, each place, texture coordinate and normal once."""

    points: np.ndarray  # [V, 3]
    faces: np.ndarray  # [F, 3]
    uv: np.ndarray  # [V, 2] v grows downward, NaN where there is none
    normals: np.ndarray  # [V, 3] NaN where there is none
    tint: np.ndarray  # [V, 3] linear
    slot: np.ndarray  # [F] of materials
    materials: list[tuple[str, Stuff]]


def lines_of(data: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """The words of every line that has some, by its number from 0; a line that ends in a backslash goes on."""
    number, held = 0, b""
    for i, line in enumerate(data.split(b"\n")):
        line = line.rstrip(b"\r")
        if line.endswith(b"\\"):
            held += line[:-1] + b" "
            continue
        words = (held + line).split()
        if words and not words[0].startswith(b"#"):
            yield number, words
        held, number = b"", i + 1


def corner(word: bytes, counts: tuple[int, int, int]) -> tuple[int, int, int]:
    """Rows of place, texture coordinate and normal from 0, -1: none; negative ones count from the end."""
    found = []
    for part, count in zip((*word.split(b"/"), b"", b"")[:3], counts, strict=True):
        row = int(part) if part else 0
        found.append(row - 1 if row > 0 else count + row if row < 0 else -1)
        if part and not 0 <= found[-1] < count:
            raise Refused(f"one of its faces names {part.decode('latin-1')[:20]} of {count}: damaged")
    return found[0], found[1], found[2]


def read_obj(data: bytes, beside: Callable[[str], bytes]) -> ObjArrays:
    """Faces of more than three corners become fans."""
    places: list[list[float]] = []
    shades: dict[int, list[float]] = {}
    across: list[list[float]] = []
    bent: list[list[float]] = []
    rows: list[tuple[int, int, int]] = []
    slot: list[int] = []
    names: dict[str, int] = {}
    wears, libraries = NAMELESS, []
    try:
        for _, (word, *rest) in lines_of(data):
            if word == b"v":
                places.append([float(x) for x in rest[:3]])
                if len(rest) >= 6:
                    shades[len(places) - 1] = [float(x) for x in rest[3:6]]
            elif word == b"vt":
                across.append([float(x) for x in (*rest, b"0")[:2]])
            elif word == b"vn":
                bent.append([float(x) for x in rest[:3]])
            elif word == b"f":
                counts = (len(places), len(across), len(bent))
                ring = [corner(each, counts) for each in rest]
                which = names.setdefault(wears, len(names))
                for second, third in itertools.pairwise(ring[1:]):
                    rows += (ring[0], second, third)
                    slot.append(which)
                if len(rows) > MOST_CORNERS:
                    raise Refused(f"has more than {MOST_CORNERS // 3} triangles; simplify it")
            elif word == b"usemtl":
                wears = b" ".join(rest).decode("utf-8", "replace")
            elif word == b"mtllib":
                libraries.append(b" ".join(rest).decode("utf-8", "surrogateescape"))
        where = np.array(places, np.float64).reshape(-1, 3)
    except (ValueError, IndexError) as error:
        if isinstance(error, Refused):
            raise
        said = " ".join(str(error).split())[:120]
        raise Refused(f"cannot be read as a .obj file, so it is damaged or of another format ({said})") from None
    keys, faces = np.unique(np.array(rows, np.int64).reshape(-1, 3), axis=0, return_inverse=True)
    known = _materials(libraries, beside)
    return ObjArrays(
        where[keys[:, 0]],
        faces.reshape(-1, 3).astype(np.int64),
        _rows(np.array(across, np.float32).reshape(-1, 2) * [1, -1] + [0, 1], keys[:, 1]),
        _rows(np.array(bent, np.float32).reshape(-1, 3), keys[:, 2]),
        _tints(shades, len(where))[keys[:, 0]],
        np.array(slot, np.int64),
        [(name, known.get(name, Stuff())) for name in names],
    )


def _rows(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    spare = np.full((1, values.shape[1]), np.nan)
    return np.concatenate([values, spare])[index].astype(np.float32)  # -1 is the last row


def _tints(shades: dict[int, list[float]], count: int) -> np.ndarray:
    made = np.ones((count, 3))
    if len(shades) == count:
        made = linear(np.array([shades[i] for i in range(count)]).clip(0, 1))
    return made.astype(np.float32)


def linear(srgb: np.ndarray) -> np.ndarray:
    """Colours in linear light of sRGB in [0, 1] (IEC 61966-2-1)."""
    made: np.ndarray = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return made


def _materials(libraries: list[str], beside: Callable[[str], bytes]) -> dict[str, Stuff]:
    """Of all the material files that are there; programs go on without the others."""
    found: dict[str, Stuff] = {}
    for library in libraries:
        try:
            data = beside(library)
        except FileNotFoundError:
            continue
        current = Stuff()
        for _, (word, *rest) in lines_of(data):
            text = b" ".join(rest).decode("utf-8", "surrogateescape")
            if word == b"newmtl":
                current = found[text] = Stuff()
            elif word == b"Kd" and len(rest) >= 3:
                try:
                    r, g, b = (min(max(float(x), 0.0), 1.0) for x in rest[:3])
                    current.base = (r, g, b)
                except ValueError:
                    continue
            elif word == b"map_Kd" and rest:
                current.picture = text if not text.startswith("-") else rest[-1].decode("utf-8", "surrogateescape")
    return found
