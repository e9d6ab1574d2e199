# SPDX-License-Identifier: Apache-2.0
"""Pictures that were made to harm: refused in one line before their pixels take memory; and the command line, given
what no shell should hand it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from dreamlab.core.errors import InputError
from dreamlab.recipe.picture import PictureSettings, read_picture
from tests.conftest import Commands

ROOT = Path(__file__).parents[2]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(wide: int, high: int, packed: bytes = b"", *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def bomb(rows: int) -> bytes:
    """So many rows of 8000 black pixels in a few kilobytes."""
    pack = zlib.compressobj(9)
    return b"".join(pack.compress(b"\0" * (1 + 3 * 8000)) for _ in range(rows)) + pack.flush()


BAD = {
    "vast.png": (png(20_000, 20_000), "too many pixels"),
    "giga.png": (png(2**31 - 1, 2**31 - 1), "too many pixels"),
    "short.png": (png(64, 64, zlib.compress(b"\0" * 100)), "cannot be read as PNG or JPEG"),
    "text.png": (png(64, 64, b"", chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * (80 << 20)))), "cannot be read"),
    "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg'><rect/></svg>", "cannot be read as PNG or JPEG"),
    "jpeg.jpg": (b"\xff\xd8\xff\xe0" + b"\0" * 40, "cannot be read as PNG or JPEG"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_one_line(name: str, tmp_path: Path) -> None:
    data, words = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_picture(tmp_path / name, PictureSettings())
    said = str(caught.value)
    assert words in said and name in said and "\n" not in said and len(said) < 300, said


def test_a_picture_that_is_large_and_black_is_read_in_a_child(tmp_path: Path) -> None:
    """Within the sides that are allowed: 8000 x 8000 pixels of 190 kB; the process that asks holds none of them."""
    (tmp_path / "black.png").write_bytes(png(8000, 8000, bomb(8000)))
    code = f"""
from pathlib import Path
from dreamlab.core.foreign.apart import parsed
print(parsed("picture", Path({str(tmp_path / "black.png")!r}), "image")["rgba"].shape)
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    shape, peak = done.stdout.splitlines()
    assert shape == "(1024, 1024, 4)" and int(peak) < 150_000


def test_pipes_devices_and_folders_are_no_pictures(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name, words in (("pipe.png", "is a pipe"), ("zero.png", "is a device"), ("folder.png", "is a folder")):
        with pytest.raises(InputError, match=words):
            read_picture(tmp_path / name, PictureSettings())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([b"caf\xe9 of stone"], 3),  # a prompt that is no UTF-8
        ([b"a duck", b"stages.0.name=\xff"], 2),
        ([b"a duck", b"--recipe", b"\xff.yaml"], 2),
        ([b"a duck", b"--image", b"\xff.png"], 3),
        ([b"--prompt-file", b"\xff"], 3),
        ([b"a duck", b"stages.0.steps=" + b"9" * 5000], 2),
        ([b"a duck", b"seed=" + b"9" * 400], 2),
        ([b"a duck", b"stages.0.terms.0.system.cfg=" + b"9" * 400], 2),
        ([b"a duck", b"stages=" + b"[" * 5000], 2),
        ([b"a duck", b"a" * 60_000 + b".b=3"], 2),
    ],
)
def test_a_command_line_no_shell_should_hand_over(dreamlab: Commands, words: list[bytes], code: int) -> None:
    command = "dream" if b"--recipe" in words else "check"  # which takes the recipe as a word
    ended = dreamlab(command, *map(os.fsdecode, words))
    assert ended.code == code, ended.err
    assert ended.err.startswith("error:") and ended.err.count("\n") == 1 and len(ended.err) < 800
    assert "(a defect" not in ended.err


def test_a_prompt_that_is_no_text_through_a_real_process() -> None:
    command = [sys.executable, "-m", "dreamlab", "check", b"caf\xe9 of stone"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=120)
    said = "error: prompt: character 3 is no UTF-8 text; write it in UTF-8\n"
    assert (done.returncode, done.stderr.decode()) == (3, said)
