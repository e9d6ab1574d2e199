# SPDX-License-Identifier: Apache-2.0
"""At full size, on meta tensors: parameters and keys are the published ones, and so is the size of every file."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")

from guidance.layouts.build import describe

# parameters and keys of state dicts (guidance.md 11: constructed from the published configurations)
COUNTS = {
    ("sd15", "unet"): (859_520_964, 686),
    ("sd15", "vae"): (83_653_863, 248),
    ("sd15", "text_encoder"): (123_060_480, 196),
    ("sd15-lcm", "unet"): (859_602_884, 687),
    ("sd21", "unet"): (865_910_724, 686),
    ("sd21", "text_encoder"): (340_387_840, 372),
    ("sd21v", "unet"): (865_910_724, 686),
    ("sdxl", "unet"): (2_567_463_684, 1680),
    ("sdxl", "vae"): (83_653_863, 248),
    ("sdxl", "text_encoder"): (123_060_480, 196),
    ("sdxl", "text_encoder_2"): (694_659_840, 517),
    ("sdxl-lcm", ""): (2_567_545_604, 1681),
}

# bytes of the published file, its type, and what its header may take (guidance.md 14: Git-LFS pointers)
FILES = {
    ("sd15", "unet"): 3_438_167_540,
    ("sd15", "text_encoder"): 492_265_874,
    ("sd15", "vae"): 334_643_276,
    ("sd21", "unet"): 3_463_726_498,
    ("sd21", "text_encoder"): 1_361_597_018,
    ("sd21v", "unet"): 3_463_726_498,
    ("sdxl", "unet"): 10_270_077_736,
    ("sdxl", "text_encoder"): 492_265_168,
    ("sdxl", "text_encoder_2"): 2_778_702_264,
    ("sdxl", "vae"): 334_643_268,
}


@pytest.mark.parametrize(("name", "folder"), COUNTS)
def test_parameters_and_keys_are_the_published_ones(name: str, folder: str) -> None:
    found = describe(name, folder)
    assert (found.parameters, found.keys) == COUNTS[name, folder]


@pytest.mark.parametrize(("name", "folder"), FILES)
def test_the_published_file_is_its_tensors_and_a_header(name: str, folder: str) -> None:
    header = FILES[name, folder] - describe(name, folder).file_bytes
    assert 20_000 < header < 250_000
