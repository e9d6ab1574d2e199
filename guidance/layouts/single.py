# SPDX-License-Identifier: Apache-2.0
"""Single files: a folder's networks under the names of the original repositories, in one safetensors or torch file.

The names come from `original.py`, which was written from diffusers' names backwards; a loader that maps them forwards
must give the folder's tensors back, value for value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from guidance.layouts.original import as_open_clip, as_unet, as_vae, as_visual
from guidance.layouts.random import Dice, layout_of

if TYPE_CHECKING:
    from torch import Tensor

BUFFERS = (
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
)


def _read(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a network's folder, whole or in shards."""
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= load_file(path)
    return state


def _config(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def _prefixed(prefix: str, items: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    return ((prefix + name, value) for name, value in items)


def _text(name: str, folder: Path, dice: Dice) -> Iterator[tuple[str, Tensor]]:
    """The text encoders under the prefixes of the family's single file."""
    first = _read(folder / "text_encoder")
    if name == "sdxl":
        yield from _prefixed("conditioner.embedders.0.transformer.", iter(first.items()))
        second = _read(folder / "text_encoder_2")
        yield from _prefixed("conditioner.embedders.1.model.", as_open_clip(second, dice.normal))
    elif name.startswith("sd15"):
        yield from _prefixed("cond_stage_model.transformer.", iter(first.items()))
    else:
        model = "clip_model.model." if name == "imagedream" else "cond_stage_model.model."
        yield from _prefixed(model, as_open_clip(first, dice.normal))


def original_state(name: str, folder: Path, ema: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """The tensors of a single file of this layout, from a folder of it; what a folder lacks is random.

    With `ema` the average's weights (`model_ema.`, names without dots) are there beside others that differ.
    """
    import torch

    dice, layout = Dice(seed), layout_of(name)
    denoiser, vae = folder / "unet", folder / "vae"
    unet = _read(denoiser)
    if not layout.part("unet").original:
        unet = dict(as_unet(unet, _config(denoiser)))
    state = {f"model.diffusion_model.{key}": value for key, value in unet.items()}
    levels = 4  # of every one of these autoencoders
    first = "vae_model." if name == "imagedream" else "first_stage_model."
    state |= dict(_prefixed(first, as_vae(_read(vae), levels)))
    folders = {network.folder for network in layout.parts}
    if "text_encoder" in folders:
        state |= dict(_text(name, folder, dice))
    if name == "imagedream":
        state |= dict(_prefixed("clip_model.model.visual.", as_visual(_read(folder / "image_encoder"))))
    if name.startswith("zero123"):
        state |= dict(_prefixed("cond_stage_model.model.visual.", as_visual(_read(folder / "image_encoder"))))
        (inner,) = folders & {"clip_camera_projection", "cc_projection"}
        projected = _read(folder / inner)
        state |= {f"cc_projection.{key.rpartition('.')[2]}": value for key, value in projected.items()}
    state |= {buffer: torch.zeros(1000) for buffer in BUFFERS}
    if ema:
        for key in list(unet):
            plain = "diffusion_model" + key.replace(".", "")
            state[f"model_ema.{plain}"] = state[f"model.diffusion_model.{key}"]
            state[f"model.diffusion_model.{key}"] = dice.normal(key, tuple(unet[key].shape))
    return state


def write_single(name: str, folder: Path, out: Path, ema: bool = False, wrapped: bool = False) -> Path:
    """One file of the original names: safetensors, or (.ckpt, .pt) torch's; `wrapped`: within state_dict."""
    import torch
    from safetensors.torch import save_file

    state = {key: value.contiguous() for key, value in original_state(name, folder, ema).items()}
    if out.suffix == ".safetensors":
        save_file(state, out, {"format": "pt"})
    else:
        torch.save({"state_dict": state, "global_step": 0} if wrapped else state, out)
    return out
