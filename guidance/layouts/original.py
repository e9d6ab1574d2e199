# SPDX-License-Identifier: Apache-2.0
"""Names of the original checkpoints: from ours to those of latent-diffusion, OpenCLIP and the first vision towers.

Written backwards from the names of diffusers and transformers, so that a loader's map the other way is tested against
something it did not write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from guidance.layouts.parts import Config

if TYPE_CHECKING:
    from torch import Tensor

State = Mapping[str, "Tensor"]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
STEMS = {  # of a UNet; the second of a pair of Linear layers stands at 2, SiLU between
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding.linear_1": "camera_embed.0",  # MVDream's; no other of ours has classes
    "class_embedding.linear_2": "camera_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_name(name: str, config: Config) -> str:
    """A tensor of UNet2DConditionModel as latent-diffusion calls it.

    Blocks are counted through: a level has `layers` entries (up: one more), a downsampler is an entry of its own, an
    upsampler the last part of its level's last entry.
    """
    layers = int(str(config["layers_per_block"]))
    for stem, there in STEMS.items():
        if name.startswith(stem + "."):
            return there + name.removeprefix(stem)
    if (found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name)) is not None:
        kind, place, rest = found.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(place)}.{_inner(kind, rest)}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", name)
    assert found is not None, name
    way, level, kind, place, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        attended = str(config["up_block_types"]).split(",")[level].count("CrossAttn")
        return f"output_blocks.{(level + 1) * (layers + 1) - 1}.{2 if attended else 1}.{rest}"
    entry = level * (layers + 1) + place + (1 if way == "down" else 0)
    side = "input" if way == "down" else "output"
    return f"{side}_blocks.{entry}.{1 if kind == 'attentions' else 0}.{_inner(kind, rest)}"


def video_unet_name(name: str, config: Config) -> str:
    """A tensor of UNetSpatioTemporalConditionModel as generative-models calls it: what mixes frames stands beside what
    a Stable Diffusion has, and says the same of itself."""
    found = re.fullmatch(r"(.+\.resnets\.\d)\.(spatial_res_block|temporal_res_block|time_mixer)\.(.+)", name)
    if found is not None:
        block, side, rest = found.groups()
        entry = unet_name(f"{block}.norm1.bias", config).removesuffix("in_layers.0.bias")
        if side == "time_mixer":
            return f"{entry}time_mixer.{rest}"
        return f"{entry}{'time_stack.' * side.startswith('temporal')}{_inner('resnets', rest)}"
    made = unet_name(name, config)
    made = made.replace("time_pos_embed.linear_1", "time_pos_embed.0").replace(
        "time_pos_embed.linear_2", "time_pos_embed.2"
    )
    return made.replace("temporal_transformer_blocks", "time_stack")


def as_unet(state: State, config: Config) -> Iterator[tuple[str, Tensor]]:
    """UNet2DConditionModel's tensors under latent-diffusion's names."""
    return ((unet_name(name, config), value) for name, value in state.items())


def _inner(kind: str, rest: str) -> str:
    """Within a residual block names differ, within a transformer they do not."""
    if kind == "attentions":
        return rest
    stem, _, last = rest.rpartition(".")
    return f"{RESNET[stem]}.{last}"


def control_name(name: str, config: Config) -> str:
    """A tensor of ControlNetModel, without the prefix `control_model.`."""
    hint = "controlnet_cond_embedding."
    if name.startswith(hint):
        stem, _, last = name.removeprefix(hint).rpartition(".")
        if stem in ("conv_in", "conv_out"):
            return f"input_hint_block.{0 if stem == 'conv_in' else 14}.{last}"
        return f"input_hint_block.{2 * int(stem.removeprefix('blocks.')) + 2}.{last}"
    if name.startswith("controlnet_mid_block."):
        return "middle_block_out.0." + name.removeprefix("controlnet_mid_block.")
    if name.startswith("controlnet_down_blocks."):
        place, last = name.removeprefix("controlnet_down_blocks.").split(".")
        return f"zero_convs.{place}.0.{last}"
    return unet_name(name, config)


ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def vae_name(name: str, levels: int) -> str:
    """A tensor of AutoencoderKL, without the prefix; the decoder's levels are counted from the picture."""
    found = re.fullmatch(r"(en|de)coder\.(?:down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", name)
    if found is not None:
        way, level, kind, place, rest = found[1], int(found[2]), found[3], found[4], found[5]
        head = f"encoder.down.{level}" if way == "en" else f"decoder.up.{levels - 1 - level}"
        if kind != "resnets":
            return f"{head}.{'downsample' if way == 'en' else 'upsample'}.{rest}"
        return f"{head}.block.{place}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
    found = re.fullmatch(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d)\.(.+)", name)
    if found is not None:
        side, kind, place, rest = found.groups()
        if kind == "resnets":
            return f"{side}.mid.block_{int(place) + 1}.{rest}"
        stem, _, last = rest.rpartition(".")
        return f"{side}.mid.attn_1.{ATTENTION[stem]}.{last}"
    return name.replace("conv_norm_out", "norm_out")


def as_vae(state: State, levels: int) -> Iterator[tuple[str, Tensor]]:
    """Its attention's Linear layers are 1 x 1 convolutions in the original."""
    for name, value in state.items():
        there = vae_name(name, levels)
        yield there, value[:, :, None, None] if ".attn_1." in there and value.dim() == 2 else value


TOWER = {  # a transformer of OpenAI's and OpenCLIP's
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def _towers(state: State, layers: str, there: str) -> Iterator[tuple[str, Tensor]]:
    """The layers of a tower: query, key and value in one tensor of three times the height."""
    import torch

    done = set()
    for name, value in state.items():
        found = re.fullmatch(re.escape(layers) + r"(\d+)\.(.+)\.(weight|bias)", name)
        if found is None:
            continue
        place, stem, last = found.groups()
        if stem in TOWER:
            yield f"{there}{place}.{TOWER[stem]}.{last}", value
        elif (place, last) not in done:
            done.add((place, last))
            three = [state[f"{layers}{place}.self_attn.{which}_proj.{last}"] for which in "qkv"]
            yield f"{there}{place}.attn.in_proj_{last}", torch.cat(three)


def as_open_clip(state: State, more: Callable[[str, tuple[int, ...]], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """CLIPTextModel or its projected kind (names with `text_model.`) as OpenCLIP's text tower.

    `more` makes what transformers' class lacks: without a projection of its own the file still has one, and a layer
    beyond those that are used (Stable Diffusion 2 drops the last).
    """
    body = "text_model."
    width = state[body + "final_layer_norm.weight"].shape[0]
    yield "token_embedding.weight", state[body + "embeddings.token_embedding.weight"]
    yield "positional_embedding", state[body + "embeddings.position_embedding.weight"]
    yield from _towers(state, body + "encoder.layers.", "transformer.resblocks.")
    for last in ("weight", "bias"):
        yield f"ln_final.{last}", state[f"{body}final_layer_norm.{last}"]
    yield "logit_scale", more("logit_scale", ())
    if "text_projection.weight" in state:
        yield "text_projection", state["text_projection.weight"].T
        return
    yield "text_projection", more("text_projection", (width, width))
    count = 1 + max(int(found[1]) for name in state if (found := re.search(r"layers\.(\d+)\.", name)))
    dropped = {name.replace(f"layers.{count - 1}.", f"layers.{count}."): value for name, value in state.items()}
    last_layer = {name: more(name, tuple(value.shape)) for name, value in dropped.items() if f"layers.{count}." in name}
    yield from _towers(last_layer, body + "encoder.layers.", "transformer.resblocks.")


def as_visual(state: State) -> Iterator[tuple[str, Tensor]]:
    """CLIPVisionModelWithProjection as the `visual.` of OpenAI's CLIP."""
    body = "vision_model."
    yield "class_embedding", state[body + "embeddings.class_embedding"]
    yield "positional_embedding", state[body + "embeddings.position_embedding.weight"]
    yield "conv1.weight", state[body + "embeddings.patch_embedding.weight"]
    for last in ("weight", "bias"):
        yield f"ln_pre.{last}", state[f"{body}pre_layrnorm.{last}"]  # sic
        yield f"ln_post.{last}", state[f"{body}post_layernorm.{last}"]
    yield from _towers(state, body + "encoder.layers.", "transformer.resblocks.")
    if "visual_projection.weight" in state:
        yield "proj", state["visual_projection.weight"].T


def resampler(prefix: str, width: int, inner: int, out: int, heads: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the resampler of IP-Adapter-Plus and ImageDream: 16 queries, four layers, heads of 64."""
    found: dict[str, tuple[int, ...]] = {"latents": (1, 16, inner)}
    found |= {"proj_in.weight": (inner, width), "proj_in.bias": (inner,)}
    found |= {"proj_out.weight": (out, inner), "proj_out.bias": (out,)}
    found |= {"norm_out.weight": (out,), "norm_out.bias": (out,)}
    for layer in range(4):
        look, feed = f"layers.{layer}.0.", f"layers.{layer}.1."
        for norm in ("norm1", "norm2"):
            found |= {f"{look}{norm}.weight": (inner,), f"{look}{norm}.bias": (inner,)}
        found |= {f"{look}to_q.weight": (64 * heads, inner), f"{look}to_kv.weight": (128 * heads, inner)}
        found |= {f"{look}to_out.weight": (inner, 64 * heads)}
        found |= {f"{feed}0.weight": (inner,), f"{feed}0.bias": (inner,)}
        found |= {f"{feed}1.weight": (4 * inner, inner), f"{feed}3.weight": (inner, 4 * inner)}
    return {prefix + name: shape for name, shape in found.items()}
