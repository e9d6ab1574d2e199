# SPDX-License-Identifier: Apache-2.0
"""Names of tensors in the files of the original repositories (latent-diffusion and its children) -> diffusers' names.

A net's name there is a path of `nn.Sequential` numbers; here it is a table of modules, so that LoRA files that use the
old names (kohya's SDXL) are found by the same table. No tensor is read: a dict of anything goes in, renamed views of
it come out, except where a tensor's shape differs (1x1 convolutions that are linear layers now, joint projections).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from dreamlab.core.errors import ModelError

State = Mapping[str, Tensor]

UNET, EMA = "model.diffusion_model.", "model_ema."
VAES = ("first_stage_model.", "vae_model.")
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
HEAD = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "camera_embed.0": "class_embedding.linear_1",  # MVDream, ImageDream
    "camera_embed.2": "class_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",  # SDXL
    "label_emb.0.2": "add_embedding.linear_2",
}
CONTROL = {"middle_block_out.0": "controlnet_mid_block", "input_hint_block.0": "controlnet_cond_embedding.conv_in"}
CONTROL |= {f"input_hint_block.{2 * k}": f"controlnet_cond_embedding.blocks.{k - 1}" for k in range(1, 7)}
CONTROL |= {"input_hint_block.14": "controlnet_cond_embedding.conv_out"}
CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
SHOWN = 3  # names of tensors that an error shows


def check(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Every tensor that a network has, in its shape, and none besides: otherwise both libraries leave it random."""
    faults = [f"{name} is missing" for name in wanted if name not in found]
    faults += [f"{name} is not known" for name in found if name not in wanted]
    faults += [
        f"{name} is {list(found[name])} and not {list(shape)}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if faults:
        raise ModelError(
            f"{where}: {len(faults)} of {len(wanted)} tensors do not fit ({'; '.join(faults[:SHOWN])}"
            f"{'; ...' if len(faults) > SHOWN else ''}); another model's file, or a damaged one: get it again"
        )


def under(state: State, prefix: str) -> dict[str, Tensor]:
    """What stands below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def modules(names: Iterable[str], layers: int) -> dict[str, str]:
    """The U-Net's modules by their old names, for so many residual layers a level; SDXL has three levels, others four.
    An upsampler stands after the attention of its block where there is one: `names` tell."""
    known, table = set(names), dict(HEAD)
    inputs, outputs = (_count(known, blocks) for blocks in ("input_blocks", "output_blocks"))
    each = layers + 1
    for i in range(1, inputs):
        block, place = divmod(i - 1, each)
        if place == layers:
            table[f"input_blocks.{i}.0.op"] = f"down_blocks.{block}.downsamplers.0.conv"
        else:
            table[f"input_blocks.{i}.0"] = f"down_blocks.{block}.resnets.{place}"
            table[f"input_blocks.{i}.1"] = f"down_blocks.{block}.attentions.{place}"
    for i in range(outputs):
        block, place = divmod(i, each)
        table[f"output_blocks.{i}.0"] = f"up_blocks.{block}.resnets.{place}"
        table[f"output_blocks.{i}.1"] = f"up_blocks.{block}.attentions.{place}"
        table[f"output_blocks.{i}.1.conv"] = table[f"output_blocks.{i}.2.conv"] = f"up_blocks.{block}.upsamplers.0.conv"
    return table


def layers_of(names: Iterable[str]) -> int:
    """Residual layers a level: where the first downsampling stands."""
    found = [int(m[1]) for name in names if (m := re.match(r"input_blocks\.(\d+)\.0\.op\.", name))]
    return min(found, default=3) - 1


def unet(state: State) -> dict[str, Tensor]:
    """A U-Net's tensors (without the file's prefix); the image parts of ImageDream are `image_prompt`'s."""
    table = modules(state, layers_of(state))
    return {renamed(name, table): value for name, value in state.items() if not _of_images(name)}


def image_prompt(state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """ImageDream's resampler, and its keys and values by the diffusers name of their cross-attention: the layout of an
    IP-Adapter (guidance/latent/ip_files.py)."""
    table = modules(state, layers_of(state))
    heads = {renamed(name, table): value for name, value in state.items() if re.search(r"\.to_[kv]_ip\.", name)}
    return under(state, "image_embed."), heads


def controlnet(state: State) -> dict[str, Tensor]:
    """A ControlNet's tensors, with or without the prefix; the U-Net that older files carry along is left out."""
    own = under(state, "control_model.") or dict(state)
    table = modules(own, layers_of(own)) | CONTROL
    table |= {f"zero_convs.{k}.0": f"controlnet_down_blocks.{k}" for k in range(_count(own, "zero_convs"))}
    return {renamed(name, table): value for name, value in own.items()}


def averaged(state: State) -> dict[str, Tensor]:
    """The U-Net (without prefix) of the file's moving averages, whose names have no dots."""
    names = [name for name in state if name.startswith(UNET)]
    flat = {name.removeprefix(UNET): EMA + name.removeprefix("model.").replace(".", "") for name in names}
    lacking = [name for name in flat.values() if name not in state]
    if lacking or not names:
        raise ModelError(f"no moving averages for {len(lacking)} of {len(names)} tensors of the U-Net; use ema: false")
    return {name: state[old] for name, old in flat.items()}


def vae(state: State) -> dict[str, Tensor]:
    """An autoencoder's tensors (without the prefix): the decoder's levels are counted from the other end."""
    last = _count(state, "decoder.up", 2) - 1
    found = {}
    for old, value in state.items():
        if old.startswith("loss."):  # the discriminator of its training
            continue
        name = re.sub(r"^encoder\.down\.(\d+)\.", r"encoder.down_blocks.\1.", old)
        name = re.sub(r"^decoder\.up\.(\d+)\.", lambda m: f"decoder.up_blocks.{last - int(m[1])}.", name)
        name = re.sub(r"\.block\.(\d+)\.", r".resnets.\1.", name).replace("nin_shortcut", "conv_shortcut")
        name = re.sub(r"\.(down|up)sample\.conv\.", r".\1samplers.0.conv.", name)
        name = re.sub(r"\.mid\.block_(\d)\.", lambda m: f".mid_block.resnets.{int(m[1]) - 1}.", name)
        name = name.replace(".norm_out.", ".conv_norm_out.")
        if ".mid.attn_1." in name:
            name = re.sub(r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1.", name)
            name = name.replace(".mid.attn_1.norm.", ".mid_block.attentions.0.group_norm.")
            name = name.replace(".mid.attn_1.proj_out.", ".mid_block.attentions.0.to_out.0.")
            value = value[:, :, 0, 0] if value.ndim == 4 else value  # a 1x1 convolution is a linear layer now
        found[name] = value
    return found


def clip_text(state: State) -> dict[str, Tensor]:
    """A CLIP text tower of Hugging Face's names (`text_model.` taken away as CLIPTextModel has it)."""
    own = {name.removeprefix("text_model."): value for name, value in state.items()}
    return {name: value for name, value in own.items() if name != "embeddings.position_ids"}


def open_clip_text(state: State, drop: int = 0) -> dict[str, Tensor]:
    """OpenCLIP's text tower; SD 2 leaves out its last layer (`drop` 1), as it reads the penultimate one's output."""
    table = {
        "positional_embedding": "embeddings.position_embedding.weight",
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    found = {new: state[old] for old, new in table.items() if old in state}
    layers = under(state, "transformer.resblocks.")
    kept = len({name.split(".")[0] for name in layers}) - drop
    return found | _clip_layers({name: v for name, v in layers.items() if int(name.split(".")[0]) < kept})


def projected_text(state: State) -> dict[str, Tensor]:
    """OpenCLIP's text tower with its projection, as CLIPTextModelWithProjection (SDXL's second encoder)."""
    found = {f"text_model.{name}": value for name, value in open_clip_text(state).items()}
    if "text_projection" in state:
        found["text_projection.weight"] = state["text_projection"].T.contiguous()
    return found


def clip_vision(state: State) -> dict[str, Tensor]:
    """The picture tower of OpenAI's and OpenCLIP's names, as CLIPVisionModelWithProjection."""
    table = {"class_embedding": "embeddings.class_embedding", "conv1.weight": "embeddings.patch_embedding.weight"}
    table |= {"positional_embedding": "embeddings.position_embedding.weight"}
    for old, new in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):  # sic
        table |= {f"{old}.{part}": f"{new}.{part}" for part in ("weight", "bias")}
    found = {table[old]: value for old, value in state.items() if old in table}
    found |= _clip_layers(under(state, "transformer.resblocks."))
    named = {f"vision_model.{name}": value for name, value in found.items()}
    return named | ({"visual_projection.weight": state["proj"].T.contiguous()} if "proj" in state else {})


def _clip_layers(layers: State) -> dict[str, Tensor]:
    found = {}
    for old, value in layers.items():
        number, _, rest = old.partition(".")
        name, _, kind = rest.rpartition(".")
        if name == "attn" and kind.startswith("in_proj_"):
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                found[f"encoder.layers.{number}.self_attn.{part}_proj.{kind.removeprefix('in_proj_')}"] = piece
        else:
            found[f"encoder.layers.{number}.{CLIP_LAYER.get(name, name)}.{kind}"] = value
    return found


def _of_images(name: str) -> bool:
    return name.startswith("image_embed.") or ".to_k_ip." in name or ".to_v_ip." in name


def _count(names: Iterable[str], blocks: str, depth: int = 1) -> int:
    return len({name.split(".")[depth] for name in names if name.startswith(f"{blocks}.")})


def renamed(name: str, table: Mapping[str, str]) -> str:
    """By the longest module of the table that the name begins with; an unknown name stays, and `check` refuses it."""
    parts = name.split(".")
    for count in range(min(4, len(parts) - 1), 0, -1):
        module = table.get(".".join(parts[:count]))
        if module:
            rest = ".".join(parts[count:])
            return f"{module}.{resnet(rest) if '.resnets.' in module else rest}"
    return name


def resnet(rest: str) -> str:
    layer, _, kind = rest.rpartition(".")
    return f"{RESNET.get(layer, layer)}.{kind}"
