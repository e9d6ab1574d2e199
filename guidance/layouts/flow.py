# SPDX-License-Identifier: Apache-2.0
"""Image models that predict a velocity: Stable Diffusion 3 and 3.5, FLUX.1, FLUX.2-klein, Z-Image."""

from __future__ import annotations

from guidance.layouts.common import autoencoder, clip_l, clip_projected, qwen3_4b, t5_xxl
from guidance.layouts.parts import Config, Layout, Network, Tokens

FLOW: Config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
_SHIFTS: Config = {"base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15}
_PLAIN: Config = {"use_post_quant_conv": False, "use_quant_conv": False, "latent_channels": 16, "force_upcast": True}
FLUX_VAE: Config = _PLAIN | {"sample_size": 1024, "scaling_factor": 0.3611, "shift_factor": 0.1159}

SD3: Config = {
    "attention_head_dim": 64,
    "caption_projection_dim": 1536,
    "in_channels": 16,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 24,
    "out_channels": 16,
    "patch_size": 2,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "sample_size": 128,
}
_SD3_TINY: Config = {
    "attention_head_dim": 8,
    "caption_projection_dim": 32,
    "joint_attention_dim": 72,  # of which the two CLIPs fill 64
    "num_attention_heads": 4,
    "num_layers": 2,
    "pooled_projection_dim": 64,
    "pos_embed_max_size": 8,
    "sample_size": 8,
}


def _sd3(name: str, more: Config, dtype: str, shards: int, version: str, theirs: str) -> Layout:
    tiny = SD3 | more | _SD3_TINY
    if more.get("dual_attention_layers"):
        tiny |= {"dual_attention_layers": [0]}
    kind = "SD3Transformer2DModel"
    vae = _PLAIN | {"sample_size": 1024, "scaling_factor": 1.5305, "shift_factor": 0.0609}
    networks = (
        Network("transformer", "diffusers", kind, SD3 | more, tiny, dtype=dtype, shards=shards, version=version),
        autoencoder(version, vae, dtype=dtype),
        clip_projected("text_encoder", False, theirs, width=24, dtype="fp16"),
        clip_projected("text_encoder_2", True, theirs, width=40, dtype="fp16"),
        t5_xxl("text_encoder_3", width=72, dtype="fp16", version=theirs),
    )
    tokens = (
        Tokens("tokenizer", "CLIPTokenizer"),
        Tokens("tokenizer_2", "CLIPTokenizer", pad="!"),
        Tokens("tokenizer_3", "T5TokenizerFast", 512),
    )
    return Layout(name, "StableDiffusion3Pipeline", networks, FLOW | {"shift": 3.0}, tokens, version=version)


FLUX1: Config = {
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "out_channels": None,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}
_FLUX1_TINY: Config = {
    "attention_head_dim": 16,
    "axes_dims_rope": [4, 4, 8],
    "joint_attention_dim": 32,
    "num_attention_heads": 2,
    "num_layers": 1,
    "num_single_layers": 1,
    "pooled_projection_dim": 32,
}


def _flux1(name: str, guided: bool) -> Layout:
    version, theirs = "0.30.0.dev0", "4.43.3"
    full = FLUX1 | {"guidance_embeds": guided}
    kind, tiny = "FluxTransformer2DModel", full | _FLUX1_TINY
    networks = (
        Network("transformer", "diffusers", kind, full, tiny, dtype="bf16", shards=3, version=version),
        autoencoder(version, FLUX_VAE, dtype="bf16"),
        clip_l(position_ids=0, version=theirs),
        t5_xxl("text_encoder_2", version=theirs),
    )
    length = 512 if guided else 256
    tokens = (Tokens("tokenizer", "CLIPTokenizer"), Tokens("tokenizer_2", "T5TokenizerFast", length))
    scheduler = FLOW | _SHIFTS | {"shift": 3.0 if guided else 1.0, "use_dynamic_shifting": guided}
    return Layout(name, "FluxPipeline", networks, scheduler, tokens, version=version)


KLEIN: Config = {
    "attention_head_dim": 128,
    "axes_dims_rope": [32, 32, 32, 32],
    "eps": 1e-06,
    "guidance_embeds": False,
    "in_channels": 128,
    "joint_attention_dim": 7680,  # three hidden states of the text side by side
    "mlp_ratio": 3.0,
    "num_attention_heads": 24,
    "num_layers": 5,
    "num_single_layers": 20,
    "out_channels": None,
    "patch_size": 1,
    "rope_theta": 2000,
    "timestep_guidance_channels": 256,
}
_KLEIN_TINY: Config = {
    "attention_head_dim": 16,
    "axes_dims_rope": [4, 4, 4, 4],
    "joint_attention_dim": 48,
    "num_attention_heads": 2,
    "num_layers": 1,
    "num_single_layers": 1,
    "timestep_guidance_channels": 32,
}


def _klein() -> Layout:
    version = "0.37.0.dev0"
    kind, tiny = "Flux2Transformer2DModel", KLEIN | _KLEIN_TINY
    vae: Config = {"batch_norm_eps": 1e-4, "batch_norm_momentum": 0.1, "latent_channels": 32, "patch_size": [2, 2]}
    networks = (
        Network("transformer", "diffusers", kind, KLEIN, tiny, dtype="bf16", version=version),
        autoencoder(version, vae | {"sample_size": 1024}, "AutoencoderKLFlux2"),
        qwen3_4b("Qwen3ForCausalLM", "4.57.1", layers=28, shards=2),
    )
    scheduler = FLOW | _SHIFTS | {"shift": 3.0, "time_shift_type": "exponential", "use_dynamic_shifting": True}
    tokens = (Tokens("tokenizer", "Qwen2TokenizerFast", 512),)
    index = {"is_distilled": False}
    return Layout("flux2-klein-4b", "Flux2KleinPipeline", networks, scheduler, tokens, {}, index, version)


ZIMAGE: Config = {
    "all_f_patch_size": [1],
    "all_patch_size": [2],
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
    "cap_feat_dim": 2560,
    "dim": 3840,
    "in_channels": 16,
    "n_heads": 30,
    "n_kv_heads": 30,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "norm_eps": 1e-05,
    "qk_norm": True,
    "rope_theta": 256.0,
    "t_scale": 1000.0,
}
_ZIMAGE_TINY: Config = {
    "axes_dims": [8, 4, 4],
    "axes_lens": [1536, 32, 32],
    "cap_feat_dim": 16,
    "dim": 32,
    "n_heads": 2,
    "n_kv_heads": 2,
    "n_layers": 1,
    "n_refiner_layers": 1,
}


def _zimage() -> Layout:
    version = "0.36.0.dev0"
    kind, tiny = "ZImageTransformer2DModel", ZIMAGE | _ZIMAGE_TINY
    networks = (
        Network("transformer", "diffusers", kind, ZIMAGE, tiny, dtype="bf16", shards=2, version=version),
        autoencoder(version, FLUX_VAE),
        qwen3_4b("Qwen3Model", "4.51.0", layers=3, shards=3),
    )
    scheduler = FLOW | {"shift": 3.0, "use_dynamic_shifting": False}
    tokens = (Tokens("tokenizer", "Qwen2Tokenizer", 512),)
    return Layout("zimage", "ZImagePipeline", networks, scheduler, tokens, version=version)


_QK: Config = {"qk_norm": "rms_norm"}
_MEDIUM: Config = _QK | {"dual_attention_layers": list(range(13)), "pos_embed_max_size": 384}
_LARGE: Config = _QK | {"caption_projection_dim": 2432, "num_attention_heads": 38, "num_layers": 38}
FLOWS = (
    _sd3("sd3", {}, "fp16", 1, "0.29.0.dev0", "4.41.2"),
    _sd3("sd35m", _MEDIUM, "bf16", 1, "0.31.0.dev0", "4.46.1"),
    _sd3("sd35l", _LARGE | {"dual_attention_layers": []}, "bf16", 2, "0.30.3.dev0", "4.43.1"),
    _flux1("flux1-dev", True),
    _flux1("flux1-schnell", False),
    _klein(),
    _zimage(),
)
