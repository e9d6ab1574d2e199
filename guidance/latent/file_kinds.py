# SPDX-License-Identifier: Apache-2.0
"""Which kind of file names and shapes of tensors belong to."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from guidance.latent import ldm_names

WHOLE = ("sd1", "sd2", "sdxl", "mvdream", "imagedream", "zero123", "sv3d")  # kinds that hold all that a family needs


TOLD_ORBITS = (256, 1280)  # waves beside the picture: of SV3D_u, of SV3D_p


def recognise(shapes: Mapping[str, Tensor]) -> str:
    """Which kind of file names and shapes belong to: one of WHOLE, controlnet, lora, ip-adapter, part (of a folder of
    diffusers), or empty."""
    if any(".lora_" in name or "_lora." in name or ".lora." in name for name in shapes):
        return "lora"
    if any(name.startswith("ip_adapter.") for name in shapes):
        return "ip-adapter"
    if any(name.endswith(("input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight")) for name in shapes):
        return "controlnet"
    if any(
        name.startswith(("down_blocks.", "encoder.down_blocks.", "text_model.", "transformer_blocks."))
        for name in shapes
    ):
        return "part"
    first = shapes.get(f"{ldm_names.UNET}input_blocks.0.0.weight")
    if first is None:
        return ""
    if first.shape[1] == 8 and "cc_projection.weight" in shapes:
        return "zero123"
    told = shapes.get(f"{ldm_names.UNET}label_emb.0.0.weight")
    if first.shape[1] == 8 and told is not None and any(".time_stack." in name for name in shapes):
        return "sv3d" if told.shape[1] in TOLD_ORBITS else "svd"
    if first.shape[1] != 4:
        return ""
    if f"{ldm_names.UNET}camera_embed.0.weight" in shapes:
        return "imagedream" if any(name.startswith(f"{ldm_names.UNET}image_embed.") for name in shapes) else "mvdream"
    if f"{ldm_names.UNET}label_emb.0.0.weight" in shapes:
        return "sdxl" if any(name.startswith("conditioner.embedders.1.") for name in shapes) else ""
    ends = shapes.get(f"{ldm_names.UNET}input_blocks.1.1.proj_in.weight")
    return "" if ends is None else ("sd2" if ends.ndim == 2 else "sd1")


def hint(shapes: Mapping[str, Tensor]) -> str:
    """What a file that is no whole model may be, and what to do with it."""
    return {
        "lora": "a LoRA, which is given to a model as its `lora`",
        "ip-adapter": "an IP-Adapter, which is given to a model as its `ip_adapter`",
        "controlnet": "a ControlNet, which is given to a model as its `controlnet`",
        "svd": "a Stable Video Diffusion, which is read from a folder: get the one that diffusers has",
        "part": "one network of a diffusers folder: give the folder that holds model_index.json",
        "": "no model known here: of single files SD 1.5, SD 2.x, SDXL, MVDream, ImageDream, Zero123, SV3D are read; "
        "inpainting models, refiners and transformers (SD 3, FLUX) are not",
    }[recognise(shapes)]
