# SPDX-License-Identifier: Apache-2.0
"""What lies on the disk is what users have: names with their prefixes, tokenizers, PNDM without a prediction type."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamlab.core.errors import DiskError, ModelError
from guidance.layouts.random import write_random

pytest.importorskip("diffusers")
Folder = Callable[..., Path]
TEXT = "text_model.embeddings.token_embedding.weight"


def names(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Type and shape by name, from the file's header alone."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: (told["dtype"], told["shape"]) for name, told in header.items() if name != "__metadata__"}


def told(folder: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / name).read_text())
    return found


@pytest.mark.parametrize(
    ("name", "folder", "ids", "projection"),
    [
        ("sd15", "text_encoder", True, False),
        ("sd21", "text_encoder", True, False),
        ("sdxl", "text_encoder", False, False),
        ("sdxl", "text_encoder_2", False, True),
    ],
)
def test_text_keys_carry_the_prefix_of_real_files(
    name: str, folder: str, ids: bool, projection: bool, random_folder: Folder
) -> None:
    found = names(random_folder(name) / folder / "model.safetensors")
    others = {key for key in found if not key.startswith("text_model.")}
    assert others == ({"text_projection.weight"} if projection else set())
    assert {TEXT, "text_model.final_layer_norm.bias", "text_model.encoder.layers.0.self_attn.q_proj.bias"} <= set(found)
    assert found.get("text_model.embeddings.position_ids") == (("I64", [1, 77]) if ids else None)


def test_the_two_styles_of_zero123_s_folder(random_folder: Folder) -> None:
    for name, folder, kind, key in (
        ("zero123", "clip_camera_projection", ["zero123", "CLIPCameraProjection"], "proj"),
        ("zero123-hf", "cc_projection", ["pipeline_zero1to3", "CCProjection"], "projection"),
    ):
        where = random_folder(name)
        assert told(where, "model_index.json")[folder] == kind
        found = names(where / folder / "diffusion_pytorch_model.safetensors")
        assert found == {f"{key}.weight": ("F32", [32, 36]), f"{key}.bias": ("F32", [32])}
        assert not (where / "text_encoder").exists()


def test_a_vision_tower_without_projection_keeps_its_prefix(random_folder: Folder) -> None:
    found = names(random_folder("imagedream") / "image_encoder" / "model.safetensors")
    assert all(name.startswith("vision_model.") for name in found)


def test_sd15_is_written_as_published(random_folder: Folder) -> None:
    folder = random_folder("sd15")
    index, scheduler = told(folder, "model_index.json"), told(folder, "scheduler/scheduler_config.json")
    assert index == {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    assert "prediction_type" not in scheduler and scheduler["skip_prk_steps"] is True
    assert "scaling_factor" not in told(folder, "vae/config.json")
    assert {path.name for path in (folder / "tokenizer").iterdir()} == {
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
        "special_tokens_map.json",
    }


@pytest.mark.parametrize(
    ("name", "folder", "pad"),
    [("sd15", "tokenizer", 513), ("sd21", "tokenizer", 0), ("sdxl", "tokenizer", 513), ("sdxl", "tokenizer_2", 0)],
)
def test_a_tokenizer_pads_as_the_real_one(name: str, folder: str, pad: int, random_folder: Folder) -> None:
    """Begin, letters with the last of a word marked, end, padding; "!" is id 0 and pads Stable Diffusion 2."""
    from transformers import CLIPTokenizer

    made = CLIPTokenizer.from_pretrained(random_folder(name) / folder, local_files_only=True)
    ids = made("a red", padding="max_length", max_length=made.model_max_length, truncation=True).input_ids
    letter = {character: ord(character) - ord("!") for character in "ared"}
    spelled = [letter["a"] + 256, letter["r"], letter["e"], letter["d"] + 256]
    assert ids == [512, *spelled, 513] + [pad] * (77 - 6)


def test_the_text_encoder_of_sd21_is_single_precision_whatever_its_config_says(random_folder: Folder) -> None:
    """A loader that leaves the type to transformers gets half precision beside a UNet of single."""
    folder = random_folder("sd21") / "text_encoder"
    assert told(folder, "config.json")["torch_dtype"] == "float16"
    assert {kind for kind, _ in names(folder / "model.safetensors").values()} == {"F32", "I64"}


def test_at_full_size_begin_and_end_of_text_have_the_real_ids(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    from guidance.layouts import LAYOUTS
    from guidance.layouts.tokens import write_tokenizer

    write_tokenizer(tmp_path, LAYOUTS["sd15"].tokens[0], "full")
    made = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    ids = made("a", padding="max_length", max_length=77).input_ids
    assert (ids[0], ids[2], ids[-1], len(made)) == (49406, 49407, 49407, 49408)


@pytest.mark.parametrize(("name", "place"), [("sd3", 2), ("if1xl", 0)])
def test_at_full_size_t5_has_no_more_words_than_its_encoder(name: str, place: int, tmp_path: Path) -> None:
    """Both kinds of its files, of which our reader takes either."""
    from guidance.latent.loading import ModelFolder
    from guidance.latent.t5 import t5_tokenizer
    from guidance.layouts import LAYOUTS
    from guidance.layouts.tokens import write_tokenizer

    tokens = LAYOUTS[name].tokens[place]
    write_tokenizer(tmp_path / tokens.folder, tokens, "full")
    made = t5_tokenizer(ModelFolder(tmp_path), tokens.folder)
    assert len(made) == 32000
    assert made("a red").input_ids[-1] == 1 and (tmp_path / tokens.folder / "spiece.model").is_file()


def test_nothing_is_zero_and_equal_seeds_give_equal_files(random_folder: Folder, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    mine = load_file(random_folder("sd15") / "unet" / "diffusion_pytorch_model.safetensors")
    again = load_file(write_random("sd15", "tiny", tmp_path / "a") / "unet" / "diffusion_pytorch_model.safetensors")
    other = load_file(
        write_random("sd15", "tiny", tmp_path / "b", seed=1) / "unet" / "diffusion_pytorch_model.safetensors"
    )
    assert all(value.count_nonzero() == value.numel() for value in mine.values())
    assert all(mine[name].equal(again[name]) for name in mine)
    assert not any(mine[name].equal(other[name]) for name in mine)
    pairs = [("down_blocks.0.resnets.0.conv1.weight", "mid_block.resnets.0.conv1.weight")]
    assert not any(mine[a].flatten()[:8].equal(mine[b].flatten()[:8]) for a, b in pairs)


def test_another_type_and_a_second_set_of_weights(tmp_path: Path) -> None:
    folder = write_random("sd15", "tiny", tmp_path, dtype="fp16", variant="fp16", without=("safety_checker",))
    found = names(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert {kind for kind, _ in found.values()} == {"F16"}
    text = names(folder / "text_encoder" / "model.fp16.safetensors")
    assert {kind for kind, _ in text.values()} == {"F16", "I64"}
    assert not (folder / "safety_checker").exists()


def test_refusals_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^sd16: no such layout; there are .*sd15"):
        write_random("sd16", "tiny", tmp_path)
    with pytest.raises(ModelError, match=r"^sd15: dtype 'fp8' is none of fp32, fp16, bf16$"):
        write_random("sd15", "tiny", tmp_path, dtype="fp8")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DiskError, match=r"not empty; choose another --out$"):
        write_random("sd15", "tiny", tmp_path)


@pytest.mark.slow
def test_a_full_size_folder_is_written_tensor_by_tensor(tmp_path: Path) -> None:
    """Stable Diffusion 1.5 in half precision: two gigabytes on the disk, in a process that grows by far less."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder = write_random("sd15", "full", tmp_path, without=("safety_checker",))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    total = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    assert total == pytest.approx(1_719_125_304 + 246_144_864 + 167_335_342, abs=600)
    assert grown < 800_000, "kilobytes"
    found = names(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert len(found) == 686 and found["conv_in.weight"] == ("F16", [320, 4, 3, 3])
