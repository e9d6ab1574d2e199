# SPDX-License-Identifier: Apache-2.0
"""How each denoiser is called: inputs of the right shapes, and what a call costs, counted on the meta device.

Lengths of text are those that the pipelines pad to. A cost is in floating-point operations, a multiply and an addition
being two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from guidance.layouts.build import construct
from guidance.layouts.parts import Config, Network, Size
from guidance.layouts.random import layout_of

if TYPE_CHECKING:
    from torch import Tensor

Draw = Callable[..., "Tensor"]  # of a shape
Shape = tuple[int, int, int, int]  # batch, latent frames, latent height, latent width


def _whole(config: Config, name: str) -> int:
    return int(str(config[name]))


def _unet(config: Config, draw: Draw, shape: Shape) -> dict[str, Any]:
    batch, _, height, width = shape
    words = 1 if config["in_channels"] == 8 else 77  # Zero123 hears one token of picture and camera
    text = "encoder_hid_dim" if config.get("encoder_hid_dim") else "cross_attention_dim"
    given: dict[str, Any] = {"sample": draw(batch, _whole(config, "in_channels"), height, width)}
    given |= {"timestep": draw(batch), "encoder_hidden_states": draw(batch, words, _whole(config, text))}
    if config.get("class_embed_type") == "projection":
        given["class_labels"] = draw(batch, _whole(config, "projection_class_embeddings_input_dim"))
    if config.get("time_cond_proj_dim"):
        given["timestep_cond"] = draw(batch, _whole(config, "time_cond_proj_dim"))
    if config.get("addition_embed_type") == "text_time":
        pooled = _whole(config, "projection_class_embeddings_input_dim") - 6 * _whole(config, "addition_time_embed_dim")
        given["added_cond_kwargs"] = {"text_embeds": draw(batch, pooled), "time_ids": draw(batch, 6)}
    return given


def _control(config: Config, draw: Draw, shape: Shape) -> dict[str, Any]:
    batch, _, height, width = shape
    shown = draw(batch, _whole(config, "conditioning_channels"), 8 * height, 8 * width)
    return _unet(config, draw, shape) | {"controlnet_cond": shown}


def _sd3(config: Config, draw: Draw, shape: Shape) -> dict[str, Any]:
    batch, _, height, width = shape
    return {
        "hidden_states": draw(batch, _whole(config, "in_channels"), height, width),
        "encoder_hidden_states": draw(batch, 77 + 256, _whole(config, "joint_attention_dim")),
        "pooled_projections": draw(batch, _whole(config, "pooled_projection_dim")),
        "timestep": draw(batch),
    }


def _packed(config: Config, draw: Draw, shape: Shape, axes: int) -> dict[str, Any]:
    batch, _, height, width = shape
    patches = (height // 2) * (width // 2)
    lead = (batch,) if axes == 4 else ()
    return {
        "hidden_states": draw(batch, patches, _whole(config, "in_channels")),
        "encoder_hidden_states": draw(batch, 512, _whole(config, "joint_attention_dim")),
        "timestep": draw(batch),
        "img_ids": draw(*lead, patches, axes),
        "txt_ids": draw(*lead, 512, axes),
        "guidance": draw(batch) if config.get("guidance_embeds") else None,
    }


def _flux(config: Config, draw: Draw, shape: Shape) -> dict[str, Any]:
    return _packed(config, draw, shape, 3) | {
        "pooled_projections": draw(shape[0], _whole(config, "pooled_projection_dim"))
    }


def _klein(config: Config, draw: Draw, shape: Shape) -> dict[str, Any]:
    return _packed(config, draw, shape, 4)


def _frames_then_channels(config: Config, draw: Draw, shape: Shape) -> dict[str, Any]:
    batch, frames, height, width = shape
    return {
        "sample": draw(batch, frames, _whole(config, "in_channels"), height, width),
        "timestep": draw(batch),
        "encoder_hidden_states": draw(batch, 1, _whole(config, "cross_attention_dim")),
        "added_time_ids": draw(
            batch, _whole(config, "projection_class_embeddings_input_dim") // _whole(config, "addition_time_embed_dim")
        ),
    }


def _cube(config: Config, draw: Draw, shape: Shape) -> dict[str, Any]:
    batch, frames, height, width = shape
    return {
        "sample": draw(batch, _whole(config, "in_channels"), frames, height, width),
        "timestep": draw(batch),
        "encoder_hidden_states": draw(batch, 77, _whole(config, "cross_attention_dim")),
    }


def _cog(config: Config, draw: Draw, shape: Shape) -> dict[str, Any]:
    batch, frames, height, width = shape
    rotary = None
    if config["use_rotary_positional_embeddings"]:
        depth = -(-frames // int(str(config.get("patch_size_t") or 1)))
        places = depth * (height // 2) * (width // 2)
        rotary = (
            draw(places, _whole(config, "attention_head_dim")),
            draw(places, _whole(config, "attention_head_dim")),
        )
    return {
        "hidden_states": draw(batch, frames, _whole(config, "in_channels"), height, width),
        "encoder_hidden_states": draw(batch, _whole(config, "max_text_seq_length"), _whole(config, "text_embed_dim")),
        "timestep": draw(batch),
        "image_rotary_emb": rotary,
    }


def _wan(config: Config, draw: Draw, shape: Shape) -> dict[str, Any]:
    batch, frames, height, width = shape
    given: dict[str, Any] = {"hidden_states": draw(batch, _whole(config, "in_channels"), frames, height, width)}
    given |= {"timestep": draw(batch), "encoder_hidden_states": draw(batch, 512, _whole(config, "text_dim"))}
    if config.get("image_dim"):
        given["encoder_hidden_states_image"] = draw(batch, 257, _whole(config, "image_dim"))
    return given


def _zimage(config: Config, draw: Draw, shape: Shape) -> dict[str, Any]:
    batch, _, height, width = shape
    given = [draw(_whole(config, "in_channels"), 1, height, width) for _ in range(batch)]
    return {"x": given, "t": draw(batch), "cap_feats": [draw(512, _whole(config, "cap_feat_dim")) for _ in given]}


CALLS: Mapping[str, Callable[[Config, Draw, Shape], dict[str, Any]]] = {
    "CogVideoXTransformer3DModel": _cog,
    "ControlNetModel": _control,
    "Flux2Transformer2DModel": _klein,
    "FluxTransformer2DModel": _flux,
    "SD3Transformer2DModel": _sd3,
    "UNet2DConditionModel": _unet,
    "UNet3DConditionModel": _cube,
    "UNetSpatioTemporalConditionModel": _frames_then_channels,
    "WanTransformer3DModel": _wan,
    "ZImageTransformer2DModel": _zimage,
}


def inputs(network: Network, size: Size, shape: Shape, draw: Draw) -> dict[str, Any]:
    """Arguments of a denoiser's call, by name; times are drawn like the rest: give `draw` what suits."""
    return CALLS[network.kind](network.config(size), draw, shape)


@functools.cache
def flops(name: str, folder: str, height: int, width: int, frames: int = 1, batch: int = 1, size: Size = "full") -> int:
    """Operations of one call of a denoiser at this size of latents."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = layout_of(name).part(folder)
    net = construct(network, size)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(**inputs(network, size, (batch, frames, height, width), torch.randn), return_dict=False)
    return int(counter.get_total_flops())


@functools.cache
def encoder_flops(name: str, pixels: int, backward: bool = False, way: str = "encode") -> int:
    """Operations of an autoencoder on one picture: to latents, with the gradient back, or `decode` from latents."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    (network,) = (part for part in layout_of(name).parts if part.kind in ("AutoencoderKL", "AutoencoderTiny"))
    net = construct(network, "full").requires_grad_(False)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        if way == "decode":
            with torch.no_grad():
                net.decode(torch.randn(1, _whole(network.full, "latent_channels"), pixels // 8, pixels // 8))  # type: ignore[operator]
            return int(counter.get_total_flops())
        picture = torch.randn(1, 3, pixels, pixels, requires_grad=backward)
        made = net.encode(picture)  # type: ignore[operator]
        latents = made.latents if network.kind == "AutoencoderTiny" else made.latent_dist.mode()
        if backward:
            latents.sum().backward()
    return int(counter.get_total_flops())
