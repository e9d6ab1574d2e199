# SPDX-License-Identifier: Apache-2.0
"""Models of several views and of another view: MVDream, ImageDream, Zero123 in both styles of folder, Zero123++.

MVDream's converted folders keep latent-diffusion's names in their UNet; it is Stable Diffusion 2.1's with a camera
beside the time.
"""

from __future__ import annotations

import dataclasses

from guidance.layouts.common import autoencoder, clip_h, clip_vision
from guidance.layouts.parts import Config, Layout, Network, Tokens
from guidance.layouts.stable import BETAS, PNDM, TINY_15, TINY_21, UNET_15, UNET_21, unet

DDIM: Config = PNDM | {"_class_name": "DDIMScheduler", "prediction_type": "epsilon", "clip_sample": False}
_CAMERA: Config = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16, "sample_size": 32}
# as narrow as the original class allows: its norms have 32 groups
_MV_TINY: Config = {
    "attention_head_dim": [2, 4, 8, 8],
    "block_out_channels": [32, 64, 128, 128],
    "cross_attention_dim": 64,
    "sample_size": 8,
}
_MV_CONFIG: Config = {
    "attention_resolutions": [4, 2, 1],
    "camera_dim": 16,
    "channel_mult": [1, 2, 4, 4],
    "context_dim": 1024,
    "image_size": 32,
    "in_channels": 4,
    "model_channels": 320,
    "num_head_channels": 64,
    "num_res_blocks": 2,
    "out_channels": 4,
    "transformer_depth": 1,
    "use_checkpoint": False,
}
_MV_CONFIG_TINY = _MV_CONFIG | {"context_dim": 64, "image_size": 8, "model_channels": 32, "num_head_channels": 16}


def _mvdream(name: str, pictured: bool) -> Layout:
    version = "0.25.0"
    full = UNET_21 | _CAMERA
    more: Config = {"ip_dim": 16, "ip_weight": 1.0} if pictured else {}
    denoiser = dataclasses.replace(
        unet(full, full | _MV_TINY, None, version),
        named=("mv_unet", "MultiViewUNetModel"),
        written=(_MV_CONFIG | more, _MV_CONFIG_TINY | more),
        original=True,
        image=(1280, 32) if pictured else (0, 0),
    )
    text = clip_h("4.35.0", position_ids=0)
    text = dataclasses.replace(text, tiny=text.tiny | {"hidden_size": 64, "intermediate_size": 128})
    networks = [denoiser, autoencoder(version, {"sample_size": 256, "scaling_factor": 0.18215}), text]
    index: Config = {"requires_safety_checker": False}
    pictures = {}
    if pictured:
        networks.append(clip_vision("image_encoder", "H", plain=True, version="4.35.0"))
        pictures = {"feature_extractor": "CLIPImageProcessor"}
    else:
        index |= {"feature_extractor": [None, None], "image_encoder": [None, None]}
    tokens = (Tokens("tokenizer", "CLIPTokenizer", pad="!"),)
    return Layout(name, "MVDreamPipeline", tuple(networks), DDIM, tokens, pictures, index, version)


_EIGHT: Config = {"in_channels": 8, "sample_size": 32}
_PROJECTION: Config = {"embedding_dim": 768, "additional_embeddings": 4}


def _projection(folder: str, kind: str, inner: str, stated: tuple[Config, Config], library: str) -> Network:
    full: Config = {"embedding_dim": 768, "name": inner}
    tiny: Config = {"embedding_dim": 32, "name": inner}
    return Network(
        folder, "diffusers", "CLIPCameraProjection", full, tiny, named=(library, kind), written=stated, version="0.18.2"
    )


def _zero123(name: str, projection: Network, pipeline: str) -> Layout:
    version = "0.18.2"
    networks = (
        unet(UNET_15 | _EIGHT, TINY_15 | _EIGHT | {"sample_size": 8}, None, version),
        autoencoder(version, {"sample_size": 256, "scaling_factor": 0.18215}),
        clip_vision("image_encoder", "L", version="4.30.2"),
        projection,
    )
    index: Config = {"requires_safety_checker": False, "safety_checker": [None, None]}
    pictures = {"feature_extractor": "CLIPImageProcessor"}
    return Layout(name, pipeline, networks, DDIM, (), pictures, index, version)


_ASHAWKEY = _projection(
    "clip_camera_projection",
    "CLIPCameraProjection",
    "proj",
    (_PROJECTION, _PROJECTION | {"embedding_dim": 32}),
    "zero123",
)
_KXHIT = _projection(
    "cc_projection",
    "CCProjection",
    "projection",
    ({"in_channel": 772, "out_channel": 768}, {"in_channel": 36, "out_channel": 32}),
    "pipeline_zero1to3",
)

EULER_V: Config = PNDM | {
    **BETAS,
    "_class_name": "EulerAncestralDiscreteScheduler",
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
}


def _zero123plus() -> Layout:
    version = "0.17.1"
    networks = (
        unet(UNET_21 | {"sample_size": 96}, TINY_21, None, version),
        autoencoder(version, {"sample_size": 256, "scaling_factor": 0.18215}),
        clip_h("4.29.2"),
        clip_vision("vision_encoder", "H", version="4.29.2"),
    )
    ramp = [round(place / 76, 6) for place in range(77)]  # the published ones rise from 0 to 1.2
    index: Config = {"ramping_coefficients": ramp, "safety_checker": [None, None]}
    pictures = {"feature_extractor_clip": "CLIPImageProcessor", "feature_extractor_vae": "CLIPImageProcessor"}
    tokens = (Tokens("tokenizer", "CLIPTokenizer", pad="!"),)
    half: Config = {"image_mean": [0.5] * 3, "image_std": [0.8] * 3, "crop_size": 320, "size": {"shortest_edge": 320}}
    ways = {"feature_extractor_vae": half}
    return Layout("zero123plus", "Zero123PlusPipeline", networks, EULER_V, tokens, pictures, index, version, ways=ways)


VIEWS = (
    _mvdream("mvdream", False),
    _mvdream("imagedream", True),
    _zero123("zero123", _ASHAWKEY, "Zero123Pipeline"),
    _zero123("zero123-hf", _KXHIT, "Zero1to3StableDiffusionPipeline"),
    _zero123plus(),
)
