# SPDX-License-Identifier: Apache-2.0
"""Single files are recognised by their header alone, become the networks they were made from, and whatever is wrong
with one is a line."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dreamlab.core.errors import ModelError
from guidance.latent import ldm_names, single_file
from guidance.latent.built import built, filled
from guidance.latent.single_file import single
from tests.guidance.latent import old_names as old

pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")
pytest.importorskip("transformers", reason="transformers is not installed (extra `models`)")

KINDS = [kind for kind in single_file.WHOLE if kind != "sv3d"]  # of which tests/guidance/test_sv3d.py has a file
Made = tuple[Path, dict[str, nn.Module]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """A file of every kind, in half precision as most are."""
    from safetensors.torch import save_file

    made = {}
    for kind in KINDS:
        state, nets = old.whole(kind)
        path = tmp_path_factory.mktemp("files") / f"{kind}.safetensors"
        save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
        made[kind] = path, nets
    return made


def asked(kind: str) -> str:
    return "v_prediction" if kind == "sd2" else ""


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_is_the_network_it_was(kind: str, files: dict[str, Made]) -> None:
    path, nets = files[kind]
    file = single(path, prediction=asked(kind))
    assert file.kind == kind
    assert file.config("scheduler")["prediction_type"] == (asked(kind) or "epsilon")
    for part, net in nets.items():
        assert file.has(part)
        found = file.filled(part, torch.float32)
        assert not any(value.requires_grad for value in found.parameters())
        wanted = {name: value.half().float() for name, value in net.state_dict().items()}
        torch.testing.assert_close(dict(found.state_dict()), wanted, rtol=0, atol=0)
        filled(net, wanted, torch.float32, "the reference")
    x, t, rows = torch.randn(2, nets["unet"].config.in_channels, 16, 16), torch.tensor([3, 700]), torch.randn(2, 5, 160)
    extra = {"class_labels": torch.randn(2, 16)} if kind in ("mvdream", "imagedream") else {}
    if kind == "sdxl":
        extra = {"added_cond_kwargs": {"text_embeds": torch.randn(2, 96), "time_ids": torch.randn(2, 6)}}
    rows = rows[..., : nets["unet"].config.cross_attention_dim]
    said = file.filled("unet", torch.float32)(x, t, rows, **extra)[0]
    torch.testing.assert_close(said, nets["unet"](x, t, rows, **extra)[0], rtol=0, atol=0)  # heads and groups too
    if "text_encoder" in nets:
        ids = torch.tensor([[512, 5, 7, 513, 513]])
        for part in [part for part in nets if part.startswith("text_encoder")]:
            one, two = (net(ids)[0] for net in (file.filled(part, torch.float32), nets[part]))
            torch.testing.assert_close(one, two, rtol=0, atol=0)
    if "image_encoder" in nets:
        picture = torch.randn(1, 3, 28, 28)
        found = file.filled("image_encoder", torch.float32)(picture).image_embeds
        torch.testing.assert_close(found, nets["image_encoder"](picture).image_embeds, rtol=0, atol=0)
    picture = torch.rand(1, 3, 16, 16)
    means = [net.encode(picture).latent_dist.mode() for net in (file.filled("vae", torch.float32), nets["vae"])]
    torch.testing.assert_close(*means, rtol=0, atol=0)


def test_the_text_tower_of_sd_2_has_23_layers(files: dict[str, Made]) -> None:
    """The 24th in the file is another one: read to its end the text would be another."""
    file = single(files["sd2"][0], prediction="epsilon")
    assert file.config("text_encoder")["num_hidden_layers"] == 23
    assert len(file.state("text_encoder")) == 372  # section of the published count: 4 + 16 a layer


def test_of_averages_and_weights_the_user_chooses(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    net = old.unet("sd1")
    state = old.put(ldm_names.UNET, old.old_unet(net.state_dict()))
    ema = {"model_ema." + n.removeprefix("model.").replace(".", ""): 2 * v for n, v in state.items()}
    path = tmp_path / "both.safetensors"
    save_file(state | ema | {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(3)}, path)
    plain, averaged = (single(path, ema=ema).filled("unet", torch.float32).conv_in.weight for ema in (False, True))
    torch.testing.assert_close(plain, net.conv_in.weight, rtol=0, atol=0)
    torch.testing.assert_close(averaged, 2 * net.conv_in.weight, rtol=0, atol=0)
    save_file(state, path)
    with pytest.raises(ModelError, match="no moving averages"):
        single(path, ema=True).state("unet")


def written(path: Path, shapes: dict[str, list[int]], data: bool = False) -> Path:
    """A file with a header alone: behind it stands a hole as long as the tensors."""
    entries, at = {}, 0
    for name, shape in shapes.items():
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + 2 * math.prod(shape)]}
        at += 2 * math.prod(shape)
    head = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + at)
    return path


FULL = {
    "attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64, "in_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2, "use_linear_projection": False,
}  # fmt: skip
FULL_2 = FULL | {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True}
FULL_XL = FULL_2 | {
    "block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
    "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816, "sample_size": 128,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
MV = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16, "sample_size": 32}


@pytest.mark.parametrize(
    ("kind", "config", "parameters", "keys"),
    [
        ("sd1", FULL, 859_520_964, 686),
        ("sd2", FULL_2, 865_910_724, 686),
        ("sdxl", FULL_XL, 2_567_463_684, 1680),
        ("mvdream", FULL_2 | MV, 867_572_164, 690),
        ("zero123", FULL | {"in_channels": 8, "sample_size": 32}, 859_532_484, 686),
    ],
)
def test_a_full_size_file_by_its_header(
    kind: str, config: dict[str, object], parameters: int, keys: int, tmp_path: Path
) -> None:
    """Gigabytes of a hole: recognised, with the published configuration and counts."""
    full = built("unet", config)
    state = old.put(
        ldm_names.UNET, old.old_unet({k: torch.empty(v.shape, device="meta") for k, v in full.state_dict().items()})
    )
    shapes = {name: list(value.shape) for name, value in state.items()}
    if kind == "zero123":
        shapes["cc_projection.weight"] = [768, 772]
    if kind == "sdxl":
        shapes["conditioner.embedders.1.model.text_projection"] = [1280, 1280]
    path = written(tmp_path / "full.safetensors", shapes)
    file = single(path, prediction="epsilon")
    assert file.kind == kind
    found = file.config("unet")
    assert {name: found[name] for name in config} == config
    net = built("unet", found)
    assert sum(value.numel() for value in net.parameters()) == parameters
    assert len(net.state_dict()) == keys
    renamed = ldm_names.unet(ldm_names.under(file.file.shapes, ldm_names.UNET))
    shape = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    ldm_names.check({name: tuple(value.shape) for name, value in renamed.items()}, shape, "full size")


def test_imagedream_at_full_size_has_nothing_left_over(tmp_path: Path) -> None:
    """The published 941,672,900 numbers in 773 tensors: the U-Net's, the resampler's and the picture's attention."""
    from guidance.layouts import LAYOUTS
    from guidance.layouts.build import construct, in_file

    part = LAYOUTS["imagedream"].part("unet")
    tensors = in_file(part, construct(part, "full"), "fp16", "full")
    shapes = {f"{ldm_names.UNET}{name}": list(tensor.shape) for name, tensor in tensors.items()}
    file = single(written(tmp_path / "full.safetensors", shapes))
    body = ldm_names.under(file.file.shapes, ldm_names.UNET)
    resampler, heads = ldm_names.image_prompt(body)
    net = built("unet", file.config("unet"))
    assert file.kind == "imagedream" and net.config.attention_head_dim == [5, 10, 20, 20]
    assert len(ldm_names.unet(body)) == len(net.state_dict()) == 690
    assert (len(resampler), len(heads)) == (51, 32)
    counts = [sum(value.numel() for value in state.values()) for state in (net.state_dict(), resampler, heads)]
    assert counts == [867_572_164, 48_541_696, 25_559_040] and sum(counts) == 941_672_900


def test_the_older_mvdream_stands_on_sd_1(tmp_path: Path) -> None:
    """sd-v1.5-4view: eight heads, OpenAI's text encoder under Hugging Face's names."""
    from safetensors.torch import save_file

    net, heard = old.unet("sd1", **{k: v for k, v in old.UNETS["mvdream"].items() if "class" in k}), old.text(2)
    state = old.put(ldm_names.UNET, old.old_unet(net.state_dict()))
    state |= old.put("cond_stage_model.transformer.text_model.", heard.state_dict())
    save_file(state, tmp_path / "sd-v1.5-4view.safetensors")
    file = single(tmp_path / "sd-v1.5-4view.safetensors", ("mvdream",))
    assert file.config("unet")["attention_head_dim"] == 8 and file.config("text_encoder")["hidden_act"] == "quick_gelu"
    x, t, rows, labels = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 64), torch.randn(2, 16)
    said = file.filled("unet", torch.float32)(x, t, rows, class_labels=labels)[0]
    torch.testing.assert_close(said, net(x, t, rows, class_labels=labels)[0], rtol=1e-4, atol=1e-4)


def test_what_sd_2_predicts_must_be_said(files: dict[str, Made]) -> None:
    with pytest.raises(ModelError, match=r"prediction: epsilon.*prediction: v_prediction.*look alike"):
        single(files["sd2"][0])
    assert single(files["sd2"][0], prediction="v_prediction").config("unet")["sample_size"] == 96
    assert single(files["sd2"][0], prediction="epsilon").config("unet")["sample_size"] == 64


def broken(path: Path, tmp_path: Path, change: str) -> Path:
    from safetensors.torch import load_file, save_file

    state: dict[str, Tensor] = load_file(path)
    name = f"{ldm_names.UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    if change == "missing":
        del state[name]
    elif change == "extra":
        state[f"{ldm_names.UNET}input_blocks.4.1.transformer_blocks.0.attn3.to_k.weight"] = torch.zeros(2)
    else:
        state[name] = state[name].T.contiguous()[:5]
    save_file(state, tmp_path / "broken.safetensors")
    return tmp_path / "broken.safetensors"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("missing", r"1 of 684 tensors do not fit \(down_blocks\.1\.attentions\.0\S+attn2\.to_k\.weight is missing\)"),
        ("extra", r"1 of 684 tensors do not fit \(\S+attn3\.to_k\.weight is not known\)"),
        ("misshapen", r"1 of 684 tensors do not fit \(\S+attn2\.to_k\.weight is \[5, 32\] and not \[32, 64\]\)"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_by_name(
    change: str, says: str, files: dict[str, Made], tmp_path: Path
) -> None:
    """Both libraries would leave it as it was drawn."""
    with pytest.raises(ModelError, match=says):
        single(broken(files["sd1"][0], tmp_path, change)).filled("unet", torch.float32)


def test_a_part_without_its_first_layer_is_a_line_too(files: dict[str, Made], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(files["sd1"][0])
    for name in [n for n in state if n.startswith("first_stage_model.decoder.conv_in")]:
        del state[name]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"its vae lacks 'decoder\.conv_in\.weight'"):
        single(tmp_path / "x.safetensors").filled("vae", torch.float32)
    with pytest.raises(ModelError, match="holds no image_encoder"):
        single(tmp_path / "x.safetensors").state("image_encoder")


def test_a_file_cut_short_or_of_another_kind_is_one_line(files: dict[str, Made], tmp_path: Path) -> None:
    data = files["sd1"][0].read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length, says in ((len(data) - 1, "cut short"), (1000, "its header has no end"), (3, "not a safetensors file")):
        cut.write_bytes(data[:length])
        with pytest.raises(ModelError, match=says):
            single(cut)
    cut.write_bytes(b"<!DOCTYPE html><html>" + b" " * 4000)
    with pytest.raises(ModelError, match="not a safetensors file"):
        single(cut)
    with pytest.raises(ModelError, match="no such file"):
        single(tmp_path / "absent.safetensors")
    with pytest.raises(ModelError, match="is a sd1 model; this family takes mvdream or imagedream"):
        single(files["sd1"][0], ("mvdream", "imagedream"))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": [4, 8]}, "a LoRA"),
        ({"unet.mid_block.attentions.0.proj_in.lora_A.weight": [4, 8]}, "a LoRA"),
        ({"image_proj.proj.weight": [8, 8], "ip_adapter.1.to_k_ip.weight": [8, 8]}, "an IP-Adapter"),
        ({"control_model.input_hint_block.0.weight": [16, 3, 3, 3]}, "a ControlNet"),
        ({"controlnet_cond_embedding.conv_in.weight": [16, 3, 3, 3]}, "a ControlNet"),
        ({"down_blocks.0.resnets.0.conv1.weight": [8, 8, 3, 3]}, "one network of a diffusers folder"),
        ({f"{ldm_names.UNET}input_blocks.0.0.weight": [32, 9, 3, 3]}, "no model known here"),
        ({f"{ldm_names.UNET}double_blocks.0.img_attn.qkv.weight": [8, 8]}, "no model known here"),
    ],
)
def test_other_files_are_told_apart(names: dict[str, list[int]], says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=says):
        single(written(tmp_path / "other.safetensors", names))


def test_a_pickle_is_opened_only_where_the_user_says_so_and_as_tensors_alone(
    files: dict[str, Made], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    state = load_file(files["mvdream"][0])
    for name, held in (("wrapped.ckpt", {"state_dict": state, "global_step": 7}), ("plain.pt", state)):
        path = tmp_path / name
        torch.save(held, path)
        with pytest.raises(ModelError, match=f"is a pickle.*legacy: {name}"):
            single(path)
        for new in (True, False):
            torch.save(held, path, _use_new_zipfile_serialization=new)
            file = single(path, legacy=path.name)
            assert file.kind == "mvdream"
            found = file.filled("unet", torch.float16).state_dict()
            torch.testing.assert_close(
                dict(found), dict(files["mvdream"][1]["unet"].half().state_dict()), rtol=0, atol=0
            )
    path = tmp_path / "trap.ckpt"
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(trap),)  # type: ignore[return-value]

    torch.save({"state_dict": state, "callbacks": Trap()}, path)
    with pytest.raises(ModelError, match="holds more than tensors") as error:
        single(path, legacy=path.name)
    assert not trap.exists() and "\n" not in str(error.value)
    path.write_bytes(b"not at all")
    with pytest.raises(ModelError, match=r"cannot be read|holds more than tensors"):
        single(path, legacy=path.name)
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="holds a list and not named tensors"):
        single(path, legacy=path.name)
