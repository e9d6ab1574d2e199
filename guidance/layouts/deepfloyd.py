# SPDX-License-Identifier: Apache-2.0
"""DeepFloyd IF, first stage: pixels at 64 x 64, text by T5, a UNet that also predicts its variance.

XL's configuration is the published one; L's and M's widths are those at which the published parameter counts come out.
Its tokenizer is a sentencepiece model alone: no tokenizer.json.
"""

from __future__ import annotations

from guidance.layouts.common import clip_vision, t5_xxl
from guidance.layouts.parts import Config, Layout, Network, Tokens

UNET: Config = {
    "act_fn": "gelu",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 64,
    "attention_head_dim": 64,  # here truly the width of a head
    "center_input_sample": False,
    "class_embed_type": None,
    "cross_attention_norm": "group_norm",
    "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
    "downsample_padding": 1,
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3,
    "layers_per_block": 3,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "only_cross_attention": False,
    "out_channels": 6,
    "resnet_time_scale_shift": "scale_shift",
    "sample_size": 64,
    "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
    "upcast_attention": False,
}
TINY = UNET | {
    "addition_embed_type_num_heads": 2,
    "attention_head_dim": 8,
    "block_out_channels": [32, 64],
    "cross_attention_dim": 64,
    "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
    "encoder_hid_dim": 32,
    "layers_per_block": 1,
    "sample_size": 16,
    "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
}
DDPM: Config = {
    "_class_name": "DDPMScheduler",
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.0001,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.95,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.5,
    "thresholding": True,
    "trained_betas": None,
    "variance_type": "learned_range",
}

_TOWER = clip_vision("safety_checker", "L")
CHECKER = Network(
    "safety_checker",
    "transformers",
    "IFSafetyChecker",
    {"model_type": "clip", "projection_dim": 768, "vision_config": _TOWER.full},
    {"model_type": "clip", "projection_dim": 32, "vision_config": _TOWER.tiny},
    version="4.29.0.dev0",
    named=("deepfloyd_if", "IFSafetyChecker"),
    needed=False,
)
MARK = Network(
    "watermarker", "diffusers", "IFWatermarker", {}, {}, named=("deepfloyd_if", "IFWatermarker"), needed=False
)


def _stage(name: str, widths: tuple[int, ...]) -> Layout:
    """One size of the first stage: attention's inner width is the widest block's."""
    version = "0.16.0.dev0"
    full = UNET | {"block_out_channels": list(widths), "cross_attention_dim": widths[-1]}
    networks = (
        Network("unet", "diffusers", "UNet2DConditionModel", full, TINY, version=version),
        t5_xxl("text_encoder", dtype="fp32", version="4.29.0.dev0"),
        CHECKER,
        MARK,
    )
    tokens = (Tokens("tokenizer", "T5Tokenizer"),)
    pictures = {"feature_extractor": "CLIPImageProcessor"}
    return Layout(name, "IFPipeline", networks, DDPM, tokens, pictures, {"requires_safety_checker": True}, version)


DEEPFLOYD = (
    _stage("if1xl", (704, 1408, 2112, 2816)),
    _stage("if1l", (320, 640, 960, 1280)),
    _stage("if1m", (192, 384, 576, 768)),
)
