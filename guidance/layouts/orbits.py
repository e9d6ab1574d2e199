# SPDX-License-Identifier: Apache-2.0
"""SV3D_u and SV3D_p: each one file, as generative-models names what is in it.

Parts are described as diffusers would hold them; `whole.py` writes them under the file's names. A folder of theirs is
no published layout. The decoder that the files have besides, in `first_stage_model`, is not written.
"""

from __future__ import annotations

from dataclasses import replace

from guidance.layouts.common import autoencoder, clip_vision
from guidance.layouts.parts import Config, Layout, Network
from guidance.layouts.video import EULER_SVD, SVD_TINY, UNET_SVD


def _sv3d(which: str, waves: int) -> Layout:
    """`waves`: of what the network is told beside the picture."""
    more: Config = {"num_frames": 21, "projection_class_embeddings_input_dim": waves, "sample_size": 72}
    tiny = UNET_SVD | SVD_TINY | more | {"addition_time_embed_dim": 256, "num_attention_heads": [1, 1]}
    vae, tower = autoencoder("", {"sample_size": 576, "scaling_factor": 0.18215}), clip_vision("image_encoder", "H")
    # a file holds no configuration: norms have 32 groups, and heads a width of 64, at any size
    narrow: Config = {"block_out_channels": [32] * 4, "norm_num_groups": 32}
    networks = (
        Network("unet", "diffusers", "UNetSpatioTemporalConditionModel", UNET_SVD | more, tiny | {"sample_size": 8}),
        replace(vae, tiny=vae.tiny | narrow),
        replace(tower, tiny=tower.tiny | {"num_attention_heads": 1}),
    )
    return Layout(f"sv3d-{which}", "", networks, EULER_SVD, file=f"sv3d_{which}.safetensors")


ORBITS = (_sv3d("u", 256), _sv3d("p", 1280))
