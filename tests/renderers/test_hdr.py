# SPDX-License-Identifier: Apache-2.0
"""Files of radiance, written here byte by byte as the formats say, and by OpenEXR where it is installed."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamlab.core.errors import InputError
from renderers.light.environment import environment
from renderers.light.hdr import hdr_bytes, read_exr, read_hdr


def picture(height: int = 21, width: int = 37) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.rand(height, width, 3, generator=g) * 10 ** torch.empty(height, width, 1).uniform_(-3, 3, generator=g)


def exr(values: Tensor, compression: int, kind: str = "<f4") -> bytes:
    """Scan lines of B, G, R as OpenEXR's file layout document describes them."""
    code = {"<u4": 0, "<f2": 1, "<f4": 2}[kind]
    height, width = values.shape[:2]

    def attribute(name: str, type_name: str, data: bytes) -> bytes:
        return name.encode() + b"\0" + type_name.encode() + b"\0" + struct.pack("<i", len(data)) + data

    channels = b"".join(c + b"\0" + struct.pack("<iIii", code, 0, 1, 1) for c in (b"B", b"G", b"R")) + b"\0"
    box = struct.pack("<4i", 3, -2, 3 + width - 1, -2 + height - 1)
    head = struct.pack("<II", 20000630, 2) + attribute("channels", "chlist", channels)
    head += attribute("compression", "compression", bytes([compression])) + attribute("dataWindow", "box2i", box)
    head += attribute("displayWindow", "box2i", box) + attribute("lineOrder", "lineOrder", b"\0") + b"\0"
    rows = 16 if compression == 3 else 1
    blocks = []
    for y in range(0, height, rows):
        raw = values[y : y + rows].flip(-1).permute(0, 2, 1).numpy().astype(kind).tobytes()
        if compression:
            halves = np.frombuffer(raw[::2] + raw[1::2], np.uint8).astype(np.int64)
            halves[1:] = (halves[1:] - halves[:-1] + 128) % 256
            packed = zlib.compress(halves.astype(np.uint8).tobytes())
            raw = packed if len(packed) < len(raw) else raw
        blocks.append(struct.pack("<2i", y - 2, len(raw)) + raw)
    at = len(head) + 8 * len(blocks)
    offsets = b""
    for block in blocks:
        offsets, at = offsets + struct.pack("<Q", at), at + len(block)
    return head + offsets + b"".join(blocks)


@pytest.mark.parametrize("compression", [0, 2, 3])
@pytest.mark.parametrize("kind", ["<f4", "<f2"])
def test_scan_lines_of_every_kind_we_claim(compression: int, kind: str) -> None:
    smooth = torch.linspace(0, 2, 21 * 37 * 3).reshape(21, 37, 3)  # so that ZIP makes it smaller
    for values in (smooth, picture()):
        torch.testing.assert_close(read_exr(exr(values, compression, kind)), values, rtol=1e-3, atol=1e-4)


def test_openexr_writes_what_we_read(tmp_path: Path) -> None:
    package = pytest.importorskip("OpenEXR", reason="needs the package OpenEXR")
    values = picture()
    for name in ("NO_COMPRESSION", "ZIPS_COMPRESSION", "ZIP_COMPRESSION"):
        header = {"compression": getattr(package, name), "type": package.scanlineimage}
        path = tmp_path / f"{name}.exr"
        package.File(header, {"RGB": values.numpy()}).write(str(path))
        torch.testing.assert_close(read_exr(path.read_bytes()), values)


def test_radiance_flat_and_run_length_coded() -> None:
    values = picture()
    flat = hdr_bytes(values)
    read = read_hdr(flat)
    assert ((read - values).abs() <= values.amax(-1, keepdim=True) / 127).all()
    head, body = flat[: flat.rindex(b"+X 37\n") + 6], flat[flat.rindex(b"+X 37\n") + 6 :]
    rgbe = np.frombuffer(body, np.uint8).reshape(21, 37, 4).copy()
    rgbe[:, 5:30] = rgbe[:, 5:6]  # something to repeat
    coded = b""
    for row in rgbe:
        coded += bytes([2, 2, 0, 37])
        for c in range(4):
            column = row[:, c].tobytes()
            coded += bytes([5]) + column[:5] + bytes([128 + 25, column[5], 7]) + column[30:]
    assert torch.equal(read_hdr(head + coded), read_hdr(head + rgbe.tobytes()))


@pytest.mark.parametrize("cut", [0, 9, 40, 60, 300])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, cut: int) -> None:
    for name, data in (("x.hdr", hdr_bytes(picture())), ("x.exr", exr(picture(), 3))):
        (tmp_path / name).write_bytes(data[:cut])
        with pytest.raises(InputError, match=name):
            environment(str(tmp_path / name))
    with pytest.raises(ValueError, match="PIZ"):
        read_exr(exr(picture(), 4))


def test_radiance_that_no_light_has_is_refused(tmp_path: Path) -> None:
    values = picture()
    values[3, 3, 0] = float("nan")
    (tmp_path / "x.exr").write_bytes(exr(values, 0))
    with pytest.raises(InputError, match="finite"):
        environment(str(tmp_path / "x.exr"))
