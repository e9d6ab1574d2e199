# SPDX-License-Identifier: Apache-2.0
"""Original checkpoints: diffusers' own converters give every tensor of the folder back from the file made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from guidance.layouts import LAYOUTS
from guidance.layouts.build import construct
from guidance.layouts.single import BUFFERS, original_state, write_single

single_files = pytest.importorskip("diffusers.loaders.single_file_utils")
Folder = Callable[..., Path]
UNET = "model.diffusion_model."


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    assert all(found[name].shape == expected[name].shape and found[name].equal(expected[name]) for name in expected)


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def tensors(folder: Path) -> dict[str, Tensor]:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
def test_unet_and_autoencoder_come_back(name: str, random_folder: Folder) -> None:
    folder = random_folder(name, "deep")
    state = original_state(name, folder)
    unet = single_files.convert_ldm_unet_checkpoint(dict(state), config(folder / "unet"))
    equal(unet, tensors(folder / "unet"))
    vae = single_files.convert_ldm_vae_checkpoint(dict(state), config(folder / "vae"))
    equal(vae, tensors(folder / "vae"))


def test_the_average_is_what_a_loader_may_ask_for(random_folder: Folder) -> None:
    folder = random_folder("sd15", "deep")
    state = original_state("sd15", folder, ema=True)
    averaged = single_files.convert_ldm_unet_checkpoint(dict(state), config(folder / "unet"), extract_ema=True)
    equal(averaged, tensors(folder / "unet"))
    plain = single_files.convert_ldm_unet_checkpoint(dict(state), config(folder / "unet"))
    assert not any(plain[name].equal(averaged[name]) for name in plain)


def test_the_text_of_sd15_only_has_a_prefix_more(random_folder: Folder) -> None:
    folder = random_folder("sd15", "deep")
    state = original_state("sd15", folder)
    prefix = "cond_stage_model.transformer."
    equal(
        {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)},
        tensors(folder / "text_encoder"),
    )


def as_transformers(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The converter speaks transformers 4, prefixes and all: files do, too."""
    return {name: value for name, value in found.items() if not name.endswith("position_ids")}


def test_open_clip_of_sd21_comes_back_without_its_last_layer(random_folder: Folder) -> None:
    from transformers import CLIPTextModel

    folder = random_folder("sd21", "deep")
    state = original_state("sd21", folder)
    model = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    found = single_files.convert_open_clip_checkpoint(model, dict(state), prefix="cond_stage_model.model.")
    written = as_transformers(tensors(folder / "text_encoder"))
    found = {name if name.startswith("text_model.") else f"text_model.{name}": value for name, value in found.items()}
    found = {name: value for name, value in as_transformers(found).items() if "text_projection" not in name}
    equal(found, written)
    prefix = "cond_stage_model.model."
    layers = {key.split(".")[4] for key in state if key.startswith(f"{prefix}transformer.resblocks.")}
    assert len(layers) == 24
    assert len([key for key in state if key.startswith(prefix)]) == 24 * 12 + 6


def test_big_open_clip_of_sdxl_comes_back_with_its_projection(random_folder: Folder) -> None:
    from transformers import CLIPTextModelWithProjection

    folder = random_folder("sdxl", "deep")
    state = original_state("sdxl", folder)
    model = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2", dtype=torch.float32)
    found = single_files.convert_open_clip_checkpoint(model, dict(state), prefix="conditioner.embedders.1.model.")
    equal(as_transformers(found), tensors(folder / "text_encoder_2"))


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_the_library_reads_the_file_into_the_folder_s_network(
    name: str, ending: str, random_folder: Folder, tmp_path: Path
) -> None:
    from diffusers import UNet2DConditionModel

    folder = random_folder(name, "deep")
    path = write_single(name, folder, tmp_path / f"model{ending}", wrapped=ending == ".ckpt")
    made = UNet2DConditionModel.from_single_file(str(path), config=str(folder), subfolder="unet", local_files_only=True)
    equal(made.state_dict(), tensors(folder / "unet"))


@pytest.mark.parametrize("name", ["mvdream", "imagedream"])
def test_mvdream_s_folder_keeps_the_original_names(name: str, random_folder: Folder) -> None:
    """Renamed as a class embedding, diffusers' converter knows every tensor; ImageDream's own are left over."""
    folder, network = random_folder(name), LAYOUTS[name].part("unet")
    state = tensors(folder / "unet")
    assert not any(key.startswith(UNET) for key in state) and "camera_embed.0.weight" in state
    renamed = {UNET + key.replace("camera_embed.", "label_emb.0."): value for key, value in state.items()}
    settings = dict(network.tiny) | {"num_class_embeds": None, "addition_embed_type": None}
    found = single_files.convert_ldm_unet_checkpoint(renamed, settings)
    expected = construct(network, "tiny").state_dict()
    own = {key for key in state if key.startswith("image_embed.") or key.endswith("_ip.weight")}
    assert len(own) == (51 + 32 if name == "imagedream" else 0)
    kept = {key: value for key, value in found.items() if "_ip." not in key}
    assert {key: value.shape for key, value in kept.items()} == {key: value.shape for key, value in expected.items()}
    assert config(folder / "unet")["_class_name"] == "MultiViewUNetModel"


def test_names_of_the_original_checkpoints(random_folder: Folder) -> None:
    """Spot values of the published lists: these are facts, not maps."""
    mvdream = set(original_state("mvdream", random_folder("mvdream")))
    assert set(BUFFERS) <= mvdream
    assert {
        "model.diffusion_model.camera_embed.2.bias",
        "model.diffusion_model.input_blocks.3.0.op.weight",
        "model.diffusion_model.output_blocks.2.1.conv.weight",  # the first level has no attention
        "model.diffusion_model.output_blocks.5.2.conv.bias",
        "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.middle_block.2.in_layers.0.weight",
        "first_stage_model.encoder.mid.attn_1.proj_out.weight",
        "first_stage_model.decoder.up.3.block.1.conv2.bias",
        "cond_stage_model.model.transformer.resblocks.3.attn.in_proj_weight",
        "cond_stage_model.model.logit_scale",
    } <= mvdream
    imagedream = set(original_state("imagedream", random_folder("imagedream")))
    assert {
        "vae_model.quant_conv.weight",
        "clip_model.model.visual.transformer.resblocks.1.mlp.c_proj.bias",
        "clip_model.model.token_embedding.weight",
        "model.diffusion_model.image_embed.layers.3.1.3.weight",
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v_ip.weight",
    } <= imagedream


@pytest.mark.parametrize("name", ["zero123", "zero123-hf"])
def test_zero123_s_checkpoint_has_its_tower_and_projection(name: str, random_folder: Folder) -> None:
    folder = random_folder(name)
    state = original_state(name, folder)
    projection = state["cc_projection.weight"]
    assert projection.shape == (32, 36) and state["cc_projection.bias"].shape == (32,)
    tower = tensors(folder / "image_encoder")
    assert state["cond_stage_model.model.visual.proj"].equal(tower["visual_projection.weight"].T)
    query = tower["vision_model.encoder.layers.1.self_attn.q_proj.weight"]
    assert state["cond_stage_model.model.visual.transformer.resblocks.1.attn.in_proj_weight"][:32].equal(query)
    assert state[f"{UNET}input_blocks.0.0.weight"].shape[1] == 8
