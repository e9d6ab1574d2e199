# SPDX-License-Identifier: Apache-2.0
"""LoRA files under every name they come with add alpha / rank up @ down to the layers they mean, and a file of which
anything has no place adds nothing."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dreamlab.core.errors import ModelError
from guidance.latent import lora_files
from guidance.shared.lora import Lora
from tests.guidance.latent import old_names as old

pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")
pytest.importorskip("transformers", reason="transformers is not installed (extra `models`)")

RANK = 3
UNET = [
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "up_blocks.2.attentions.1.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.3.attentions.2.proj_in",  # a 1x1 convolution in SD 1
    "down_blocks.0.resnets.1.conv1",
    "down_blocks.2.downsamplers.0.conv",
    "conv_in",
]
TEXT = ["encoder.layers.1.self_attn.q_proj", "encoder.layers.0.self_attn.out_proj", "encoder.layers.1.mlp.fc1"]
LAYERS = {"unet": UNET, "text_encoder": TEXT}
Pair = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def originals() -> dict[str, nn.Module]:
    return {"unet": old.unet("sd1"), "text_encoder": old.text(2)}


@pytest.fixture
def nets(originals: dict[str, nn.Module]) -> dict[str, nn.Module]:
    return copy.deepcopy(originals)


def pairs(nets: dict[str, nn.Module], layers: dict[str, list[str]] = LAYERS) -> dict[str, dict[str, Pair]]:
    """For each layer a drawn down and up of its shape."""
    generator = torch.Generator().manual_seed(3)
    found: dict[str, dict[str, Pair]] = {}
    for part, names in layers.items():
        for name in names:
            shape = nets[part].get_submodule(name).weight.shape
            down = torch.randn(RANK, *shape[1:], generator=generator)
            up = torch.randn(shape[0], RANK, *([1, 1] if len(shape) == 4 else []), generator=generator)
            found.setdefault(part, {})[name] = down, up
    return found


def kohya(drawn: dict[str, dict[str, Pair]], alpha: float) -> dict[str, Tensor]:
    made = {}
    for part, layers in drawn.items():
        for name, (down, up) in layers.items():
            stem = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}[part] + name.replace(".", "_")
            made |= {
                f"{stem}.lora_down.weight": down,
                f"{stem}.lora_up.weight": up,
                f"{stem}.alpha": torch.tensor(alpha),
            }
    return made


def peft(drawn: dict[str, dict[str, Pair]], prefix: str, text: str = "") -> dict[str, Tensor]:
    made = {}
    for part, layers in drawn.items():
        for name, (down, up) in layers.items():
            path = prefix.format(part=part) + (text if part == "text_encoder" else "") + name
            made |= {f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up}
    return made


def written(path: Path, made: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    from safetensors.torch import save_file

    save_file({name: value.clone().contiguous() for name, value in made.items()}, path, metadata)
    return path


def expect(
    nets: dict[str, nn.Module], originals: dict[str, nn.Module], drawn: dict[str, dict[str, Pair]], ratio: float
) -> None:
    """W + ratio up down at the layers that were drawn, and not one number elsewhere."""
    for part, net in nets.items():
        before = originals[part].state_dict()
        for name, value in net.state_dict().items():
            pair = drawn.get(part, {}).get(name.removesuffix(".weight")) if name.endswith(".weight") else None
            if pair is None:
                torch.testing.assert_close(value, before[name], rtol=0, atol=0)
            else:
                down, up = (x.double().flatten(1) for x in pair)
                wanted = before[name].double() + ratio * (up @ down).reshape(value.shape)
                torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-5)
                assert (value - before[name]).abs().max() > 0.1


def test_kohya_with_text_attention_convolutions_and_alpha(
    nets: dict[str, nn.Module], originals: dict[str, nn.Module], tmp_path: Path
) -> None:
    drawn = pairs(nets)
    file = lora_files.read(written(tmp_path / "k.safetensors", kohya(drawn, alpha=1.5)))
    assert len(file) == 10
    merged = lora_files.merge(nets, file, 0.7)
    assert merged.counts == {"unet": 7, "text_encoder": 3}
    expect(nets, originals, drawn, 0.7 * 1.5 / RANK)
    merged.undo()
    expect(nets, originals, {}, 0)


@pytest.mark.parametrize("prefix", ["{part}.", "base_model.model.{part}.", "{part}.base_model.model."])
@pytest.mark.parametrize("text", ["", "text_model."])
def test_peft_with_every_prefix(
    prefix: str, text: str, nets: dict[str, nn.Module], originals: dict[str, nn.Module], tmp_path: Path
) -> None:
    """diffusers 0.42 loads nothing from a file with `base_model.model.`, and says nothing."""
    drawn = pairs(nets)
    file = lora_files.read(written(tmp_path / "p.safetensors", peft(drawn, prefix, text)))
    assert lora_files.merge(nets, file).counts == {"unet": 7, "text_encoder": 3}
    expect(nets, originals, drawn, 1)


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_without_a_part_the_unet_is_meant(
    prefix: str, nets: dict[str, nn.Module], originals: dict[str, nn.Module], tmp_path: Path
) -> None:
    drawn = pairs(nets, {"unet": UNET})
    lora_files.merge(nets, lora_files.read(written(tmp_path / "u.safetensors", peft(drawn, prefix))))
    expect(nets, originals, drawn, 1)


def test_alpha_beside_the_tensors_is_heard(
    nets: dict[str, nn.Module], originals: dict[str, nn.Module], tmp_path: Path
) -> None:
    drawn = pairs(nets, {"unet": UNET})
    said = {"unet.r": RANK, "unet.lora_alpha": 6.0, "unet.alpha_pattern": {"downsamplers.0.conv": 12.0}}
    metadata = {"lora_adapter_metadata": json.dumps(said)}
    path = written(tmp_path / "m.safetensors", peft(drawn, "{part}."), metadata)
    before, alphas = originals["unet"], lora_files.read(path).parts["unet"]
    assert {name: a.alpha for name, a in alphas.items()} == {
        name.replace(".", "_"): 12.0 if "downsamplers" in name else 6.0 for name in UNET
    }
    lora_files.merge(nets, lora_files.read(path))
    down, up = drawn["unet"][UNET[0]]
    torch.testing.assert_close(
        nets["unet"].get_submodule(UNET[0]).weight, before.get_submodule(UNET[0]).weight + 2 * up @ down
    )
    for bad, says in (('{"unet.use_rslora": true}', "rsLoRA"), ("{", "damaged"), ("[]", "damaged")):
        path = written(tmp_path / "m.safetensors", peft(drawn, "{part}."), {"lora_adapter_metadata": bad})
        with pytest.raises(ModelError, match=says):
            lora_files.read(path)


def test_diffusers_old_names(nets: dict[str, nn.Module], originals: dict[str, nn.Module], tmp_path: Path) -> None:
    drawn = pairs(nets, {"unet": [UNET[0], UNET[1], UNET[4]], "text_encoder": TEXT})
    made = {}
    for part, layers in drawn.items():
        for name, both in layers.items():
            for end, value in zip(("down", "up"), both, strict=True):
                if part == "unet" and ".attn" in name:
                    path, layer = re.fullmatch(r"(.*attn\d)\.(to_\w+)(?:\.0)?", name).groups()
                    made[f"unet.{path}.processor.{layer}_lora.{end}.weight"] = value
                elif part == "unet":
                    made[f"unet.{name}.lora.{end}.weight"] = value
                elif "self_attn" in name:
                    path, layer = name.rsplit(".", 1)
                    made[f"text_encoder.text_model.{path}.to_{layer.removesuffix('_proj')}_lora.{end}.weight"] = value
                else:
                    made[f"text_encoder.text_model.{name}.lora_linear_layer.{end}.weight"] = value
    lora_files.merge(nets, lora_files.read(written(tmp_path / "o.safetensors", made)))
    expect(nets, originals, drawn, 1)


def test_sdxl_s_kohya_names_are_those_of_the_original_blocks(tmp_path: Path) -> None:
    """Every layer of the U-Net once by its old name; both text encoders."""
    nets = {"unet": old.unet("sdxl"), "text_encoder": old.text(1), "text_encoder_2": old.text(1, 96, projected=True)}
    originals = copy.deepcopy(nets)
    found = {n for n, m in nets["unet"].named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    names = {"unet": sorted(found), "text_encoder": TEXT[1:2], "text_encoder_2": [f"text_model.{TEXT[1]}"]}
    drawn, made = pairs(nets, names), {}
    for part, layers in drawn.items():
        for name, (down, up) in layers.items():
            was = next(iter(old.old_unet({f"{name}.weight": down}))) if part == "unet" else name
            if "upsamplers" in name:
                was = f"output_blocks.{3 * int(name.split('.')[1]) + 2}.2.conv.weight"
            head = {"unet": "lora_unet", "text_encoder": "lora_te1_text_model", "text_encoder_2": "lora_te2"}[part]
            stem = f"{head}_{was.removesuffix('.weight').replace('.', '_')}"
            made |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    assert any(name.startswith("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q") for name in made)
    lora_files.merge(nets, lora_files.read(written(tmp_path / "xl.safetensors", made)))
    expect(nets, originals, drawn, 1)


def test_a_convolution_in_three_steps(
    nets: dict[str, nn.Module], originals: dict[str, nn.Module], tmp_path: Path
) -> None:
    """LoCon's `lora_mid`: 1x1, 3x3, 1x1 convolutions one after another are one 3x3 convolution."""
    import torch.nn.functional as F

    conv = nets["unet"].down_blocks[0].resnets[0].conv1
    down, mid, up = torch.randn(RANK, 32, 1, 1), torch.randn(RANK, RANK, 3, 3), torch.randn(32, RANK, 1, 1)
    stem, x = "lora_unet_down_blocks_0_resnets_0_conv1", torch.randn(1, 32, 6, 6)
    wanted = conv(x) + 0.5 * F.conv2d(F.conv2d(F.conv2d(x, down), mid, padding=1), up)
    made = {f"{stem}.lora_{end}.weight": value for end, value in (("down", down), ("mid", mid), ("up", up))}
    path = written(tmp_path / "c.safetensors", made)
    lora_files.merge(nets, lora_files.read(path), 0.5)
    torch.testing.assert_close(conv(x), wanted, rtol=1e-4, atol=1e-4)


def test_half_precision_is_added_in_float(nets: dict[str, nn.Module], tmp_path: Path) -> None:
    net = nets["unet"].bfloat16()
    layer = net.get_submodule(UNET[0])
    before = layer.weight.clone()
    down, up = torch.randn(RANK, 32), torch.randn(layer.weight.shape[0], RANK)
    path = written(tmp_path / "h.safetensors", {f"{UNET[0]}.lora_A.weight": down, f"{UNET[0]}.lora_B.weight": up})
    lora_files.merge({"unet": net}, lora_files.read(path), 0.1)
    assert layer.weight.dtype == torch.bfloat16
    torch.testing.assert_close(layer.weight, (before.float() + 0.1 * up @ down).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("fault", ["unknown", "shape", "no encoder", "no match", "rank"])
def test_one_entry_without_a_place_and_nothing_is_added(
    fault: str, nets: dict[str, nn.Module], originals: dict[str, nn.Module], tmp_path: Path
) -> None:
    drawn = pairs(nets)
    made = peft(drawn, "{part}.")
    if fault == "unknown":
        made |= {
            "unet.mid_block.attn9.to_q.lora_A.weight": torch.ones(2, 4),
            "unet.mid_block.attn9.to_q.lora_B.weight": torch.ones(4, 2),
        }
        says = "1 of its 11 entries do not fit the model .mid_block_attn9_to_q is no layer of the unet"
    elif fault == "shape":
        made[f"unet.{UNET[0]}.lora_A.weight"] = torch.ones(RANK, 7)
        says = r"1 of its 10 entries.*does not fit \[32, 32\]"
    elif fault == "rank":
        made[f"unet.{UNET[0]}.lora_A.weight"] = torch.ones(RANK + 1, 32)
        says = r"1 of its 10 entries.*does not fit \[32, 32\]"
    elif fault == "no encoder":
        nets.pop("text_encoder")
        says = "3 layers of a text_encoder, which this model has not"
    else:
        made = {
            f"unet.other.{name.removeprefix('unet.')}": value for name, value in made.items() if name.startswith("unet")
        }
        says = "7 of its 7 entries do not fit the model .*; ..."
    file = lora_files.read(written(tmp_path / "f.safetensors", made))
    with pytest.raises(ModelError, match=says) as error:
        lora_files.merge(nets, file)
    assert "\n" not in str(error.value)
    expect(nets, originals, {}, 0)


def test_what_is_no_lora_is_one_line(tmp_path: Path) -> None:
    one = torch.ones(2, 2)
    for made, says in (
        ({"lora_unet_conv_in.hada_w1_a": one}, r"1 tensors are none of a LoRA's \(lora_unet_conv_in.hada_w1_a\)"),
        ({"lora_unet_conv_in.dora_scale": one, "lora_unet_conv_in.lora_up.weight": one}, "none of a LoRA's"),
        ({"lora_unet_conv_in.lora_up.weight": one}, "conv_in lacks its down"),
        ({"down_blocks.0.weight": one}, "none of a LoRA's"),
    ):
        with pytest.raises(ModelError, match=says):
            lora_files.read(written(tmp_path / "n.safetensors", made))


@pytest.mark.parametrize("style", ["peft", "kohya"])
def test_ours_go_out_and_come_back(style: str, nets: dict[str, nn.Module], tmp_path: Path) -> None:
    """The merged network answers as the adapted one did: alpha is the rank."""
    net = nets["unet"]
    lora = Lora(net, RANK, lambda name: name.endswith(("to_q", "to_k", "to_v", "to_out.0")))
    params = {name: torch.randn(value.shape) * 0.1 for name, value in lora.start().items()}
    x, t, rows = torch.randn(1, 4, 8, 8), torch.tensor([400]), torch.randn(1, 5, 64)
    plain = net(x, t, rows)[0]
    with lora.added(params):
        adapted = net(x, t, rows)[0]
    path = tmp_path / "ours.safetensors"
    lora_files.exported(params, path, style=style)
    merged = lora_files.merge({"unet": net}, lora_files.read(path))
    assert merged.counts == {"unet": len(lora.layers)} and len(lora.layers) == 128
    torch.testing.assert_close(net(x, t, rows)[0], adapted, rtol=1e-3, atol=1e-4)
    assert (adapted - plain).abs().max() > 0.01
    merged.undo()
    torch.testing.assert_close(net(x, t, rows)[0], plain, rtol=0, atol=0)


def test_a_compiled_network_sees_merged_weights(nets: dict[str, nn.Module], tmp_path: Path) -> None:
    """Hooks put on after compiling are not seen; weights are."""
    layer = nets["unet"].get_submodule("mid_block.attentions.0.transformer_blocks.0.ff")
    compiled = torch.compile(layer, backend="eager")
    x = torch.randn(1, 4, 64)
    before = compiled(x)
    drawn = pairs(nets, {"unet": ["mid_block.attentions.0.transformer_blocks.0.ff.net.2"]})
    lora_files.merge(nets, lora_files.read(written(tmp_path / "c.safetensors", kohya(drawn, 3.0))))
    torch.testing.assert_close(compiled(x), layer(x), rtol=0, atol=0)
    assert (compiled(x) - before).abs().max() > 0.1
