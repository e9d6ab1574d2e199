# SPDX-License-Identifier: Apache-2.0
"""The networks' shapes: the classes of Stable Diffusion 1.5 and of MVDream, at a hundredth of their size."""

from __future__ import annotations

from typing import Any, TypeAlias

from dreamlab.toybox.training.sd.scenes import PIXELS

Model: TypeAlias = Any  # of diffusers or transformers, whose classes have no types that a checker could read
FACTOR = 8
LATENT = PIXELS // FACTOR
WORDS = 77  # tokens of a caption
TEXT_WIDTH = 128

VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [16, 32, 64, 96],
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 2,  # as few
    "mid_block_add_attention": False,
    "sample_size": PIXELS,
}

TEXT: dict[str, Any] = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 4 * TEXT_WIDTH,
    "projection_dim": TEXT_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": WORDS,
    "hidden_act": "quick_gelu",
    "bos_token_id": 0,  # as all old folders have it: pooling takes the largest id
    "eos_token_id": 2,
    "pad_token_id": 1,
}
UNET: dict[str, Any] = {
    "sample_size": LATENT,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [96, 192],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,  # heads, for all its name
    "cross_attention_dim": TEXT_WIDTH,
    "use_linear_projection": True,
    "norm_num_groups": 4,  # few: what a group norm takes away is how bright a flat picture is
}
CAMERA = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def new_vae(**changes: Any) -> Model:
    """It begins nearly without noise in its latents: from a deviation of 1 it first has to learn to speak up."""
    import torch
    from diffusers import AutoencoderKL

    vae: Model = AutoencoderKL(**(VAE | changes))
    with torch.no_grad():
        count = len(vae.quant_conv.bias) // 2
        vae.quant_conv.weight[count:].zero_()
        vae.quant_conv.bias[count:] = -5.0  # of the log variance
    return vae


def new_text_encoder(vocabulary: int, **changes: Any) -> Model:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(vocab_size=vocabulary, **(TEXT | changes)))


def new_unet(views: int = 1, **changes: Any) -> Model:
    """With a camera for `views` > 1. Every branch begins silent (Dhariwal & Nichol 2021 call it zero_module)."""
    import torch
    from diffusers import UNet2DConditionModel

    unet: Model = UNet2DConditionModel(**(UNET | (CAMERA if views > 1 else {}) | changes))
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if any(part in name for part in (".conv2.", ".proj_out.", "conv_out.")):
                parameter.zero_()
    return unet
