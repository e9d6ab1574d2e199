# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion from a single file, and with LoRA files merged into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dreamlab.core.errors import ModelError, RecipeError
from dreamlab.core.types import Condition
from guidance.latent.places import opened
from guidance.sd import StableDiffusion
from tests.guidance.latent import old_names
from tests.guidance.latent.test_core import asked, latents, sd


def answer(model: StableDiffusion) -> torch.Tensor:
    return model.predict(latents(model), torch.tensor([10, 900]), asked(model)["text"])


@pytest.fixture(scope="module")
def folder(random_folder: Callable[..., Path]) -> Path:
    return random_folder("sd15")


def test_a_single_file_is_a_model(tmp_path: Path) -> None:
    """The networks it was made of, asked straight."""
    state, nets = old_names.whole("sd1")
    file = tmp_path / "model.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, file)
    mine = sd(file, size=64)
    z, t = latents(mine), torch.tensor([10, 900])
    text = torch.randn(2, 77, nets["unet"].config.cross_attention_dim, generator=torch.Generator().manual_seed(2))
    rgb = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = nets["unet"](z, t, text).sample
        mode = nets["vae"].encode(2 * rgb.permute(0, 3, 1, 2) - 1).latent_dist.mode()
    assert mine.clock.form == "eps"
    torch.testing.assert_close(mine.predict(z, t, Condition({"text": text})), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine.encode(rgb), 0.18215 * mode, rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="is not read from a single file"):
        opened(str(file), "sd")


def lora(folder: Path, path: Path, part: str, layers: tuple[str, ...], scale: float = 1.0) -> dict[str, torch.Tensor]:
    """A file in kohya's names; what it adds to each layer's weight."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    load, sub = (UNet2DConditionModel, "unet") if part == "unet" else (CLIPTextModel, "text_encoder")
    net = load.from_pretrained(str(folder / sub), torch_dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    tensors, added = {}, {}
    for layer in layers:
        out, inner = net.get_submodule(layer).weight.shape
        down, up = (torch.randn(shape, generator=generator) for shape in ((2, inner), (out, 2)))
        name = ("lora_unet_" if part == "unet" else "lora_te_text_model_") + layer.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
        added[f"{layer}.weight"] = scale * 0.5 * up @ down
    save_file(tensors, path)
    return added


def test_a_lora_is_merged_into_the_network_and_the_text(folder: Path, tmp_path: Path) -> None:
    unet_layers = ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",)
    text_layers = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.0.mlp.fc1")
    files = [tmp_path / f"{part}.safetensors" for part in ("unet", "text")]
    added = lora(folder, files[0], "unet", unet_layers, 0.7)
    lora(folder, files[1], "text", text_layers)
    plain, mine = sd(folder), sd(folder, lora=(str(files[0]),), lora_scales=(0.7,))
    for name, value in mine.module.state_dict().items():
        expected = plain.module.state_dict()[name] + added.get(name, 0.0)
        torch.testing.assert_close(value, expected)
    both = sd(folder, lora=tuple(map(str, files)))
    assert not torch.allclose(asked(both)["text"].rows["text"], asked(plain)["text"].rows["text"], atol=1e-2)
    assert not torch.allclose(answer(mine), answer(plain), atol=1e-3)


def test_a_lora_that_matches_nothing_or_is_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "strange.safetensors"
    save_file({"lora_unet_elsewhere.lora_down.weight": torch.ones(2, 4),
               "lora_unet_elsewhere.lora_up.weight": torch.ones(4, 2)}, path)  # fmt: skip
    with pytest.raises(ModelError, match="elsewhere is no layer of the unet"):
        sd(folder, lora=(str(path),))
    save_file({"lora_te2_a.lora_down.weight": torch.ones(2, 4), "lora_te2_a.lora_up.weight": torch.ones(4, 2)}, path)
    with pytest.raises(ModelError, match="also speaks of text_encoder_2, which this model has not"):
        sd(folder, lora=(str(path),))
    with pytest.raises(RecipeError, match="lora_scales: 2 of them for 1 LoRA files"):
        sd(folder, lora=(str(path),), lora_scales=(1.0, 2.0))
