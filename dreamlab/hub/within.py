# SPDX-License-Identifier: Apache-2.0
"""A model inside another that comes with the package: the Stable Diffusion in a network of four views that has also
learnt single pictures.

Those it was shown with a camera of zeros (`dreamlab.toybox.training.sd.unet`). The class embedding then adds one vector
c to that of the time, e = W silu(V t) + b + c; with b + c for b it is a plain U-Net that gives the same answers, and
every other tensor is the other's. Its folder is made in a second where the model is first asked for, beside those of
others.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dreamlab.core import digests
from dreamlab.core.files import disk_errors, write_atomic, write_json
from dreamlab.hub import lock, places
from dreamlab.hub.registry import HubModel

if TYPE_CHECKING:
    from torch import Tensor

INDEX, CONFIG, UNET = "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"
CAMERA = ("class_embed_type", "projection_class_embeddings_input_dim")  # settings that a U-Net without one lacks
CLASSES, BIAS = "class_embedding.", "time_embedding.linear_2.bias"


def made(model: HubModel) -> Path:
    """The folder of a model within another, named with the digest of what it was made from: it is never old."""
    source = places.SHIPPED / model.within
    known = digests.listed(places.SHIPPED).get(f"{model.within}/{UNET}", "unknown")
    folder = places.own(model).with_name(f"{model.name}-{known[:12]}")
    if not folder.is_dir():
        with lock.held(model.name), disk_errors(f"making {model.name}", folder):
            unfinished = folder.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            write_alone(source, unfinished)
            unfinished.replace(folder)
    return folder


def write_alone(source: Path, out: Path) -> None:
    """The folder of a StableDiffusionPipeline from one of an MVDreamPipeline."""
    from safetensors.torch import load_file, save

    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.md", "*.jsonl"))
    config, index = (json.loads((source / name).read_text(encoding="utf-8")) for name in (CONFIG, INDEX))
    write_json(out / CONFIG, config | dict.fromkeys(CAMERA))
    write_json(out / INDEX, index | {"_class_name": "StableDiffusionPipeline"})
    write_atomic(out / UNET, save(folded(load_file(source / UNET)), {"format": "pt"}))


def folded(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A U-Net's tensors without its camera. The class embedding of zeros is W silu(b) + d of its own two layers."""
    from torch.nn import functional

    names = ("linear_1.bias", "linear_2.weight", "linear_2.bias")
    first, weight, last = (held[CLASSES + name].float() for name in names)
    kept = {name: value for name, value in held.items() if not name.startswith(CLASSES)}
    nobody = functional.linear(functional.silu(first), weight, last)
    kept[BIAS] = (held[BIAS].float() + nobody).to(held[BIAS].dtype)
    return kept
