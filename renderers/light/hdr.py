# SPDX-License-Identifier: Apache-2.0
"""Pictures of radiance from files: Radiance .hdr (RGBE, run-length coded or flat) and OpenEXR scan lines.

EXR: half, float and uint channels named R, G, B (or Y), one part, uncompressed or ZIP / ZIPS; the rest is refused by
name.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import torch
from torch import Tensor

MAX_PIXELS = 8192 * 4096
MOST_BYTES = 1 << 30  # unpacked
RUN = 127  # pixels that two bytes can stand for
CHANNELS = ("R", "G", "B", "Y")  # those read; a file may have hundreds
_COMPRESSIONS = ("none", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")
_PIXEL_TYPES: dict[int, np.dtype] = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}


def read_hdr(data: bytes) -> Tensor:
    """[H, W, 3] linear radiance of a Radiance picture whose rows run from the top."""
    if not data.startswith((b"#?RADIANCE", b"#?RGBE")):
        raise ValueError("not a Radiance .hdr file")
    head, blank, rest = data.partition(b"\n\n")
    line, newline, body = rest.partition(b"\n")
    if not blank or not newline or b"32-bit_rle_xyze" in head:
        raise ValueError("a damaged header, or colours in XYZ (only RGBE is read)")
    words = line.split()
    if len(words) != 4 or words[0] != b"-Y" or words[2] != b"+X":
        raise ValueError(f"rows must run from the top ('-Y height +X width'), not {line[:40]!r}")
    height, width = _size(*(int(word) if word.isdigit() and len(word) < 9 else 0 for word in (words[1], words[3])))
    if len(body) * RUN < height * width * 4:
        raise ValueError(f"{width} x {height} pixels do not fit into its {len(data)} bytes: cut off")
    rgbe = np.zeros((height, width, 4), np.uint8)
    at = 0
    for row in rgbe:
        coded = width >= 8 and width < 32768 and body[at : at + 2] == b"\2\2" and body[at + 2 : at + 3] < b"\x80"
        at = _runs(body, at + 4, row) if coded else _flat(body, at, row)
    mantissa, exponent = rgbe[..., :3].astype(np.float32), rgbe[..., 3:].astype(np.int32)
    radiance = np.where(exponent > 0, np.ldexp(mantissa + 0.5, exponent - 136), 0.0)
    return torch.from_numpy(radiance.astype(np.float32))


def _size(height: int, width: int) -> tuple[int, int]:
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"a picture of {width} x {height} pixels; 1 to {MAX_PIXELS} in all are read")
    return height, width


def _flat(body: bytes, at: int, row: np.ndarray) -> int:
    end = at + row.size
    if end > len(body):
        raise ValueError("the picture ends too early")
    row[:] = np.frombuffer(body[at:end], np.uint8).reshape(row.shape)
    return end


def _runs(body: bytes, at: int, row: np.ndarray) -> int:
    """One row of four run-length coded components: n > 128 repeats the next byte n - 128 times, else n bytes follow."""
    width = len(row)
    for component in range(4):
        x = 0
        while x < width:
            if at + 1 >= len(body):
                raise ValueError("the picture ends too early")
            count = body[at]
            run, count = count > 128, count - 128 if count > 128 else count
            if count == 0 or x + count > width:
                raise ValueError("a run goes over the end of its row")
            taken = 1 if run else count
            if at + 1 + taken > len(body):
                raise ValueError("the picture ends too early")
            row[x : x + count, component] = np.frombuffer(body[at + 1 : at + 1 + taken], np.uint8)
            at, x = at + 1 + taken, x + count
    return at


def hdr_bytes(picture: Tensor) -> bytes:
    """A Radiance file of [H, W, 3], without run-length coding."""
    rgb = picture.clamp(min=0).double().numpy()
    peak = rgb.max(-1, keepdims=True)
    _, exponent = np.frexp(peak)
    scale = np.where(peak > 1e-32, np.ldexp(256.0, -exponent), 0.0)
    rgbe = np.concatenate([np.floor(rgb * scale), np.where(peak > 1e-32, exponent + 128, 0)], -1)
    height, width = rgb.shape[:2]
    head = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n".encode()
    return head + rgbe.clip(0, 255).astype(np.uint8).tobytes()


def read_exr(data: bytes) -> Tensor:
    """[H, W, 3] linear radiance."""
    if len(data) < 8 or struct.unpack("<I", data[:4])[0] != 20000630:
        raise ValueError("not an OpenEXR file")
    flags = struct.unpack("<I", data[4:8])[0]
    if flags & 0x1A00:
        raise ValueError("tiled, deep and multi-part EXR files are not read; save it as scan lines")
    try:
        header, at = _exr_header(data)
        compression = header["compression"][0]
        if compression not in (0, 2, 3):
            name = _COMPRESSIONS[compression] if compression < len(_COMPRESSIONS) else str(compression)
            raise ValueError(f"EXR compression {name} is not read; save it with ZIP or none")
        x0, y0, x1, y1 = struct.unpack("<4i", header["dataWindow"])
        height, width = _size(y1 - y0 + 1, x1 - x0 + 1)
        channels = _exr_channels(header["channels"])
        if height * width * sum(kind.itemsize for _, kind in channels) > MOST_BYTES:
            raise ValueError(
                f"{width} x {height} pixels of {len(channels)} channels; at most {MOST_BYTES} bytes are read"
            )
        rows_per_block = 16 if compression == 3 else 1
        blocks = -(-height // rows_per_block)
        planes = {name: np.zeros((height, width), np.float32) for name, _ in channels if name in CHANNELS}
        for offset in struct.unpack_from(f"<{blocks}Q", data, at):
            y, size = struct.unpack_from("<2i", data, offset)
            rows = min(rows_per_block, height - (y - y0))
            if not 0 <= y - y0 < height or size < 0:
                raise ValueError("a damaged EXR file")
            _exr_block(data[offset + 8 : offset + 8 + size], y - y0, rows, width, channels, planes, compression != 0)
    except (struct.error, zlib.error, KeyError, IndexError) as error:
        raise ValueError(f"a damaged EXR file ({error})") from None
    names = "RGB" if {"R", "G", "B"} <= planes.keys() else "YYY"
    if names[0] not in planes:
        found = ", ".join(sorted(name for name, _ in channels)[:8])
        raise ValueError(f"no channels R, G, B or Y, but {found}")
    return torch.from_numpy(np.stack([planes[name] for name in names], -1))


def _exr_header(data: bytes) -> tuple[dict[str, bytes], int]:
    """Attributes by name, and where the table of offsets begins."""
    header, at = {}, 8
    while data[at] != 0:
        name_end = data.index(0, at)
        type_end = data.index(0, name_end + 1)
        (size,) = struct.unpack_from("<i", data, type_end + 1)
        begin = type_end + 5
        if size < 0 or begin + size > len(data):
            raise ValueError("a damaged EXR header")
        header[data[at:name_end].decode("latin-1")] = data[begin : begin + size]
        at = begin + size
    return header, at + 1


def _exr_channels(table: bytes) -> list[tuple[str, np.dtype]]:
    found: list[tuple[str, np.dtype]] = []
    at = 0
    while table[at] != 0:
        end = table.index(0, at)
        kind, _, x_step, y_step = struct.unpack_from("<iIii", table, end + 1)
        if x_step != 1 or y_step != 1:
            raise ValueError("subsampled EXR channels are not read")
        found.append((table[at:end].decode("latin-1"), _PIXEL_TYPES[kind]))
        at = end + 17
    return found


def _exr_block(
    block: bytes,
    y: int,
    rows: int,
    width: int,
    channels: list[tuple[str, np.dtype]],
    planes: dict[str, np.ndarray],
    packed: bool,
) -> None:
    """Rows of one block: per row, the channels one after the other. ZIP: two interleaved halves of byte differences."""
    stride = width * sum(kind.itemsize for _, kind in channels)
    if packed and len(block) != stride * rows:  # a block that would grow is stored as it is
        raw = np.frombuffer(zlib.decompressobj().decompress(block, stride * rows), np.uint8).astype(np.int64)
        raw[1:] -= 128
        summed = (np.cumsum(raw) % 256).astype(np.uint8)
        halves = np.empty_like(summed)
        middle = (len(summed) + 1) // 2
        halves[::2], halves[1::2] = summed[:middle], summed[middle:]
        block = halves.tobytes()
    if len(block) != stride * rows:
        raise ValueError("an EXR block has the wrong size")
    for row in range(rows):
        at = row * stride
        for name, kind in channels:
            if name in planes:
                planes[name][y + row] = np.frombuffer(block, kind, width, at)
            at += width * kind.itemsize
