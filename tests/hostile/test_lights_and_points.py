# SPDX-License-Identifier: Apache-2.0
"""Light and guides from files that promise what they do not hold, or never end."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamlab.core.errors import InputError
from dreamlab.core.foreign.points import read_points
from renderers.light.environment import environment
from renderers.light.hdr import read_exr


def attribute(name: str, kind: str, data: bytes) -> bytes:
    return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(data)) + data


def exr(names: list[str], width: int, height: int, blocks: bytes = b"") -> bytes:
    """An uncompressed EXR of float channels; `blocks` follow the table of offsets."""
    channels = b"".join(name.encode() + b"\0" + struct.pack("<iIii", 2, 0, 1, 1) for name in sorted(names)) + b"\0"
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    head = struct.pack("<II", 20000630, 2) + attribute("channels", "chlist", channels)
    head += attribute("compression", "compression", b"\0") + attribute("dataWindow", "box2i", box) + b"\0"
    if not blocks:
        return head
    each = len(blocks) // height
    offsets = (struct.pack("<Q", len(head) + 8 * height + each * row) for row in range(height))
    return head + b"".join(offsets) + blocks


def hdr(size: str, body: bytes = b"") -> bytes:
    return f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n{size}\n".encode() + body


LIGHTS = {
    "large.hdr": (hdr("-Y 4096 +X 8192"), "do not fit into its"),
    "vast.hdr": (hdr("-Y 100000 +X 100000"), "100000 x 100000 pixels"),
    "digits.hdr": (hdr("-Y " + "9" * 5000 + " +X 4"), "are read"),
    "cut.hdr": (hdr("-Y 4 +X 8", b"\2\2\0\10" + b"\x88\1" * 3), "ends too early"),
    "many.exr": (exr([f"C{i}" for i in range(500)], 2000, 2000), "2000 x 2000 pixels of 500 channels"),
    "vast.exr": (exr(["R", "G", "B"], 100_000, 100_000), "100000 x 100000 pixels"),
    "other.exr": (exr([f"C{i}" for i in range(40)], 1, 1, struct.pack("<2i", 0, 160) + b"\0" * 160), "no channels R"),
}


def refused(read: Callable[[], object], name: str, words: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    said = str(caught.value)
    assert words in said and name in said and "\n" not in said and len(said) < 400, said
    assert peak < 64 << 20, f"{peak} bytes were taken to find that out"


@pytest.mark.parametrize("name", LIGHTS)
def test_bad_lights_are_one_line_and_take_no_memory(name: str, tmp_path: Path) -> None:
    data, words = LIGHTS[name]
    (tmp_path / name).write_bytes(data)
    refused(lambda: environment(str(tmp_path / name)), name, words)


@pytest.mark.parametrize(
    "read", [lambda path: environment(f"{path}.exr"), lambda path: read_points(Path(f"{path}.exr"))]
)
def test_pipes_devices_and_endless_files_are_not_read(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.exr")
    (tmp_path / "zero.exr").symlink_to("/dev/zero")
    with (tmp_path / "large.exr").open("wb") as handle:
        handle.truncate(11 << 30)
    for name, words in (
        ("pipe", "is a pipe"),
        ("zero", "is a device"),
        ("large", "at most"),
        ("absent", "no such file"),
    ):
        refused(lambda name=name: read(tmp_path / name), name, words)


def test_channels_that_are_no_light_are_skipped() -> None:
    """Depth and mattes beside R, G and B, as renderers write them."""
    names = ["A", "B", "G", "R", "Z", *(f"matte{i}" for i in range(20))]
    values = np.arange(2 * len(names) * 3, dtype="<f4").reshape(2, len(names), 3)  # row, channel, column
    blocks = b"".join(struct.pack("<2i", row, values[row].nbytes) + values[row].tobytes() for row in range(2))
    picture = read_exr(exr(names, 3, 2, blocks))
    assert torch.equal(picture, torch.from_numpy(values[:, [3, 2, 1]].transpose(0, 2, 1).copy()))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 0 0\n1 nan 2\n", "points.txt:2: '1 nan 2' is not a place"),
        ("0 0 0\n\n1 2\n", "points.txt:3: '1 2' is not x y z"),
        ("0 0 1e30\n", "points.txt:1"),
        ("x y z\n", "'x y z' is not x y z"),
        ("", "0 points"),
        ("0 0 0\n" * 200_001, "200001 points; 1 to 200000"),
        ("9" * 5000 + " 1 1\n", "points.txt:1"),
    ],
)
def test_bad_points_name_the_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "points.txt").write_text(text)
    with pytest.raises(InputError) as caught:
        read_points(tmp_path / "points.txt")
    assert words in str(caught.value) and len(str(caught.value)) < 400


def test_good_points_are_read(tmp_path: Path) -> None:
    (tmp_path / "points.txt").write_text("1 2 3\n\n-1e3\t0.5 6 and a colour\n")
    assert torch.equal(read_points(tmp_path / "points.txt"), torch.tensor([[1.0, 2.0, 3.0], [-1000.0, 0.5, 6.0]]))
