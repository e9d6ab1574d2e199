# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 1.5, 2.1-base, 2.1 (768-v), SDXL, and their latent consistency students: the folders as published.

Key for key from copies of the repositories, with their omissions: 1.5 has no prediction_type and no scaling_factor, and
both 1.5 and 2.1 name a class that transformers 5 no longer has.
"""

from __future__ import annotations

import dataclasses

from guidance.layouts.common import autoencoder, clip_h, clip_l, clip_projected, clip_vision
from guidance.layouts.parts import Config, Layout, Network, Tokens

DOWN = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]
UP = ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
UNET_15: Config = {
    "act_fn": "silu",
    "attention_head_dim": 8,  # a historic name: the number of heads
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": DOWN,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": UP,
}
UNET_21: Config = UNET_15 | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": True,
}
UNET_XL: Config = UNET_21 | {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "projection_class_embeddings_input_dim": 2816,  # six numbers of 256 and the pooled text's 1280
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
}

_SMALL: Config = {
    "block_out_channels": [8, 16],
    "cross_attention_dim": 32,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 8,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
TINY_15 = UNET_15 | _SMALL | {"attention_head_dim": 2}
TINY_21 = UNET_21 | _SMALL | {"attention_head_dim": [2, 4]}
TINY_XL = (
    UNET_XL
    | _SMALL
    | {
        "addition_time_embed_dim": 8,
        "attention_head_dim": [2, 4],
        "cross_attention_dim": 64,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "projection_class_embeddings_input_dim": 80,
        "transformer_layers_per_block": [1, 2],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    }
)
_DEEP: Config = {"block_out_channels": [8, 8, 8, 8], "cross_attention_dim": 32, "norm_num_groups": 4, "sample_size": 8}
DEEP_15 = UNET_15 | _DEEP | {"attention_head_dim": 2}
DEEP_21 = UNET_21 | _DEEP | {"attention_head_dim": [1, 1, 2, 2]}
DEEP_XL = (
    UNET_XL
    | _DEEP
    | {
        "addition_time_embed_dim": 8,
        "attention_head_dim": [1, 2, 2],
        "block_out_channels": [8, 16, 16],
        "cross_attention_dim": 64,
        "projection_class_embeddings_input_dim": 80,
    }
)

BETAS: Config = {"beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085}
PNDM: Config = {
    "_class_name": "PNDMScheduler",
    **BETAS,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
DDIM_V: Config = PNDM | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
EULER_XL: Config = PNDM | {
    "_class_name": "EulerDiscreteScheduler",
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}

CHECKER = "StableDiffusionSafetyChecker"
_TOWER = clip_vision("safety_checker", "L")
SAFETY = Network(
    "safety_checker",
    "transformers",
    CHECKER,
    {"model_type": "clip", "projection_dim": 768, "vision_config": _TOWER.full},
    {"model_type": "clip", "projection_dim": 32, "vision_config": _TOWER.tiny},
    renamed=("vision_model.", "vision_model.vision_model."),
    position_ids=257,
    version="4.23.0.dev0",
    named=("stable_diffusion", CHECKER),
    needed=False,
)
OLD_PICTURES = {"feature_extractor": "CLIPFeatureExtractor"}


def unet(full: Config, tiny: Config, deep: Config | None, version: str) -> Network:
    """The denoiser of this family."""
    return Network("unet", "diffusers", "UNet2DConditionModel", full, tiny, deep, version=version)


def _sd15(name: str, scheduler: Config, more: Config, pipeline: str, version: str) -> Layout:
    networks = (
        unet(UNET_15 | dict(more), TINY_15 | dict(more), DEEP_15 | dict(more), version),
        autoencoder(version, {"sample_size": 512}),
        clip_l(),
        SAFETY,
    )
    tokens = (Tokens("tokenizer", "CLIPTokenizer"),)
    return Layout(name, pipeline, networks, scheduler, tokens, OLD_PICTURES, version=version)


def _sd21(name: str, scheduler: Config, more: Config, version: str) -> Layout:
    networks = (
        unet(UNET_21 | dict(more), TINY_21 | dict(more) | {"sample_size": 8}, DEEP_21, version),
        autoencoder(version, {"sample_size": 768}),
        clip_h(),
    )
    index = {"requires_safety_checker": False, "safety_checker": [None, None]}
    tokens = (Tokens("tokenizer", "CLIPTokenizer", pad="!"),)
    return Layout(name, "StableDiffusionPipeline", networks, scheduler, tokens, OLD_PICTURES, index, version)


def _sdxl() -> Layout:
    version, theirs = "0.19.0.dev0", "4.32.0.dev0"
    networks = (
        unet(UNET_XL, TINY_XL, DEEP_XL, version),
        autoencoder("0.20.0.dev0", {"force_upcast": True, "sample_size": 1024, "scaling_factor": 0.13025}),
        clip_l(position_ids=0, version=theirs, width=24),  # widths apart: single files are told apart by them
        clip_projected("text_encoder_2", True, theirs, width=40),
    )
    tokens = (Tokens("tokenizer", "CLIPTokenizer"), Tokens("tokenizer_2", "CLIPTokenizer", pad="!"))
    index = {"add_watermarker": None, "force_zeros_for_empty_prompt": True}
    return Layout("sdxl", "StableDiffusionXLPipeline", networks, EULER_XL, tokens, {}, index, version)


_LCM: Config = {**BETAS, "_class_name": "LCMScheduler", "num_train_timesteps": 1000, "prediction_type": "epsilon"}
_LCM_TIME: Config = {"time_cond_proj_dim": 256}
STABLE = (
    _sd15("sd15", PNDM, {}, "StableDiffusionPipeline", "0.6.0"),
    _sd15("sd15-lcm", _LCM, _LCM_TIME, "LatentConsistencyModelPipeline", "0.22.0.dev0"),
    _sd21("sd21", PNDM | {"prediction_type": "epsilon"}, {}, "0.10.0.dev0"),
    _sd21("sd21v", DDIM_V, {"sample_size": 96, "upcast_attention": True}, "0.8.0"),
    _sdxl(),
    Layout(
        "sdxl-lcm",
        "",
        (dataclasses.replace(unet(UNET_XL | _LCM_TIME, TINY_XL | _LCM_TIME, None, "0.23.0.dev0"), folder=""),),
    ),
)
