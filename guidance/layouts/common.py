# SPDX-License-Identifier: Apache-2.0
"""Networks that several families share: the text encoders, the vision towers, the autoencoder of Stable Diffusion."""

from __future__ import annotations

from guidance.layouts.parts import Config, Network

# ids as in every repository of before 2023: with eos 2 pooling takes the first of the largest id (argmax)
_CLIP: Config = {
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "pad_token_id": 1,
    "vocab_size": 49408,
}


def _clip(hidden: int, layers: int, heads: int, projection: int, act: str, vocab: int = 49408) -> Config:
    return _CLIP | {
        "hidden_act": act,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden if vocab == 49408 else 2 * hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "projection_dim": projection,
        "vocab_size": vocab,
    }


TEXT = ("", "text_model.")
TINY_PIECES, TINY_WORDS = 160, 264  # of T5, of Qwen
TINY_VOCABULARY = 514  # 256 bytes, the same at a word's end, begin and end of text


def clip_l(
    folder: str = "text_encoder", position_ids: int = 77, version: str = "4.23.0.dev0", width: int = 32
) -> Network:
    """CLIP ViT-L/14's text tower, used by its last hidden state."""
    full, tiny = _clip(768, 12, 12, 768, "quick_gelu"), _clip(width, 3, 4, 32, "quick_gelu", TINY_VOCABULARY)
    return Network(folder, "transformers", "CLIPTextModel", full, tiny, None, TEXT, position_ids, version=version)


def clip_h(version: str = "4.26.0.dev0", position_ids: int = 77) -> Network:
    """OpenCLIP ViT-H/14's text tower without its last layer: what Stable Diffusion 2 was trained on."""
    half: Config = {"torch_dtype": "float16"}  # its config says so, its file is fp32; transformers obeys the config
    full, tiny = _clip(1024, 23, 16, 512, "gelu") | half, _clip(32, 3, 4, 32, "gelu", TINY_VOCABULARY) | half
    deep = tiny | {"num_hidden_layers": 23}
    return Network(
        "text_encoder", "transformers", "CLIPTextModel", full, tiny, deep, TEXT, position_ids, version=version
    )


def clip_projected(folder: str, wide: bool, version: str, width: int = 32, dtype: str = "fp32") -> Network:
    """CLIP-L or OpenCLIP-bigG with a projected class token; its files and its class agree on names."""
    full = _clip(1280, 32, 20, 1280, "gelu") if wide else _clip(768, 12, 12, 768, "quick_gelu")
    tiny = _clip(width, 3, 4, 32, "gelu" if wide else "quick_gelu", TINY_VOCABULARY)
    deep = tiny | {"num_hidden_layers": 32} if wide else None
    kind = "CLIPTextModelWithProjection"
    return Network(folder, "transformers", kind, full, tiny, deep, dtype=dtype, version=version)


_TOWERS = {  # width, layers, heads, projection, activation
    "L": (1024, 24, 16, 768, "quick_gelu"),
    "H": (1280, 32, 16, 1024, "gelu"),
    "bigG": (1664, 48, 16, 1280, "gelu"),
}


def clip_vision(
    folder: str, tower: str = "H", projection: int = 32, version: str = "4.28.0.dev0", plain: bool = False
) -> Network:
    """A CLIP vision tower, with its projection unless `plain`."""
    hidden, layers, heads, projected, act = _TOWERS[tower]
    full: Config = {
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "hidden_act": act,
        "hidden_size": hidden,
        "image_size": 224,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 8192 if tower == "bigG" else 4 * hidden,
        "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model",
        "num_attention_heads": heads,
        "num_channels": 3,
        "num_hidden_layers": layers,
        "patch_size": 14,
        "projection_dim": projected,
    }
    small: Config = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    tiny = full | small | {"projection_dim": projection}  # as large a picture, as many tokens: pipelines resize to 224
    if plain:
        renamed = ("", "vision_model.")
        return Network(folder, "transformers", "CLIPVisionModel", full, tiny, renamed=renamed, version=version)
    return Network(folder, "transformers", "CLIPVisionModelWithProjection", full, tiny, version=version)


def t5_xxl(
    folder: str, umt5: bool = False, width: int = 32, dtype: str = "bf16", shards: int = 2, version: str = "4.43.3"
) -> Network:
    """The encoder of T5 v1.1 XXL, or of the multilingual one, whose every block has a position bias of its own."""
    full: Config = {
        "d_ff": 10240,
        "d_kv": 64,
        "d_model": 4096,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-06,
        "model_type": "umt5" if umt5 else "t5",
        "num_decoder_layers": 24,
        "num_heads": 64,
        "num_layers": 24,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": 256384 if umt5 else 32128,
    }
    tiny = full | {"d_ff": 32, "d_kv": 8, "d_model": width, "num_heads": 4, "num_layers": 2, "vocab_size": TINY_PIECES}
    kind = "UMT5EncoderModel" if umt5 else "T5EncoderModel"
    return Network(folder, "transformers", kind, full, tiny, dtype=dtype, shards=shards, version=version)


def qwen3_4b(kind: str, version: str, layers: int, shards: int) -> Network:
    """Qwen3 4B, of which image models read hidden states; `layers` at tiny size, for they ask for layer 27."""
    full: Config = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2560,
        "initializer_range": 0.02,
        "intermediate_size": 9728,
        "max_position_embeddings": 40960,
        "model_type": "qwen3",
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": 151936,
    }
    small: Config = {"bos_token_id": 256, "eos_token_id": 258, "head_dim": 8, "hidden_size": 16}
    small |= {"intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": layers, "num_key_value_heads": 1}
    tiny = full | small | {"vocab_size": TINY_WORDS}
    # files of the causal model serve its body too: names keep the prefix, the head is the embedding
    renamed = ("", "model.") if kind == "Qwen3Model" else ("", "")
    return Network(
        "text_encoder", "transformers", kind, full, tiny, renamed=renamed, dtype="bf16", shards=shards, version=version
    )


def autoencoder(
    version: str, written: Config, kind: str = "AutoencoderKL", tiny_sample: int = 64, dtype: str = "fp32"
) -> Network:
    """AutoencoderKL of Stable Diffusion and its kin; `written` is what this repository's config.json adds."""
    full: Config = {
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    } | dict(written)
    deep = full | {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "sample_size": tiny_sample}
    tiny = deep | {"layers_per_block": 1}
    return Network("vae", "diffusers", kind, full, tiny, deep, dtype=dtype, version=version)
