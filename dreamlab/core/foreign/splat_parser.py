# SPDX-License-Identifier: Apache-2.0
"""Other people's Gaussians as arrays: 3DGS PLY in any order of properties, `.splat`, SPZ and GLB with
KHR_gaussian_splatting; runs in the child of `apart`.

Every parser answers with `means` [N, 3], `quats` [N, 4] wxyz, `scales` [N, 3], `opacity` [N] and `harmonics`
[N, (degree + 1)^2, 3], activated, in the axes of the file. Rows with a number that is not finite are left out.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np

from dreamlab.core.foreign.files import read_bytes
from dreamlab.core.foreign.headers import MOST_HEADER, Refused
from dreamlab.core.foreign.splat_glb import EXTENSION, parse_glb
from dreamlab.core.foreign.splat_ply import is_splats, parse_ply

MOST_FILE = 1 << 30
MOST_SPLATS = 5_000_000
FAR = 1e6  # metres
SH0 = 0.28209479177387814  # the constant harmonic
SPZ_MAGIC, SPZ_HEADER = 0x5053474E, 16
COLOUR = 0.15  # of SPZ's colours, so that they may leave [0, 1]
Columns = dict[str, np.ndarray]


def holds_splats(path: Path) -> bool:
    """Whether it is a file of Gaussians, by its name or its head."""
    suffix = path.suffix.lower()
    if suffix in (".ply", ".glb") and path.is_file():
        with path.open("rb") as handle:
            head = handle.read(MOST_HEADER)
        return is_splats(head) if suffix == ".ply" else EXTENSION.encode() in head
    return suffix in (".splat", ".spz")


def parse(path: Path) -> Columns:
    """By the file's suffix."""
    data = read_bytes(path, "it", MOST_FILE)
    found = _PARSERS[path.suffix.lower()](data, MOST_SPLATS)
    return _clean(found)


def parse_dot_splat(data: bytes, most: int) -> Columns:
    """Records of 32 bytes: place and size in floats, RGBA and a quaternion wxyz in bytes."""
    record = np.dtype([("place", "<f4", 3), ("size", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])
    if not data or len(data) % record.itemsize:
        raise Refused(f"has {len(data)} bytes; a .splat file has {record.itemsize} for each Gaussian")
    rows = np.frombuffer(data, record)
    _fits(len(rows), most)
    rgba = rows["rgba"].astype(np.float32) / 255
    return {
        "means": rows["place"],
        "scales": rows["size"],
        "quats": (rows["quat"].astype(np.float32) - 128) / 128,
        "opacity": rgba[:, 3],
        "harmonics": ((rgba[:, :3] - 0.5) / SH0)[:, None],
    }


def parse_spz(data: bytes, most: int) -> Columns:
    """Niantic's SPZ of versions 1 to 3: one gzip stream of columns. Version 4 is packed with zstd."""
    if data[:4] == struct.pack("<I", SPZ_MAGIC):
        raise Refused(f"is SPZ of version {_version(data)}, packed with zstd; save it as version 3 or as PLY")
    if data[:2] != b"\x1f\x8b":
        raise Refused("is no SPZ file: it does not begin as gzip does")
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    head = _unpacked(stream, data, SPZ_HEADER)
    if len(head) < SPZ_HEADER or struct.unpack("<I", head[:4])[0] != SPZ_MAGIC:
        raise Refused("is no SPZ file: what is packed in it begins otherwise")
    version, count, degree, fraction = struct.unpack("<IIBB", head[4:14])
    if version not in (1, 2, 3):
        raise Refused(f"is SPZ of version {version}; 1 to 3 are read")
    if degree > 4 or fraction > 24:
        raise Refused(f"its header has degree {degree} and {fraction} bits of fraction: damaged")
    _fits(count, most)
    more = (degree + 1) ** 2 - 1
    sizes = [count * each for each in (6 if version == 1 else 9, 1, 3, 3, 4 if version == 3 else 3, 3 * more)]
    body = _unpacked(stream, stream.unconsumed_tail, sum(sizes))
    if len(body) != sum(sizes):
        raise Refused(f"its header promises {sum(sizes)} bytes, {len(body)} follow: cut off or damaged")
    parts = np.split(np.frombuffer(body, np.uint8), np.cumsum(sizes)[:-1])
    places, alphas, colours, scales, turns, rest = parts
    unit = np.float32(1)
    constant = (colours.reshape(-1, 1, 3) / (255 * unit) - 0.5) / COLOUR
    finer = (rest.reshape(count, more, 3).astype(np.float32) - 128) / 128
    return {
        "means": _spz_places(places, version, fraction),
        "scales": np.exp(scales.reshape(-1, 3) / (16 * unit) - 10),
        "quats": _smallest_three(turns) if version == 3 else _without_w(turns),
        "opacity": alphas / (255 * unit),
        "harmonics": np.concatenate([constant, finer], 1),
        "compensated": np.full(count, head[14] & 1),  # its flag `antialiased`
    }


def _version(data: bytes) -> int:
    return int(struct.unpack("<I", data[4:8])[0]) if len(data) >= 8 else 0


def _unpacked(stream: zlib._Decompress, data: bytes, most: int) -> bytes:
    """So many bytes and no more, whatever the stream would unfold to."""
    try:
        return stream.decompress(data, most) if most else b""
    except zlib.error as error:
        raise Refused(f"its gzip stream is damaged ({error})") from None


def _spz_places(raw: np.ndarray, version: int, fraction: int) -> np.ndarray:
    if version == 1:
        return raw.view("<f2").astype(np.float32).reshape(-1, 3)
    wide = np.zeros((len(raw) // 3, 4), np.uint8)
    wide[:, 1:] = raw.reshape(-1, 3)  # the upper bytes: shifting down brings the sign along
    return ((wide.view("<i4") >> 8) / np.float32(1 << fraction)).astype(np.float32).reshape(-1, 3)


def _without_w(raw: np.ndarray) -> np.ndarray:
    xyz = raw.reshape(-1, 3) / np.float32(127.5) - 1
    w = np.sqrt(np.clip(1 - np.square(xyz).sum(1, keepdims=True), 0, None))
    return np.concatenate([w, xyz], 1)


def _smallest_three(raw: np.ndarray) -> np.ndarray:
    """Quaternions whose largest part is left out: its place in the upper two bits, the others in ten bits each, the
    sign before the size, z or w lowest."""
    packed = raw.view("<u4")
    largest = packed >> 30
    xyzw = np.zeros((len(packed), 4), np.float32)
    for axis in (3, 2, 1, 0):
        mine = largest != axis
        size = (packed & 511) / np.float32(511) * np.float32(math.sqrt(0.5))
        xyzw[:, axis] = np.where(mine, np.where(packed & 512, -size, size), 0)
        packed = np.where(mine, packed >> 10, packed)
    rest = np.sqrt(np.clip(1 - np.square(xyzw).sum(1), 0, None))
    xyzw[np.arange(len(xyzw)), largest] = rest
    return xyzw[:, [3, 0, 1, 2]]


def _fits(count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise Refused(f"holds {count} Gaussians; 1 to {most} are read")


def _clean(found: Columns) -> Columns:
    """Float32, finite, quaternions of length 1."""
    columns = {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}
    length = np.linalg.norm(columns["quats"], axis=1)
    keep = (length > 1e-6) & (columns["scales"] >= 0).all(1) & (np.abs(columns["means"]) <= FAR).all(1)
    for value in columns.values():
        keep &= np.isfinite(value.reshape(len(value), -1)).all(1)
    if not keep.any():
        raise Refused(f"none of its {len(keep)} Gaussians has finite numbers within {FAR:g} metres")
    kept = {name: value[keep] for name, value in columns.items()}
    kept["quats"] /= length[keep, None]
    kept["opacity"] = kept["opacity"].clip(0, 1)
    return kept


_PARSERS = {".ply": parse_ply, ".splat": parse_dot_splat, ".spz": parse_spz, ".glb": parse_glb}
