# SPDX-License-Identifier: Apache-2.0
"""Configurations of networks from the shapes of their tensors (diffusers' names), for files that carry none.

What shapes do not tell follows the rule of the family: SD 1's transformers (1x1 convolutions at their ends) have 8
heads at every width, SD 2's, SDXL's and MVDream's (linear there) heads of 64; encoders of text have heads of 64.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

Shapes = Mapping[str, Tensor]  # also on the meta device: only shapes are read
Config = dict[str, object]

HEAD_WIDTHS = {1280: 80, 1664: 104}  # of picture encoders: OpenCLIP's H and bigG; others 64


def _numbers(state: Shapes, pattern: str) -> int:
    """How many different numbers stand at the pattern's group."""
    return len({m[1] for name in state if (m := re.match(pattern, name))})


def _attends(state: Shapes, side: str, block: int) -> bool:
    return f"{side}_blocks.{block}.attentions.0.proj_in.weight" in state


def _body(state: Shapes) -> Config:
    """What U-Nets and ControlNets have in common."""
    levels = _numbers(state, r"down_blocks\.(\d+)\.")
    widths = [state[f"down_blocks.{k}.resnets.0.conv1.weight"].shape[0] for k in range(levels)]
    ends = next(v for name, v in state.items() if name.endswith("attentions.0.proj_in.weight"))
    keys = next(v for name, v in state.items() if name.endswith("attn2.to_k.weight"))
    linear = ends.ndim == 2
    depths = [
        _numbers(state, rf"down_blocks\.{k}\.attentions\.0\.transformer_blocks\.(\d+)\.") or 1 for k in range(levels)
    ]
    found: Config = {
        "in_channels": state["conv_in.weight"].shape[1],
        "block_out_channels": widths,
        "down_block_types": [f"{'CrossAttn' * _attends(state, 'down', k)}DownBlock2D" for k in range(levels)],
        "layers_per_block": _numbers(state, r"down_blocks\.0\.resnets\.(\d+)\."),
        "transformer_layers_per_block": depths,
        "cross_attention_dim": keys.shape[1],
        "use_linear_projection": linear,
        "attention_head_dim": [max(1, width // 64) for width in widths] if linear else 8,  # the number of heads
    }
    if "class_embedding.linear_1.weight" in state:
        inputs = state["class_embedding.linear_1.weight"].shape[1]
        found |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": inputs}
    return found


def _sized(state: Shapes, pooled: int) -> Config:
    """SDXL's second embedding: a pooled text of so many numbers, and six sizes in as many waves each."""
    if "add_embedding.linear_1.weight" not in state:
        return {}
    inputs = state["add_embedding.linear_1.weight"].shape[1]
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (inputs - pooled) // 6,
        "projection_class_embeddings_input_dim": inputs,
    }


def unet(state: Shapes, size: int, pooled: int = 1280) -> Config:
    """UNet2DConditionModel's, for latents of `size`."""
    blocks = _numbers(state, r"up_blocks\.(\d+)\.")
    rest: Config = {
        "sample_size": size,
        "out_channels": state["conv_out.weight"].shape[0],
        "up_block_types": [f"{'CrossAttn' * _attends(state, 'up', k)}UpBlock2D" for k in range(blocks)],
    }
    return _body(state) | _sized(state, pooled) | rest


def video_unet(state: Shapes, size: int, frames: int, waves: int) -> Config:
    """UNetSpatioTemporalConditionModel's, told numbers of so many waves each; its heads have a width of 64."""
    levels = _numbers(state, r"down_blocks\.(\d+)\.")
    convs = [state[f"down_blocks.{k}.resnets.0.spatial_res_block.conv1.weight"] for k in range(levels)]
    widths = [conv.shape[0] for conv in convs]
    blocks = {
        f"{side}_block_types": [
            f"{'CrossAttn' * _attends(state, side, k)}{side.capitalize()}BlockSpatioTemporal" for k in range(levels)
        ]
        for side in ("down", "up")
    }
    return {
        "in_channels": state["conv_in.weight"].shape[1],
        "out_channels": state["conv_out.weight"].shape[0],
        "block_out_channels": widths,
        **blocks,
        "layers_per_block": _numbers(state, r"down_blocks\.0\.resnets\.(\d+)\."),
        "transformer_layers_per_block": 1,
        "cross_attention_dim": next(v for name, v in state.items() if name.endswith("attn2.to_k.weight")).shape[1],
        "num_attention_heads": [max(1, width // 64) for width in widths],
        "addition_time_embed_dim": waves,
        "projection_class_embeddings_input_dim": state["add_embedding.linear_1.weight"].shape[1],
        "sample_size": size,
        "num_frames": frames,
    }


def controlnet(state: Shapes, pooled: int = 1280) -> Config:
    """ControlNetModel's."""
    hint = "controlnet_cond_embedding"
    steps = _numbers(state, rf"{hint}\.blocks\.(\d+)\.") // 2
    rest: Config = {
        "conditioning_channels": state[f"{hint}.conv_in.weight"].shape[1],
        "conditioning_embedding_out_channels": [
            state[f"{hint}.conv_in.weight"].shape[0],
            *(state[f"{hint}.blocks.{2 * k + 1}.weight"].shape[0] for k in range(steps)),
        ],
    }
    return _body(state) | _sized(state, pooled) | rest


def vae(state: Shapes, size: int, scale: float) -> Config:
    """AutoencoderKL's; its scale belongs to the family."""
    levels = _numbers(state, r"encoder\.down_blocks\.(\d+)\.")
    return {
        "block_out_channels": [
            state[f"encoder.down_blocks.{k}.resnets.0.conv1.weight"].shape[0] for k in range(levels)
        ],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": _numbers(state, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": state["decoder.conv_in.weight"].shape[1],
        "sample_size": size,
        "scaling_factor": scale,
    }


def text(state: Shapes, act: str) -> Config:
    """CLIPTextConfig's; the tokens' numbers as in the old repositories, which decide how a text is pooled."""
    own = {name.removeprefix("text_model."): value for name, value in state.items()}
    places, hidden = own["embeddings.position_embedding.weight"].shape
    projected = own.get("text_projection.weight")
    return {
        "vocab_size": own["embeddings.token_embedding.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": own["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _numbers(own, r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": max(1, hidden // 64),
        "max_position_embeddings": places,
        "projection_dim": hidden if projected is None else projected.shape[0],
        "hidden_act": act,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def vision(state: Shapes, act: str) -> Config:
    """CLIPVisionConfig's."""
    hidden, _, _, patch = state["vision_model.embeddings.patch_embedding.weight"].shape
    places = state["vision_model.embeddings.position_embedding.weight"].shape[0]
    return {
        "hidden_size": hidden,
        "intermediate_size": state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _numbers(state, r"vision_model\.encoder\.layers\.(\d+)\."),
        "num_attention_heads": max(1, hidden // HEAD_WIDTHS.get(hidden, 64)),
        "patch_size": patch,
        "image_size": patch * math.isqrt(places - 1),
        "projection_dim": state["visual_projection.weight"].shape[0],
        "hidden_act": act,
    }
