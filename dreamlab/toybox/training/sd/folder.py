# SPDX-License-Identifier: Apache-2.0
"""The folder of a diffusers pipeline as users have it on disk: not quite what `save_pretrained` writes.

model_index.json, scheduler/, tokenizer/, text_encoder/, vae/, unet/; weights in fp16; the text encoder's keys with the
prefix that every real file has and transformers 5 leaves out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreamlab.core.files import disk_errors, write_atomic, write_json
from dreamlab.toybox.training.sd.shapes import SCHEDULER, Model

VERSION = "0.21.0"  # of the library that such folders say they come from
INDEX = "model_index.json"
UNET_WEIGHTS, TEXT_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"
PARTS = {
    "scheduler": ("diffusers", "DDIMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}


def halved(net: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: value.detach().half().contiguous() for name, value in net.state_dict().items()}


def write_part(folder: Path, weights: str, config: Mapping[str, Any], held: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save

    with disk_errors("writing a part of the pipeline", folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / weights, save(dict(held), {"format": "pt"}))
        write_json(folder / "config.json", dict(config))


def config_of(net: Model) -> dict[str, Any]:
    """A diffusers model's settings, with the names that mark its file."""
    kept = {name: value for name, value in net.config.items() if not name.startswith("_")}
    return {"_class_name": type(net).__name__, "_diffusers_version": VERSION} | kept


def write_vae(folder: Path, vae: Model, scale: float) -> None:
    write_part(folder, UNET_WEIGHTS, config_of(vae) | {"scaling_factor": scale}, halved(vae))


def read_vae(folder: Path) -> Model:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(str(folder), low_cpu_mem_usage=False)


def read_config(part: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((part / "config.json").read_text(encoding="utf-8"))
    return found


def read_base(folder: Path) -> nn.ModuleDict:
    """U-Net and text encoder of a pipeline's folder, to be left as they are."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    unet: Model = UNet2DConditionModel.from_pretrained(str(folder / "unet"), low_cpu_mem_usage=False)
    encoder = CLIPTextModel.from_pretrained(str(folder / "text_encoder"), dtype=torch.float32)
    return nn.ModuleDict({"unet": unet, "text_encoder": encoder}).requires_grad_(False).eval()


def write_text_encoder(folder: Path, encoder: Model) -> None:
    config = encoder.config.to_dict() | {"architectures": ["CLIPTextModel"], "dtype": None, "torch_dtype": "float16"}
    config = {name: value for name, value in config.items() if value is not None}
    held = halved(encoder, "text_model.")
    held["text_model.embeddings.position_ids"] = torch.arange(encoder.config.max_position_embeddings)[None]
    write_part(folder, TEXT_WEIGHTS, config, held)


def write_pipeline(folder: Path, name: str, net: nn.ModuleDict, vae: Path, tokenizer: Path) -> None:
    """`name`: StableDiffusionPipeline or MVDreamPipeline."""
    for part, source in (("vae", vae), ("tokenizer", tokenizer)):
        with disk_errors("copying a part of the pipeline", folder):
            shutil.copytree(source, folder / part, dirs_exist_ok=True)
    write_part(folder / "unet", UNET_WEIGHTS, config_of(net["unet"]), halved(net["unet"]))
    write_text_encoder(folder / "text_encoder", net["text_encoder"])
    scheduler = {"_class_name": "DDIMScheduler", "_diffusers_version": VERSION, "trained_betas": None}
    with disk_errors("writing the pipeline", folder):
        (folder / "scheduler").mkdir(exist_ok=True)
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler | SCHEDULER)
        write_json(folder / INDEX, index_of(name))


def index_of(name: str) -> dict[str, Any]:
    parts = {part: list(where) for part, where in PARTS.items()}
    nobody = {"feature_extractor": [None, None], "safety_checker": [None, None], "requires_safety_checker": False}
    return {"_class_name": name, "_diffusers_version": VERSION} | nobody | parts
