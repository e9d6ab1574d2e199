# SPDX-License-Identifier: Apache-2.0
"""Video models: ModelScope and Zeroscope, Stable Video Diffusion, CogVideoX, Wan 2.1 and 2.2.

AnimateDiff is Stable Diffusion 1.5 with a motion adapter beside it: `guidance.layouts.controls`.
"""

from __future__ import annotations

from guidance.layouts.common import autoencoder, clip_h, clip_vision, t5_xxl
from guidance.layouts.parts import Config, Layout, Network, Tokens
from guidance.layouts.stable import PNDM, UNET_21
from guidance.layouts.views import DDIM

UNET_3D: Config = UNET_21 | {  # with keys that its class has never had: it warns, and goes on
    "attention_head_dim": 64,  # here truly the width of a head
    "class_embed_type": None,
    "down_block_types": ["CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"],
    "mid_block_type": "UNetMidBlock3DCrossAttn",
    "resnet_time_scale_shift": "default",
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"],
    "upcast_attention": False,
}
_3D_TINY = UNET_3D | {
    "attention_head_dim": 4,
    "block_out_channels": [32, 64],
    "cross_attention_dim": 32,
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "layers_per_block": 1,
    "sample_size": 8,
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
}


def _scope(name: str, version: str, sample: int) -> Layout:
    networks = (
        Network("unet", "diffusers", "UNet3DConditionModel", UNET_3D, _3D_TINY, version=version),
        autoencoder(version, {"sample_size": 256 if sample == 32 else 512, "scaling_factor": 0.18215}),
        clip_h("4.27.0.dev0"),
    )
    tokens = (Tokens("tokenizer", "CLIPTokenizer", pad="!"),)
    return Layout(name, "TextToVideoSDPipeline", networks, DDIM, tokens, version=version)


UNET_SVD: Config = {
    "addition_time_embed_dim": 256,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1024,
    "down_block_types": [*["CrossAttnDownBlockSpatioTemporal"] * 3, "DownBlockSpatioTemporal"],
    "in_channels": 8,
    "layers_per_block": 2,
    "num_attention_heads": [5, 10, 20, 20],
    "num_frames": 25,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 768,
    "sample_size": 96,
    "transformer_layers_per_block": 1,
    "up_block_types": ["UpBlockSpatioTemporal", *["CrossAttnUpBlockSpatioTemporal"] * 3],
}
SVD_TINY: Config = {
    "addition_time_embed_dim": 32,
    "block_out_channels": [32, 64],  # group norms are fixed at 32
    "cross_attention_dim": 32,
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
    "layers_per_block": 1,
    "num_attention_heads": [2, 4],
    "num_frames": 3,
    "projection_class_embeddings_input_dim": 96,
    "sample_size": 8,
    "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
}
_VAE_SVD: Config = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
EULER_SVD: Config = PNDM | {
    "_class_name": "EulerDiscreteScheduler",
    "interpolation_type": "linear",
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}


def _svd(name: str, frames: int) -> Layout:
    version = "0.24.0.dev0"
    more: Config = {"num_frames": frames}
    tiny = UNET_SVD | more | SVD_TINY
    small: Config = {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1, "sample_size": 32}
    kind, vae = "UNetSpatioTemporalConditionModel", "AutoencoderKLTemporalDecoder"
    networks = (
        Network("unet", "diffusers", kind, UNET_SVD | more, tiny, version=version),
        Network("vae", "diffusers", vae, _VAE_SVD, _VAE_SVD | small, version=version),
        clip_vision("image_encoder", "H", version="4.34.0.dev0"),
    )
    pictures = {"feature_extractor": "CLIPImageProcessor"}
    return Layout(name, "StableVideoDiffusionPipeline", networks, EULER_SVD, (), pictures, version=version)


COG: Config = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 64,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 16,
    "max_text_seq_length": 226,
    "norm_elementwise_affine": True,
    "norm_eps": 1e-05,
    "num_attention_heads": 30,
    "num_layers": 30,
    "out_channels": 16,
    "patch_size": 2,
    "sample_frames": 49,
    "sample_height": 60,
    "sample_width": 90,
    "spatial_interpolation_scale": 1.875,
    "temporal_compression_ratio": 4,
    "temporal_interpolation_scale": 1.0,
    "text_embed_dim": 4096,
    "time_embed_dim": 512,
    "timestep_activation_fn": "silu",
    "use_rotary_positional_embeddings": False,
}
_COG_TINY: Config = {
    "attention_head_dim": 16,
    "max_text_seq_length": 226,
    "num_attention_heads": 2,
    "num_layers": 1,
    "sample_frames": 9,
    "sample_height": 8,
    "sample_width": 8,
    "text_embed_dim": 32,
    "time_embed_dim": 2,
}
_COG_VAE: Config = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 256, 512],
    "down_block_types": ["CogVideoXDownBlock3D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": 3,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_height": 480,
    "sample_width": 720,
    "shift_factor": None,
    "temporal_compression_ratio": 4,
    "up_block_types": ["CogVideoXUpBlock3D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}
_COG_VAE_TINY: Config = {
    "block_out_channels": [8, 8, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_height": 64,
    "sample_width": 64,
}


def _cog(name: str, more: Config, scale: float, shift: float, dtype: str, shards: int, pipeline: str) -> Layout:
    version, full = "0.30.0.dev0", COG | more
    scheduler = DDIM | {
        "_class_name": "CogVideoXDDIMScheduler",
        "clip_sample_range": 1.0,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "sample_max_value": 1.0,
        "set_alpha_to_one": True,
        "snr_shift_scale": shift,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
    }
    scheduler.pop("skip_prk_steps")
    vae = _COG_VAE | {"scaling_factor": scale}
    kind = "CogVideoXTransformer3DModel"
    networks = (
        Network("transformer", "diffusers", kind, full, full | _COG_TINY, dtype=dtype, shards=shards, version=version),
        Network("vae", "diffusers", "AutoencoderKLCogVideoX", vae, vae | _COG_VAE_TINY, dtype=dtype, version=version),
        t5_xxl("text_encoder", dtype=dtype, version="4.42.4"),
    )
    tokens = (Tokens("tokenizer", "T5Tokenizer", 226),)
    return Layout(name, pipeline, networks, scheduler, tokens, version=version)


WAN: Config = {
    "added_kv_proj_dim": None,
    "attention_head_dim": 128,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "image_dim": None,
    "in_channels": 16,
    "num_attention_heads": 40,
    "num_layers": 40,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": 4096,
}
_WAN_TINY: Config = {
    "attention_head_dim": 12,
    "ffn_dim": 32,
    "freq_dim": 32,
    "num_attention_heads": 2,
    "num_layers": 1,
    "rope_max_seq_len": 32,
    "text_dim": 32,
}
_MEAN = [-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508]
_MEAN += [0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921]
_STD = [2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743]
_STD += [3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916]
WAN_VAE: Config = {
    "attn_scales": [],
    "base_dim": 96,
    "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0,
    "latents_mean": _MEAN,
    "latents_std": _STD,
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "z_dim": 16,
}
_WAN_VAE_TINY: Config = {"base_dim": 3, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
# Wan 2.2's five billion: 48 channels at a sixteenth; its 48 published means and deviations are not at hand
_WAN22_VAE = WAN_VAE | {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "in_channels": 12,
    "is_residual": True,
    "latents_mean": [round(0.1 * (place % 7 - 3), 2) for place in range(48)],
    "latents_std": [round(0.5 + 0.1 * (place % 5), 2) for place in range(48)],
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "temperal_downsample": [False, True, True],
    "z_dim": 48,
}


def _unipc(shift: float) -> Config:
    return {
        "_class_name": "UniPCMultistepScheduler",
        "flow_shift": shift,
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
    }


def _wan(name: str, more: Config, shift: float, index: Config | None = None, vae: Config = WAN_VAE) -> Layout:
    version, kind = "0.33.0.dev0" if name.startswith("wan21") else "0.35.0.dev0", "WanTransformer3DModel"
    full = WAN | more
    tiny = full | _WAN_TINY
    pictured = more.get("image_dim") is not None
    if pictured:
        tiny |= {"added_kv_proj_dim": 24, "image_dim": 32}
    narrow = _WAN_VAE_TINY | ({"base_dim": 4, "decoder_base_dim": 4} if vae is not WAN_VAE else {})
    experts = ("transformer", "transformer_2") if "boundary_ratio" in (index or {}) else ("transformer",)
    networks = [
        *(
            Network(folder, "diffusers", kind, full, tiny, shards=_wan_shards(more), version=version)
            for folder in experts
        ),
        Network("vae", "diffusers", "AutoencoderKLWan", vae, vae | narrow, version=version),
        t5_xxl("text_encoder", umt5=True, shards=5, dtype="fp32", version="4.48.0.dev0"),
    ]
    pictures: dict[str, str] = {}
    if pictured:
        networks.append(clip_vision("image_encoder", "H", plain=True, version="4.49.0.dev0"))
        pictures = {"image_processor": "CLIPImageProcessor"}
    pipeline = "WanImageToVideoPipeline" if more.get("in_channels") == 36 else "WanPipeline"
    tokens = (Tokens("tokenizer", "T5TokenizerFast", 512, entries=256000),)
    return Layout(name, pipeline, tuple(networks), _unipc(shift), tokens, pictures, index or {}, version)


def _wan_shards(more: Config) -> int:
    """Published in fp32: two files of the small one, twelve or more of the others."""
    return 2 if more.get("num_attention_heads") == 12 else 3 if more.get("num_attention_heads") == 24 else 12


_SMALL: Config = {"ffn_dim": 8960, "num_attention_heads": 12, "num_layers": 30}
_IMAGE: Config = {"added_kv_proj_dim": 5120, "image_dim": 1280, "in_channels": 36}
_FIVE: Config = {"ffn_dim": 14336, "in_channels": 48, "num_attention_heads": 24, "num_layers": 30, "out_channels": 48}
_COG_5B: Config = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
_COG_I2V: Config = {"in_channels": 32, "use_learned_positional_embeddings": True}
_COG_15: Config = _COG_5B | {
    "patch_bias": False,
    "patch_size_t": 2,
    "sample_frames": 81,
    "sample_height": 96,
    "sample_width": 170,
}
_COG = "CogVideoXPipeline"
_EXPERTS: Config = {"boundary_ratio": 0.875, "expand_timesteps": False}
VIDEOS = (
    _scope("modelscope", "0.15.0.dev0", 32),
    _scope("zeroscope", "0.17.0.dev0", 64),
    _svd("svd", 14),
    _svd("svd-xt", 25),
    _cog("cogvideox-2b", {}, 1.15258426, 3.0, "fp16", 1, _COG),
    _cog("cogvideox-5b", _COG_5B, 0.7, 1.0, "bf16", 2, _COG),
    _cog("cogvideox-5b-i2v", _COG_5B | _COG_I2V, 0.7, 1.0, "bf16", 3, "CogVideoXImageToVideoPipeline"),
    _cog("cogvideox15-5b", _COG_15, 0.7, 1.0, "bf16", 2, _COG),
    _wan("wan21-1.3b", _SMALL, 3.0),
    _wan("wan21-14b", {}, 3.0),
    _wan("wan21-i2v-14b", _IMAGE, 3.0),
    _wan("wan22-t2v-a14b", {}, 3.0, _EXPERTS),
    _wan("wan22-i2v-a14b", {"in_channels": 36}, 3.0, _EXPERTS | {"boundary_ratio": 0.9}),
    _wan("wan22-5b", _FIVE, 5.0, {"expand_timesteps": True}, _WAN22_VAE),
)
