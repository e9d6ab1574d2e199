# SPDX-License-Identifier: Apache-2.0
"""Repositories of one network that goes beside another: ControlNets, motion adapters, tiny autoencoders."""

from __future__ import annotations

from guidance.layouts.parts import Config, Layout, Network
from guidance.layouts.stable import TINY_15, TINY_21, TINY_XL, UNET_15, UNET_21, UNET_XL

# a ControlNet has its UNet's keys but those of the way up
_UP = ("out_channels", "up_block_types", "sample_size", "center_input_sample", "dual_cross_attention")
_SMALL: Config = {"conditioning_embedding_out_channels": [8, 8, 8, 8]}


def _control(name: str, full: Config, tiny: Config, channels: int = 3) -> Layout:
    more: Config = {"conditioning_embedding_out_channels": [16, 32, 96, 256], "conditioning_channels": channels}
    more |= {"controlnet_conditioning_channel_order": "rgb"}
    kept = [{key: value for key, value in config.items() if key not in _UP} | more for config in (full, tiny)]
    return Layout(name, "", (Network("", "diffusers", "ControlNetModel", kept[0], kept[1] | _SMALL, version="0.16.0"),))


MOTION: Config = {
    "block_out_channels": [320, 640, 1280, 1280],
    "motion_layers_per_block": 2,
    "motion_max_seq_length": 32,
    "motion_mid_block_layers_per_block": 1,
    "motion_norm_num_groups": 32,
    "motion_num_attention_heads": 8,
    "use_motion_mid_block": False,
}
_MOTION_TINY: Config = {
    "block_out_channels": [8, 16],
    "motion_layers_per_block": 1,
    "motion_max_seq_length": 6,
    "motion_norm_num_groups": 4,
    "motion_num_attention_heads": 2,
}
# its single files are told apart by their four levels of two
_MOTION_DEEP: Config = _MOTION_TINY | {"block_out_channels": [8, 8, 8, 8], "motion_layers_per_block": 2}


def _motion(name: str, more: Config) -> Layout:
    full = MOTION | more
    deep = full | _MOTION_DEEP | ({"block_out_channels": [8, 8, 8]} if "block_out_channels" in more else {})
    network = Network("", "diffusers", "MotionAdapter", full, full | _MOTION_TINY, deep, version="0.22.0.dev0")
    return Layout(name, "", (network,))


def _tiny_autoencoder(name: str, channels: int) -> Layout:
    full: Config = {
        "act_fn": "relu",
        "decoder_block_out_channels": [64, 64, 64, 64],
        "encoder_block_out_channels": [64, 64, 64, 64],
        "force_upcast": False,
        "in_channels": 3,
        "latent_channels": channels,
        "latent_magnitude": 3,
        "latent_shift": 0.5,
        "num_decoder_blocks": [3, 3, 3, 1],
        "num_encoder_blocks": [1, 3, 3, 3],
        "out_channels": 3,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
        "upsampling_scaling_factor": 2,
    }
    small: Config = {"decoder_block_out_channels": [8, 8, 8, 8], "encoder_block_out_channels": [8, 8, 8, 8]}
    return Layout(name, "", (Network("", "diffusers", "AutoencoderTiny", full, full | small, version="0.20.0.dev0"),))


CONTROLS = (
    _control("controlnet-sd15", UNET_15, TINY_15),
    _control("controlnet-sd21", UNET_21, TINY_21),
    _control("controlnet-sdxl", UNET_XL, TINY_XL),
    _control("controlnet-light", UNET_21, TINY_21, channels=22),  # geometry and light: depth, normal, six renders
    _motion("motion-v1", {"motion_max_seq_length": 24}),
    _motion("motion-v2", {"use_motion_mid_block": True}),
    _motion("motion-v3", {}),
    _motion("motion-sdxl", {"block_out_channels": [320, 640, 1280]}),
    _tiny_autoencoder("taesd", 4),
    _tiny_autoencoder("taesd16", 16),
)
