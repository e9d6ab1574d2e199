# SPDX-License-Identifier: Apache-2.0
"""Networks made from a configuration and filled with tensors under checked names: nothing is drawn, nothing is left
out. They are made on the meta device, so that memory holds the weights once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from dreamlab.core.errors import ModelError
from dreamlab.core.files import Json
from guidance.latent.ldm_names import check

Config = Mapping[str, object]
OLD_BUFFERS = (".position_ids", "position_ids")  # numbers of places, which newer classes make themselves


def built(part: str, config: Config) -> nn.Module:
    """The network of a part, without weights. transformers' classes make no attribute of what they were not told."""
    try:
        import diffusers
        import transformers
    except ImportError:
        raise ModelError(
            "a pretrained model needs diffusers and transformers: pip install 'dreamlab[models]'"
        ) from None
    given: Json = dict(config)
    with torch.device("meta"):
        if part in ("unet", "video_unet", "vae", "controlnet"):
            kinds: Json = {
                "unet": diffusers.UNet2DConditionModel,
                "video_unet": diffusers.UNetSpatioTemporalConditionModel,
                "vae": diffusers.AutoencoderKL,
                "controlnet": diffusers.ControlNetModel,
            }
            net: nn.Module = kinds[part](**given)
            return net
        if part == "text_encoder":
            return transformers.CLIPTextModel(transformers.CLIPTextConfig(**given))
        if part == "text_encoder_2":
            return transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**given))
        if part == "image_encoder":
            return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**given))
        if part == "cc_projection":
            return nn.Linear(**given)
    raise ValueError(part)


def filled(
    net: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype, where: str, precise: Collection[str] = ()
) -> nn.Module:
    """The network with exactly these tensors, as copies in `dtype`, frozen; ModelError names what does not fit. Parts
    of a name that are `precise` stay in float32."""
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    kept = {name: value for name, value in state.items() if name in wanted or not name.endswith(OLD_BUFFERS)}
    check({name: tuple(value.shape) for name, value in kept.items()}, wanted, where)
    copies = {}
    for name, value in kept.items():
        own = torch.float32 if set(precise) & set(name.split(".")) else dtype
        copies[name] = value.to(own, copy=True) if value.is_floating_point() else value
    net.load_state_dict(copies, strict=True, assign=True)
    for module in net.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta and name == "position_ids":
                module.register_buffer(name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False)
    left = [name for name, value in [*net.named_parameters(), *net.named_buffers()] if value.is_meta]
    if left:
        raise ModelError(f"{where}: {len(left)} tensors have no value ({', '.join(left[:3])})")
    return net.requires_grad_(False).eval()


# Classes parts of which stay in float32 whatever the rest is in, for which their library's own loader wants accelerate.
PRECISE = {"WanTransformer3DModel": ("rope", "time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")}


def partly_precise(kind: str, config: Config, state: Mapping[str, Tensor], dtype: torch.dtype, where: str) -> nn.Module:
    """A network of one of these classes."""
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        net = {"WanTransformer3DModel": WanTransformer3DModel}[kind].from_config(dict(config))
    rope = net.rope  # its numbers are in no file
    net.rope = type(rope)(rope.attention_head_dim, rope.patch_size, rope.max_seq_len)
    # A norm that models which follow a picture carry and no code reads.
    known = {name: value for name, value in state.items() if "norm_added_q" not in name}
    return filled(net, known, dtype, where, PRECISE[kind])
