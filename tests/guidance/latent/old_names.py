# SPDX-License-Identifier: Apache-2.0
"""Tiny networks with random weights, in the files of the original repositories: every name written out from what those
classes are made of. That the names are right is judged by diffusers' own converters (test_ldm_names.py)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
WIDTHS = (32, 32, 64, 64)
CROSS = {"down": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "up": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3}
SCHEDULE = [
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
]  # fmt: skip
UNETS: dict[str, dict[str, object]] = {
    "sd1": {"attention_head_dim": 8, "cross_attention_dim": 64},
    "sd2": {"attention_head_dim": [1, 1, 1, 1], "cross_attention_dim": 64, "use_linear_projection": True},
    "zero123": {"attention_head_dim": 8, "cross_attention_dim": 64, "in_channels": 8},
    "sdxl": {
        "attention_head_dim": [1, 1, 1], "cross_attention_dim": 160, "use_linear_projection": True,
        "block_out_channels": (32, 32, 64), "transformer_layers_per_block": [1, 2, 3],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 96,
    },
}  # fmt: skip
UNETS["mvdream"] = UNETS["sd2"] | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
UNETS["imagedream"] = UNETS["mvdream"]


def random(net: nn.Module, seed: int = 0) -> nn.Module:
    """Every number drawn: nothing that a network sets to zero or one at birth hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.named_parameters():
            spread = value[0].numel() ** -0.5 if value.ndim > 1 else 0.1
            centre = 1.0 if value.ndim == 1 and name.endswith("weight") else 0.0
            value.copy_(torch.randn(value.shape, generator=generator) * spread + centre)
    return net.eval().requires_grad_(False)


def unet(kind: str, **changes: object) -> nn.Module:
    from diffusers import UNet2DConditionModel

    config: dict[str, object] = {"sample_size": 8, "block_out_channels": WIDTHS, "layers_per_block": 2}
    config |= {"down_block_types": CROSS["down"], "up_block_types": CROSS["up"]}
    return random(UNet2DConditionModel(**config | UNETS[kind] | changes), 1)


def vae() -> nn.Module:
    from diffusers import AutoencoderKL

    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    return random(AutoencoderKL(block_out_channels=(32, 32, 32, 64), layers_per_block=2, **kinds), 2)


def text(layers: int, hidden: int = 64, act: str = "gelu", projected: bool = False) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    heads = max(1, hidden // 64)
    config = CLIPTextConfig(
        vocab_size=514, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers, hidden_act=act,
        num_attention_heads=heads, projection_dim=hidden, bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    return random((CLIPTextModelWithProjection if projected else CLIPTextModel)(config), 3)


def vision(act: str = "quick_gelu") -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1, image_size=28, patch_size=14,
        projection_dim=60, hidden_act=act,
    )  # fmt: skip
    return random(CLIPVisionModelWithProjection(config), 4)


def controlnet(channels: int = 3) -> nn.Module:
    from diffusers import ControlNetModel

    config = {"block_out_channels": WIDTHS, "down_block_types": CROSS["down"], "conditioning_channels": channels}
    config |= {"conditioning_embedding_out_channels": (16, 24, 32, 40)} | UNETS["sd1"]
    return random(ControlNetModel(**config), 5)


def old_unet(state: Mapping[str, Tensor]) -> State:
    """input_blocks, middle_block, output_blocks; two residual layers a level."""
    attends = {m[1] for name in state if (m := re.match(r"up_blocks\.(\d)\.attentions", name))}
    inner = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
        "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
    }  # fmt: skip
    ends = {
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2",
        "mid_block.attentions.0": "middle_block.1", "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2", "class_embedding.linear_1": "camera_embed.0",
        "class_embedding.linear_2": "camera_embed.2",
    }  # fmt: skip
    found: State = {}
    for name, value in state.items():
        new = name
        if m := re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name):
            side, block, what, place, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
            index = 3 * block + place + (side == "down")
            blocks = "input_blocks" if side == "down" else "output_blocks"
            if what == "downsamplers":
                new = f"input_blocks.{3 * block + 3}.0.op.{rest.removeprefix('conv.')}"
            elif what == "upsamplers":
                new = f"output_blocks.{3 * block + 2}.{2 if m[2] in attends else 1}.{rest}"
            else:
                new = f"{blocks}.{index}.{0 if what == 'resnets' else 1}.{rest}"
        for old, place in ends.items():
            new = f"{place}.{new.removeprefix(old + '.')}" if new.startswith(old + ".") else new
        if ".resnets." in name:
            head, layer, end = new.rsplit(".", 2)
            new = f"{head}.{inner[layer]}.{end}"
        found[new] = value
    return found


def old_vae(state: Mapping[str, Tensor]) -> State:
    found: State = {}
    for name, value in state.items():
        new = re.sub(r"encoder\.down_blocks\.(\d)\.resnets\.", r"encoder.down.\1.block.", name)
        new = re.sub(r"decoder\.up_blocks\.(\d)\.resnets\.", lambda m: f"decoder.up.{3 - int(m[1])}.block.", new)
        new = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0." in new:
            new = new.replace("mid_block.attentions.0.", "mid.attn_1.").replace("group_norm", "norm")
            new = re.sub(r"to_([qkv])", r"\1", new).replace("to_out.0", "proj_out")
            value = value[:, :, None, None] if value.ndim == 2 else value
        found[new] = value
    return found


def old_tower(state: Mapping[str, Tensor]) -> State:
    """Layers of OpenAI's and OpenCLIP's transformers: q, k, v joint."""
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj"}
    names |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    found: State = {}
    for name, value in state.items():
        if m := re.match(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name):
            at = f"transformer.resblocks.{m[1]}"
            if m[2] in names:
                found[f"{at}.{names[m[2]]}.{m[3]}"] = value
            elif m[2] == "self_attn.q_proj":
                joint = [state[f"encoder.layers.{m[1]}.self_attn.{part}_proj.{m[3]}"] for part in "qkv"]
                found[f"{at}.attn.in_proj_{m[3]}"] = torch.cat(joint)
    return found


def old_text(net: nn.Module, extra: bool = False) -> State:
    """OpenCLIP's text tower with the names that no one reads, and with `extra` the layer that SD 2 leaves out."""
    own = {name.removeprefix("text_model."): value for name, value in net.state_dict().items()}
    hidden = own["final_layer_norm.weight"].shape[0]
    projection = own.get("text_projection.weight", torch.eye(hidden))
    found = old_tower(own) | {
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "token_embedding.weight": own["embeddings.token_embedding.weight"],
        "ln_final.weight": own["final_layer_norm.weight"],
        "ln_final.bias": own["final_layer_norm.bias"],
        "text_projection": projection.T.contiguous(),
        "logit_scale": torch.tensor(4.6),
    }
    if extra:
        last = max(int(name.split(".")[2]) for name in found if name.startswith("transformer."))
        here = f"resblocks.{last}."
        found |= {k.replace(here, f"resblocks.{last + 1}."): -v for k, v in found.items() if here in k}
    return found


def old_vision(net: nn.Module) -> State:
    own = {name.removeprefix("vision_model."): value for name, value in net.state_dict().items()}
    found = old_tower(own) | {
        "class_embedding": own["embeddings.class_embedding"],
        "conv1.weight": own["embeddings.patch_embedding.weight"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "proj": own["visual_projection.weight"].T.contiguous(),
    }
    for part in ("weight", "bias"):
        found |= {f"ln_pre.{part}": own[f"pre_layrnorm.{part}"], f"ln_post.{part}": own[f"post_layernorm.{part}"]}
    return found


def old_controlnet(net: nn.Module) -> State:
    found: State = {}
    body: State = {}
    for name, value in net.state_dict().items():
        end = name.rsplit(".", 1)[1]
        if m := re.match(r"controlnet_down_blocks\.(\d+)", name):
            found[f"zero_convs.{m[1]}.0.{end}"] = value
        elif name.startswith("controlnet_mid_block"):
            found[f"middle_block_out.0.{end}"] = value
        elif m := re.match(r"controlnet_cond_embedding\.(conv_in|conv_out|blocks\.(\d))", name):
            place = {"conv_in": 0, "conv_out": 14}.get(m[1], 2 * int(m[2] or 0) + 2)
            found[f"input_hint_block.{place}.{end}"] = value
        else:
            body[name] = value
    return found | old_unet(body)


def put(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": value.contiguous() for name, value in state.items()}


def whole(kind: str) -> tuple[State, dict[str, nn.Module]]:
    """A single file's tensors, and the networks that are in it."""
    nets: dict[str, nn.Module] = {"unet": unet(kind), "vae": vae()}
    state = {name: torch.zeros(1000) for name in SCHEDULE} | put(
        "model.diffusion_model.", old_unet(nets["unet"].state_dict())
    )
    state |= put("vae_model." if kind == "imagedream" else "first_stage_model.", old_vae(nets["vae"].state_dict()))
    if kind == "sd1":
        nets["text_encoder"] = text(2, act="quick_gelu")
        state |= put("cond_stage_model.transformer.text_model.", nets["text_encoder"].state_dict())
        state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    elif kind == "sdxl":
        nets |= {"text_encoder": text(2, act="quick_gelu"), "text_encoder_2": text(2, 96, projected=True)}
        state |= put("conditioner.embedders.0.transformer.text_model.", nets["text_encoder"].state_dict())
        state |= put("conditioner.embedders.1.model.", old_text(nets["text_encoder_2"]))
    elif kind == "zero123":
        nets["image_encoder"] = vision()
        state |= put("cond_stage_model.model.visual.", old_vision(nets["image_encoder"]))
        rest = old_text(text(1))  # its text tower is deleted before training, the rest of it stays in the file
        state |= put("cond_stage_model.model.", {k: v for k, v in rest.items() if not k.startswith("transformer.")})
        nets["cc_projection"] = random(nn.Linear(64, 64), 6)
        state |= put("cc_projection.", nets["cc_projection"].state_dict())
    else:
        nets["text_encoder"] = text(23)
        place = "clip_model.model." if kind == "imagedream" else "cond_stage_model.model."
        state |= put(place, old_text(nets["text_encoder"], extra=True))
        if kind == "imagedream":
            nets["image_encoder"] = vision("gelu")
            state |= put(f"{place}visual.", old_vision(nets["image_encoder"]))
            state |= put("model.diffusion_model.", image_prompt(nets["unet"]))
    return state, nets


def resampler(prefix: str, inner: int, outer: int, queries: int, depth: int = 4, heads: int = 1) -> State:
    """IP-Adapter-Plus's projection: `depth` times attention of learnt queries and a two-layer net."""
    generator = torch.Generator().manual_seed(7)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    hidden = outer
    found = {
        "latents": drawn(1, queries, hidden),
        "proj_in.weight": drawn(hidden, inner),
        "proj_in.bias": drawn(hidden),
    }
    found |= {"proj_out.weight": drawn(outer, hidden), "proj_out.bias": drawn(outer)}
    found |= {"norm_out.weight": drawn(outer) + 1, "norm_out.bias": drawn(outer)}
    for k in range(depth):
        at, net = f"layers.{k}.0", f"layers.{k}.1"
        for norm in ("norm1", "norm2"):
            found |= {f"{at}.{norm}.weight": drawn(hidden) + 1, f"{at}.{norm}.bias": drawn(hidden)}
        found |= {f"{at}.to_q.weight": drawn(64 * heads, hidden), f"{at}.to_kv.weight": drawn(128 * heads, hidden)}
        found |= {f"{at}.to_out.weight": drawn(hidden, 64 * heads)}
        found |= {f"{net}.0.weight": drawn(hidden) + 1, f"{net}.0.bias": drawn(hidden)}
        found |= {f"{net}.1.weight": drawn(4 * hidden, hidden), f"{net}.3.weight": drawn(hidden, 4 * hidden)}
    return put(prefix, found)


def image_prompt(net: nn.Module) -> State:
    """ImageDream's additions to the U-Net: the resampler and the image's keys and values of every attn2."""
    generator = torch.Generator().manual_seed(8)
    keys = {name: value for name, value in net.state_dict().items() if re.search(r"attn2\.to_[kv]\.weight", name)}
    drawn = {name: torch.randn(value.shape, generator=generator) * 0.1 for name, value in keys.items()}
    heads = {re.sub(r"to_([kv])\.", r"to_\1_ip.", name): value for name, value in old_unet(drawn).items()}
    return resampler("image_embed.", 64, 64, 16) | heads
