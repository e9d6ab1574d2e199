# SPDX-License-Identifier: Apache-2.0
"""The registry: what is in it agrees with what was seen of the real files, and a wrong entry is one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dreamlab.core.errors import ModelError
from dreamlab.hub.reading import read
from dreamlab.hub.registry import COMMERCIAL, WIDTHS, HubModel, packaged
from tests.hub.conftest import MODELS

REGISTRY = read(packaged())
ALL = list(REGISTRY.models.values())

# Bytes and beginnings of SHA-256 in the Git-LFS pointers of copies of the repositories; written down a second time.
SEEN = """
sd15 unet/diffusion_pytorch_model.safetensors 3438167540 19da7aaa
sd15 unet/diffusion_pytorch_model.fp16.safetensors 1719125304 c8390825
sd15 text_encoder/model.safetensors 492265874 d008943c
sd15 text_encoder/model.fp16.safetensors 246144864 77795e20
sd15 vae/diffusion_pytorch_model.safetensors 334643276 a2b5134f
sd15 vae/diffusion_pytorch_model.fp16.safetensors 167335342 4fbcf0eb
sd15-file v1-5-pruned-emaonly.safetensors 4265146304 6ce01616
sd21-base unet/diffusion_pytorch_model.safetensors 3463726498 6dfae3e5
sd21 unet/diffusion_pytorch_model.safetensors 3463726498 12385222
sd21-base text_encoder/model.safetensors 1361597018 cce6febb
sd21 text_encoder/model.safetensors 1361597018 cce6febb
sd21 vae/diffusion_pytorch_model.safetensors 334643276 a1d99348
sd21-base-file v2-1_512-ema-pruned.safetensors 5214604494 df955bdf
sd21-file v2-1_768-ema-pruned.safetensors 5214604494 dcd69012
sdxl unet/diffusion_pytorch_model.safetensors 10270077736 357650fb
sdxl unet/diffusion_pytorch_model.fp16.safetensors 5135149760 83e012a8
sdxl text_encoder/model.safetensors 492265168 5c3d6454
sdxl text_encoder/model.fp16.safetensors 246144152 660c6f5b
sdxl text_encoder_2/model.safetensors 2778702264 3a6032f6
sdxl text_encoder_2/model.fp16.safetensors 1389382176 ec310df2
sdxl vae/diffusion_pytorch_model.safetensors 334643268 1598f3d2
sdxl-file sd_xl_base_1.0.safetensors 6938078334 31e35c80
modelscope unet/diffusion_pytorch_model.safetensors 5645118394 1296dbed
modelscope unet/diffusion_pytorch_model.fp16.safetensors 2822650226 f972e78d
modelscope text_encoder/model.safetensors 1361597016 1e4aa519
modelscope vae/diffusion_pytorch_model.safetensors 334643276 a1d99348
flux-schnell transformer/diffusion_pytorch_model-00001-of-00003.safetensors 9962580296 9b633dbe
flux-schnell text_encoder_2/model-00002-of-00002.safetensors 4530066360 a5640855
zero123 105000.ckpt 15465973531 f0fee4e7
zero123-xl zero123-xl.ckpt 15465973531 bc4ea2f8
stable-zero123 stable_zero123.ckpt 0 a28d471b
taesd diffusion_pytorch_model.safetensors 9793292 d7956d56
svd-xt unet/diffusion_pytorch_model.fp16.safetensors 3049435868 9fbc02e9
cogvideox-2b transformer/diffusion_pytorch_model.safetensors 3387650264 8fbb6a5e
ip-adapter-sd15 models/ip-adapter_sd15.safetensors 44642768 289b45f1
"""

NAMES = """
sd15 sd21-base sd21 sdxl sdxl-vae-fp16-fix if-xl sd3-medium sd35-medium sd35-large flux-dev flux-schnell klein-4b
z-image controlnet-depth-sd15 controlnet-normal-sd15 controlnet-depth-sdxl light-geo-controlnet ip-adapter-sd15
ip-adapter-plus-sd15 ip-adapter-sdxl lcm-sd15 lcm-sdxl lcm-lora-sd15 lcm-lora-sdxl hyper-sd15 hyper-sdxl dmd2 sd-turbo
sdxl-turbo mvdream mvdream-diffusers imagedream imagedream-diffusers zero123 zero123-xl stable-zero123 stable-zero123-c
zero123plus zero123plus-v1.1
animatediff-v15 animatediff-v15-2 animatediff-v15-3 animatediff-sdxl modelscope zeroscope svd svd-xt sv3d-u
sv3d-p cogvideox-2b cogvideox-5b wan21-t2v-1.3b wan21-t2v-14b wan21-i2v-14b-480p wan22-t2v-a14b wan22-i2v-a14b
wan22-ti2v-5b taesd taesdxl taesd3 taef1 depth-anything-v2-small dpt-large marigold-normals
"""


def test_what_users_will_type_is_there() -> None:
    assert set(NAMES.split()) <= set(REGISTRY.models)


@pytest.mark.parametrize("seen", SEEN.strip().splitlines(), ids=lambda seen: " ".join(seen.split()[:2]))
def test_files_are_those_that_were_seen(seen: str) -> None:
    name, path, size, digest = seen.split()
    (weight,) = [weight for weight in REGISTRY.models[name].weights if weight.path == path]
    assert weight.bytes == int(size) and weight.sha256.startswith(digest)


def test_bytes_are_parameters_times_width_and_a_header() -> None:
    """Numbers of two sources: pointers of files, and architectures built without storage."""
    held = 0
    for model in ALL:
        for weight in model.weights:
            if weight.bytes and weight.params and weight.type:
                header = weight.bytes - weight.params * WIDTHS[weight.type]
                # position_ids of old text encoders, 77 x 8 bytes, are no parameters
                assert 0 < header < 250_000 and 30 < header / max(1, tensors(weight.params)) < 400, (model.name, weight)
                held += 1
    assert held >= 25


def tensors(params: int) -> int:
    """How many the architecture has, where that is known: a header line is about a hundred bytes."""
    known = {859520964: 686, 865910724: 686, 2567463684: 1680, 123060480: 196, 694659840: 517, 83653863: 248}
    known |= {
        340387840: 372,
        1411233860: 1480,
        1524623082: 1428,
        1693783872: 736,
        632076800: 520,
        22319616: 36,
        2445063: 134,
    }
    return known[params]


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.name)
def test_entries_say_what_may_be_done_with_them(model: HubModel) -> None:
    assert (
        model.licence
        and model.commercial in COMMERCIAL
        and all(family in REGISTRY.classes for family in model.families)
    )
    assert model.revision == "unknown" or re.fullmatch(r"[0-9a-f]{40}", model.revision)
    assert all(re.fullmatch(r"[0-9a-f]{64}", weight.sha256) for weight in model.weights if weight.sha256)
    if "NC" in model.licence or "on-commercial" in model.licence.replace("non-", "on-").replace("Non-C", "on-c"):
        assert model.commercial == "no"
    if model.licence == "unknown":
        assert model.commercial == "unclear"


def test_gates_and_limits_as_the_cards_say() -> None:
    """Of guidance.md 13: who must be asked first, and who earns too much."""
    gated = {model.name for model in ALL if model.gated}
    assert {
        "if-xl",
        "flux-dev",
        "flux-schnell",
        "klein-4b",
        "sd3-medium",
        "svd-xt",
        "sv3d-u",
        "stable-zero123-c",
    } <= gated
    assert not gated & {"sd15", "sd21", "sdxl", "mvdream", "zero123", "wan21-t2v-1.3b", "z-image", "cogvideox-2b"}
    limited = {model.name for model in ALL if model.commercial == "limit"}
    assert limited == {
        *("sd3-medium", "sd35-medium", "sd35-large", "sd-turbo", "sdxl-turbo", "svd", "svd-xt", "sv3d-u", "sv3d-p"),
        *("stable-zero123-c", "cogvideox-5b"),
    }
    refused = {model.name for model in ALL if model.commercial == "no"}
    assert {"if-xl", "flux-dev", "stable-zero123", "zero123plus", "dmd2", "modelscope", "zeroscope"} <= refused


def test_one_file_of_a_slot() -> None:
    sd15 = REGISTRY.models["sd15"]
    assert [weight.path for weight in sd15.chosen("fp16")] == [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    assert sd15.size("fp16") == (1719125304 + 246144864 + 167335342, "known")
    assert sd15.size() == (3438167540 + 492265874 + 334643276, "known")
    assert not sd15.alone and REGISTRY.models["sd15-file"].alone


def test_names_of_shards_are_the_libraries_own() -> None:
    """`diffusion_pytorch_model-00001-of-00002.safetensors`; of a variant `model.fp16-00001-of-00002.safetensors`."""
    large = REGISTRY.models["sd35-large"].weights[0]
    assert large.shard(2, 2) == "transformer/diffusion_pytorch_model-00002-of-00002.safetensors"
    assert large.index == "transformer/diffusion_pytorch_model.safetensors.index.json"
    half = next(w for w in REGISTRY.models["if-xl"].weights if w.variant and w.path.startswith("text"))
    assert half.shard(1, 2) == "text_encoder/model.fp16-00001-of-00002.safetensors"
    assert half.index == "text_encoder/model.safetensors.index.fp16.json"


def test_estimators_are_what_no_prior_stands_in_for() -> None:
    assert REGISTRY.estimators == {"cutout", "depth", "normals"}


WRONG = [
    ("sd = { classes", "sd = { class", r"models.toml: sd: unknown key 'class' \(did you mean 'classes'\?\)"),
    ('licence = "MIT"', 'license = "MIT"', r"models.toml: split: unknown key 'license' \(did you mean 'licence'\?\)"),
    ('commercial = "limit"', 'commercial = "maybe"', "gate: commercial 'maybe' must be one of yes, limit, no, unclear"),
    ('repo = "owner/old"', 'repo = "http://old"', "old: repo 'http://old' and mirrors must be OWNER/NAME or https"),
    ('repo = "owner/old"', "repo = 7", "old: repo 7 must be text"),
    ("gated = true", "gated = 1", "gate: gated 1 must be true or false"),
    ('base = "tiny"', 'base = "tine"', r"gate: base 'tine' \(did you mean 'tiny'\?\)"),
    ('family = "mvdream"', 'family = "mv"', r"old: family 'mv' is not under \[families\]"),
    ('path = "old.pt"', 'path = "../old.pt"', "old: weights: path '../old.pt' holds '../old.pt': a path within"),
    ('path = "old.pt"', 'path = "/old.pt"', "old: weights: path '/old.pt' holds"),
    ('path = "old.pt"', 'path = "old.py"', "old: weights: path 'old.py' holds"),
    ('path = "old.pt"', 'path = "old.pt", hash = "x"', "old: weights: unknown key 'hash'"),
    ('path = "old.pt"', 'path = "old.pt", sha256 = "xy"', "must be 64 hexadecimal digits"),
    ('path = "old.pt"', 'path = "old.pt", bytes = -1', "must be a whole number"),
    ('path = "old.pt"', 'path = "old.pt", type = "fp8"', "must be one of fp32, fp16, bf16"),
    ('path = "old.pt"', 'path = "old.pt", shards = 65', "must be at most 64"),
    ('path = "old.pt"', 'path = "old.pt", shards = 2, bytes = 9', "list them one by one"),
    ('"unet/config.json"]', '"unet/config.json", "unet/model.safetensors"]', "unet/model.safetensors is there twice"),
    ('layout = "mvdream-file"', 'revision = "main"', "revision 'main' must be a commit of 40 digits, or 'unknown'"),
    ('licence = "OpenRAIL"', "", "licence None is missing"),
    ("[models.old]", '[models."Old One"]', "'Old One' is no name of a model"),
    ("[models.old]", "[models.old", "cannot be read"),
]


@pytest.mark.parametrize(("was", "now", "said"), WRONG, ids=lambda text: text[:24])
def test_a_wrong_entry_is_named(tmp_path: Path, was: str, now: str, said: str) -> None:
    assert MODELS.count(was) >= 1
    (tmp_path / "models.toml").write_text(MODELS.replace(was, now))
    with pytest.raises(ModelError, match=said) as caught:
        read(tmp_path / "models.toml")
    assert "\n" not in str(caught.value)
