# SPDX-License-Identifier: Apache-2.0
"""Gaussians of a PLY as 3DGS writes it (Kerbl et al. 2023): logits, logarithms and harmonics channel by channel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dreamlab.core.foreign.headers import MOST_HEADER, Refused, check_ply

_KINDS = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
_KINDS |= {"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"}
_KINDS |= {"float": "f4", "float32": "f4", "double": "f8", "float64": "f8"}
_NEEDED = ("x", "y", "z", "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4)))
_DEGREES = {0: 0, 9: 1, 24: 2, 45: 3, 72: 4}  # of so many properties f_rest


class _Header(NamedTuple):
    order: str  # of bytes, or "" for text
    rows: int
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    begin: int  # of the vertices, in bytes after the header (lines, of text)
    length: int  # of the header


def is_splats(data: bytes) -> bool:
    """Whether a PLY's header names what a Gaussian has and a mesh has not."""
    head, end, _ = data[:MOST_HEADER].partition(b"end_header")
    words = [line.split() for line in head.splitlines()]
    names = {line[-1] for line in words if line[:1] == [b"property"]}
    return bool(end) and {b"scale_0", b"rot_0", b"opacity"} <= names


def axes_of(data: bytes) -> str:
    """What a comment `axes: ...` of ours says; nothing in files of others."""
    head = data[:MOST_HEADER].partition(b"end_header")[0].decode("latin-1")
    found = [line.split()[2] for line in head.splitlines() if line.startswith("comment axes: ") and len(line) > 14]
    return found[0] if found else ""


def parse_ply(data: bytes, most: int) -> dict[str, np.ndarray]:
    check_ply(data)
    header = _header(data)
    missing = [name for name in _NEEDED if name not in header.names]
    if missing:
        if "packed_position" in header.names:
            raise Refused("is packed as SuperSplat does; save it uncompressed")
        raise Refused(f"its vertices are no Gaussians as 3DGS writes them: {', '.join(missing)} missing")
    if not 1 <= header.rows <= most:
        raise Refused(f"holds {header.rows} Gaussians; 1 to {most} are read")
    rows = _rows(data, header)
    scales, opacity = _columns(rows, ("scale_0", "scale_1", "scale_2")), rows["opacity"].astype(np.float32)
    if (scales > 0).all() and (opacity >= 0).all() and (opacity <= 1).all():
        raise Refused("its scales and opacities are not logarithms and logits, as 3DGS has them, but the values: save "
                      "it again with a program that writes them as 3DGS does")  # fmt: skip
    with np.errstate(over="ignore"):
        return {
            "means": _columns(rows, ("x", "y", "z")),
            "quats": _columns(rows, ("rot_0", "rot_1", "rot_2", "rot_3")),
            "scales": np.exp(scales),
            "opacity": 1 / (1 + np.exp(-opacity)),
            "harmonics": _harmonics(rows, header.names),
        }


def _columns(rows: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    return np.stack([rows[name].astype(np.float32) for name in names], 1)


def _harmonics(rows: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    constant = ("f_dc_0", "f_dc_1", "f_dc_2")
    if not set(constant) <= set(names):
        raise Refused("its vertices have no colour (f_dc_0, f_dc_1, f_dc_2)")
    rest = [name for name in names if name.startswith("f_rest_")]
    if len(rest) not in _DEGREES or set(rest) != {f"f_rest_{i}" for i in range(len(rest))}:
        raise Refused(
            f"it has {len(rest)} properties f_rest; {', '.join(map(str, _DEGREES))} are harmonics of a degree"
        )
    more = (_DEGREES[len(rest)] + 1) ** 2 - 1
    found = np.zeros((len(rows), 1 + more, 3), np.float32)
    for channel in range(3):
        found[:, 0, channel] = rows[constant[channel]]
        for i in range(more):  # all of red, then all of green, then all of blue
            found[:, 1 + i, channel] = rows[f"f_rest_{channel * more + i}"]
    return found


def _header(data: bytes) -> _Header:
    """Of a file that `check_ply` found whole."""
    end = data.index(b"end_header")
    length = data.index(b"\n", end) + 1 if b"\n" in data[end:] else len(data)
    order, name, begin, count = "", "", 0, 0
    names: list[str] = []
    kinds: list[str] = []
    wide, rows, done = 0, 0, False  # of the element being read
    for line in data[:end].decode("latin-1").splitlines():
        words = line.split()
        if words[:1] == ["format"]:
            order = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}.get(words[1], "?")
        elif words[:1] == ["element"]:
            if name and name != "vertex" and not done:
                begin += rows * (wide if order else 1)
            done = done or name == "vertex"
            name, rows, wide = words[1], int(words[2]), 0
            count = rows if name == "vertex" else count
        elif words[:1] == ["property"] and not done:
            if words[1] == "list" and name:
                raise Refused(f"its element {name} has lists before the Gaussians end")
            wide += np.dtype(_KINDS[words[1]]).itemsize
            if name == "vertex":
                names.append(words[2])
                kinds.append(_KINDS[words[1]])
    if order == "?":
        raise Refused("its format is neither ascii nor binary")
    if len(set(names)) != len(names):
        raise Refused("its vertices have two properties of one name")
    return _Header(order, count, tuple(names), tuple(kinds), begin, length)


def _rows(data: bytes, header: _Header) -> np.ndarray:
    if header.order:
        pairs = zip(header.names, header.kinds, strict=True)
        record = np.dtype([(name, kind if kind.endswith("1") else header.order + kind) for name, kind in pairs])
        begin = header.length + header.begin
        if begin + header.rows * record.itemsize > len(data):
            raise Refused("it is cut off before the last Gaussian")
        return np.frombuffer(data, record, header.rows, begin)
    lines = data[header.length :].splitlines()[header.begin : header.begin + header.rows]
    try:
        table = np.array([line.split() for line in lines], np.float64)
    except ValueError:
        raise Refused("one of its lines is not numbers, or has more or fewer than the others") from None
    if table.shape != (header.rows, len(header.names)):
        raise Refused(f"its lines hold {table.shape[-1]} numbers, its header promises {len(header.names)}")
    rows = np.zeros(header.rows, [(name, "f8") for name in header.names])
    for i, name in enumerate(header.names):
        rows[name] = table[:, i]
    return rows
