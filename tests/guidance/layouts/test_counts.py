# SPDX-License-Identifier: Apache-2.0
"""At full size, on meta tensors: parameters and keys are the published ones, and so is the size of every file."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")

from guidance.layouts import LAYOUTS
from guidance.layouts.build import construct, describe, in_file
from guidance.layouts.random import header

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
    ("if1xl", "unet"): (4_304_695_110, 775),
    ("if1xl", "text_encoder"): (4_762_310_656, 220),
    ("if1l", "unet"): (935_365_830, 775),
    ("if1m", "unet"): (371_605_830, 775),
    ("sd3", "transformer"): (2_028_328_000, 683),
    ("sd3", "vae"): (83_819_683, 244),
    ("sd3", "text_encoder"): (123_650_304, 197),
    ("sd3", "text_encoder_2"): (694_659_840, 517),
    ("sd3", "text_encoder_3"): (4_762_310_656, 220),
    ("sd35m", "transformer"): (2_243_171_520, 909),
    ("sd35l", "transformer"): (8_056_627_520, 1227),
    ("flux1-dev", "transformer"): (11_901_408_320, 1160),
    ("flux1-dev", "vae"): (83_819_683, 244),
    ("flux1-schnell", "transformer"): (11_891_178_560, 1156),
    ("flux2-klein-4b", "transformer"): (3_875_544_576, 169),
    ("flux2-klein-4b", "vae"): (84_046_115, 251),
    ("zimage", "transformer"): (6_154_908_736, 521),
    ("mvdream", "unet"): (867_572_164, 690),
    ("mvdream", "text_encoder"): (340_387_840, 372),
    ("imagedream", "unet"): (941_672_900, 773),
    ("zero123", "unet"): (859_532_484, 686),
    ("zero123", "image_encoder"): (303_966_208, 392),
    ("zero123-hf", "unet"): (859_532_484, 686),
    ("zero123plus", "unet"): (865_910_724, 686),
    ("zero123plus", "vision_encoder"): (632_076_800, 520),
    ("modelscope", "unet"): (1_411_233_860, 1480),
    ("zeroscope", "unet"): (1_411_233_860, 1480),
    ("svd", "unet"): (1_524_623_082, 1428),
    ("svd-xt", "unet"): (1_524_623_082, 1428),
    ("svd-xt", "vae"): (97_742_847, 374),
    # SVD's less or more what it is told: 1280 rows of 256, or of 1280, numbers in place of 768
    ("sv3d-u", "unet"): (1_524_623_082 - 1280 * 512, 1428),
    ("sv3d-p", "unet"): (1_524_623_082 + 1280 * 512, 1428),
    ("sv3d-p", "vae"): (83_653_863, 248),
    ("sv3d-p", "image_encoder"): (632_076_800, 520),
    ("cogvideox-2b", "transformer"): (1_693_783_872, 736),
    ("cogvideox-2b", "vae"): (215_583_907, 436),
    ("cogvideox-5b", "transformer"): (5_570_283_072, 1024),
    ("cogvideox-5b-i2v", "transformer"): (5_570_479_680, 1025),
    ("cogvideox15-5b", "transformer"): (5_570_676_352, 1024),
    ("wan21-1.3b", "transformer"): (1_418_996_800, 825),
    ("wan21-1.3b", "vae"): (126_892_531, 194),
    ("wan21-1.3b", "text_encoder"): (5_680_910_336, 243),
    ("wan21-14b", "transformer"): (14_288_491_584, 1095),
    ("wan21-i2v-14b", "transformer"): (16_394_878_784, 1303),
    ("wan22-t2v-a14b", "transformer_2"): (14_288_491_584, 1095),
    ("wan22-i2v-a14b", "transformer"): (14_288_901_184, 1095),
    ("wan22-5b", "transformer"): (4_999_787_712, 825),
    ("wan22-5b", "vae"): (704_688_668, 196),
    ("controlnet-sd15", ""): (361_279_120, 340),
    ("controlnet-sd21", ""): (364_228_240, 340),
    ("controlnet-sdxl", ""): (1_251_014_160, 844),
    ("controlnet-light", ""): (364_230_976, 340),
    ("motion-v1", ""): (417_137_600, 540),
    ("motion-v2", ""): (453_209_280, 567),
    ("motion-v3", ""): (417_137_600, 540),
    ("motion-sdxl", ""): (236_779_200, 405),
    ("taesd", ""): (2_445_063, 134),
    ("taesd16", ""): (2_458_899, 134),
}

# numbers in a state dict that are no parameters: tables of positions, statistics of latents
BUFFERS = {
    ("sd15", "unet"): 0,
    ("sd3", "transformer"): 56_623_104,
    ("sd35m", "transformer"): 226_492_416,
    ("sd35l", "transformer"): 89_653_248,
    ("flux2-klein-4b", "vae"): 257,
}

# bytes of the published file (guidance.md 14: Git-LFS pointers)
FILES = {
    ("sd15", "unet", "fp32"): 3_438_167_540,
    ("sd15", "unet", "fp16"): 1_719_125_304,
    ("sd15", "text_encoder", "fp32"): 492_265_874,
    ("sd15", "text_encoder", "fp16"): 246_144_864,
    ("sd15", "vae", "fp32"): 334_643_276,
    ("sd15", "vae", "fp16"): 167_335_342,
    ("sd21", "unet", "fp32"): 3_463_726_498,
    ("sd21", "text_encoder", "fp32"): 1_361_597_018,
    ("sd21v", "unet", "fp32"): 3_463_726_498,
    ("sdxl", "unet", "fp32"): 10_270_077_736,
    ("sdxl", "unet", "fp16"): 5_135_149_760,
    ("sdxl", "text_encoder", "fp32"): 492_265_168,
    ("sdxl", "text_encoder", "fp16"): 246_144_152,
    ("sdxl", "text_encoder_2", "fp32"): 2_778_702_264,
    ("sdxl", "text_encoder_2", "fp16"): 1_389_382_176,
    ("sdxl", "vae", "fp32"): 334_643_268,
    ("modelscope", "unet", "fp32"): 5_645_118_394,
    ("modelscope", "unet", "fp16"): 2_822_650_226,
    ("modelscope", "text_encoder", "fp32"): 1_361_597_016,
}


@pytest.mark.parametrize(("name", "folder"), COUNTS)
def test_parameters_and_keys_are_the_published_ones(name: str, folder: str) -> None:
    found = describe(name, folder)
    assert (found.parameters, found.keys) == COUNTS[name, folder]


@pytest.mark.parametrize(("name", "folder"), BUFFERS)
def test_what_a_state_dict_holds_besides_parameters(name: str, folder: str) -> None:
    assert describe(name, folder).buffers == BUFFERS[name, folder]


def test_the_index_of_shards_says_the_published_total() -> None:
    """SD3.5-large's diffusion_pytorch_model.safetensors.index.json: total_size."""
    assert describe("sd35l", "transformer").file_bytes == 16_292_561_536


def test_the_second_name_of_a_tensor_is_in_no_file() -> None:
    network = LAYOUTS["sd3"].part("text_encoder_3")
    named = in_file(network, construct(network, "full"), "fp16", "full")
    assert len(named) == 219 and "shared.weight" in named and "encoder.embed_tokens.weight" not in named


@pytest.mark.parametrize(("name", "folder", "dtype"), FILES)
def test_the_file_is_as_long_as_the_published_one(name: str, folder: str, dtype: str) -> None:
    """Its tensors to the byte, and its header but for digits: their order, which is not ours, decides how long offsets
    are written. One prefix left out of all names would be two thousand bytes."""
    network = LAYOUTS[name].part(folder)
    tensors = in_file(network, construct(network, "full"), dtype, "full")
    size = len(header(tensors)) + sum(tensor.bytes for tensor in tensors.values())
    assert abs(size - FILES[name, folder, dtype]) < 200
