# SPDX-License-Identifier: Apache-2.0
"""The Stable Diffusion inside a network of four views that has also learnt single pictures.

Beside rings it was shown pictures by themselves, with a camera of zeros (`unet`). Its class embedding then adds one
vector c to that of the time, e = W silu(V t) + b + c; with b + c for b it is a plain U-Net that gives the same answers,
and every other tensor is the file's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.files import disk_errors, write_json
from dreamlab.toybox.training.sd.folder import INDEX, UNET_WEIGHTS, index_of, write_part
from dreamlab.toybox.training.sd.shapes import CAMERA

CLASSES, BIAS = "class_embedding.", "time_embedding.linear_2.bias"


def folded(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A U-Net's tensors without its camera. The class embedding of zeros is W silu(b) + d of its own two layers."""
    first, weight, last = (
        held[CLASSES + name].float() for name in ("linear_1.bias", "linear_2.weight", "linear_2.bias")
    )
    kept = {name: value for name, value in held.items() if not name.startswith(CLASSES)}
    kept[BIAS] = (held[BIAS].float() + F.linear(F.silu(first), weight, last)).to(held[BIAS].dtype)
    return kept


def write_alone(source: Path, out: Path) -> None:
    """The folder of StableDiffusionPipeline from one of MVDreamPipeline."""
    from safetensors.torch import load_file

    with disk_errors("writing the pipeline of single pictures", out):
        for part in ("scheduler", "tokenizer", "text_encoder", "vae"):
            shutil.copytree(source / part, out / part, dirs_exist_ok=True)
        config = json.loads((source / "unet" / "config.json").read_text(encoding="utf-8"))
        held = folded(load_file(source / "unet" / UNET_WEIGHTS))
        write_part(out / "unet", UNET_WEIGHTS, config | dict.fromkeys(CAMERA), held)
        write_json(out / INDEX, index_of("StableDiffusionPipeline"))
