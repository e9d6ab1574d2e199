# SPDX-License-Identifier: Apache-2.0
"""What an uploaded file is, by its own bytes and never by its name; and how many pixels a picture promises, read off
its head before anything decodes it. PNG: ISO 15948; JPEG: ITU T.81 B.2; WebP: RFC 9649."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

HEAD = 1 << 16  # bytes that are looked at
MOST_PIXELS = 25_000_000
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of JPEG that begin a frame
_NUMBER = rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_VERTEX = re.compile(rb"^\s*v\s+" + _NUMBER + rb"\s+" + _NUMBER + rb"\s+" + _NUMBER, re.MULTILINE)


@dataclass(frozen=True)
class Sniffed:
    """A kind of file that is taken."""

    kind: str  # picture or mesh
    suffix: str
    width: int = 0
    height: int = 0


def sniff(head: bytes, size: int) -> Sniffed | None:
    """By the first HEAD bytes of a file of `size`; None for what nobody here reads."""
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR" and len(head) >= 24:
        return Sniffed("picture", ".png", *struct.unpack(">II", head[16:24]))
    if head.startswith(b"\xff\xd8\xff"):
        return Sniffed("picture", ".jpg", *_jpeg(head))
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Sniffed("picture", ".webp", *_webp(head))
    if head.startswith(b"glTF") and len(head) >= 12:
        return Sniffed("mesh", ".glb")
    if re.match(rb"ply\r?\n", head):
        return Sniffed("mesh", ".ply")
    # An STL of bytes has 80 of text, a count, and 50 of each triangle; one of text begins with its word.
    if len(head) >= 84 and size == 84 + 50 * struct.unpack("<I", head[80:84])[0]:
        return Sniffed("mesh", ".stl")
    if head.lstrip()[:6] == b"solid " and b"facet" in head:
        return Sniffed("mesh", ".stl")
    if b"\0" not in head and _VERTEX.search(head):
        return Sniffed("mesh", ".obj")
    return None


def _jpeg(head: bytes) -> tuple[int, int]:
    """Width and height of the first frame; of a head without one nothing, which is refused as no picture."""
    at = 2
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            return 0, 0
        marker = head[at + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # filling, or without a length
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            high, wide = struct.unpack(">HH", head[at + 5 : at + 9])
            return wide, high
        at += 2 + struct.unpack(">H", head[at + 2 : at + 4])[0]
    return 0, 0


def _webp(head: bytes) -> tuple[int, int]:
    kind = head[12:16]
    if kind == b"VP8X" and len(head) >= 30:
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L" and len(head) >= 25 and head[20] == 0x2F:
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(head) >= 30 and head[23:26] == b"\x9d\x01\x2a":
        wide, high = struct.unpack("<HH", head[26:30])
        return wide & 0x3FFF, high & 0x3FFF
    return 0, 0
