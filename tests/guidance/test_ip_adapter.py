# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion with an IP-Adapter: the step of the library's pipeline with the same picture, and no picture in the
null."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dreamlab.core.cameras import turntable
from dreamlab.core.errors import InputError, ModelError, RecipeError
from dreamlab.core.noise import cfg
from dreamlab.core.types import Prompt
from guidance.ip_adapter import IPAdapter, IPAdapterXL, adapter_of
from guidance.latent.pictures import before, clip_pixels
from tests.guidance.latent import old_names as old
from tests.guidance.latent.test_core import frames
from tests.guidance.test_imagedream import reference

pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")
pytest.importorskip("transformers", reason="transformers is not installed (extra `models`)")


def adapter(net: nn.Module, folder: Path, plus: bool) -> Path:
    """A file for this U-Net with an encoder beside it, as in the authors' repository."""
    from safetensors.torch import save_file

    encoder = old.vision("gelu")
    encoder.save_pretrained(folder / "image_encoder")
    wide, generator = net.config.cross_attention_dim, torch.Generator().manual_seed(9)
    state = {}
    for number, (name, _) in enumerate(net.attn_processors.items()):
        if "attn2" in name:
            shape = net.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
            for part in "kv":
                state[f"ip_adapter.{number}.to_{part}_ip.weight"] = 0.3 * torch.randn(shape, generator=generator)
    if plus:
        state |= old.resampler("image_proj.", encoder.config.hidden_size, wide, 16)
    else:
        inner = encoder.config.projection_dim
        state |= {"image_proj.proj.weight": torch.randn(4 * wide, inner, generator=generator) / 8}
        state |= {"image_proj.proj.bias": torch.randn(4 * wide, generator=generator)}
        state |= {"image_proj.norm.weight": torch.ones(wide), "image_proj.norm.bias": torch.zeros(wide)}
    path = folder / ("ip-adapter-plus_sd15.safetensors" if plus else "ip-adapter_sd15.safetensors")
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def unet_of(folder: Path) -> nn.Module:
    from diffusers import UNet2DConditionModel

    net: nn.Module = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    return net


@pytest.fixture(scope="module")
def folder(random_folder: Callable[..., Path]) -> Path:
    return random_folder("sd15")


def built(kind: type[IPAdapter], folder: Path, path: Path, **settings: object) -> IPAdapter:
    chosen = {"model": str(folder), "adapter": str(path), "dtype": "float32", "strength": 0.6, **settings}
    return kind.build(kind.Settings(**chosen), None).to("cpu")


@pytest.mark.parametrize("plus", [False, True])
def test_a_step_of_the_library_s_pipeline_with_the_same_picture(plus: bool, folder: Path, tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPVisionModelWithProjection

    path, given = adapter(unet_of(folder), tmp_path, plus), reference(size=28)
    mine = built(IPAdapter, folder, path)
    prompt = Prompt("a red mushroom", "ugly", given)
    side = mine.side // mine.codec.factor
    z = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None, feature_extractor=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.load_ip_adapter(str(tmp_path), subfolder="", weight_name=path.name, image_encoder_folder=None)
    pipeline.set_ip_adapter_scale(0.6)
    pipeline.set_progress_bar_config(disable=True)
    encoder = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "image_encoder").eval()
    pixels = clip_pixels(before(given, 1.0), 28)
    if plus:
        both = [encoder(x, output_hidden_states=True).hidden_states[-2] for x in (0 * pixels, pixels)]
    else:
        both = [0 * encoder(pixels).image_embeds, encoder(pixels).image_embeds]
    after: list[Tensor] = []

    def keep(_: object, step: int, time: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        after.append(values["latents"].clone())
        return values

    pipeline(
        prompt.text, negative_prompt=prompt.negative, num_inference_steps=2, guidance_scale=7.5, latents=z.clone(),
        height=mine.side, width=mine.side, output_type="latent", callback_on_step_end=keep,
        ip_adapter_image_embeds=[torch.cat(both)[:, None]],
    )  # fmt: skip
    first, then = (int(t) for t in pipeline.scheduler.timesteps)
    said = mine.condition(prompt, turntable(1), frames(1))
    t = torch.tensor([first])
    eps = cfg(mine.predict(z, t, said["negative"]), mine.predict(z, t, said["text"]), 7.5)
    torch.testing.assert_close(mine.table.ddim_move(z, eps, t, torch.tensor([then])), after[0], rtol=1e-3, atol=1e-4)
    assert torch.equal(said["null"].rows["image"], said["negative"].rows["image"])
    assert torch.equal(said["back"].rows["image"], said["text"].rows["image"])
    weak = built(IPAdapter, folder, path, strength=0.0)
    silent = weak.predict(z, t, weak.condition(prompt, turntable(1), frames(1))["text"])
    assert (silent - mine.predict(z, t, said["text"])).abs().max() > 1e-2
    plain = unet_of(folder)(z, t, said["text"].rows["text"])[0]
    torch.testing.assert_close(silent, plain, rtol=1e-4, atol=1e-5)


def test_on_sdxl_beside_its_sizes_and_pooled_text(random_folder: Callable[..., Path], tmp_path: Path) -> None:
    place = random_folder("sdxl")
    net = unet_of(place)
    mine = built(IPAdapterXL, place, adapter(net, tmp_path, True))
    prompt = Prompt("a red mushroom", "", reference(size=28))
    rows = mine.condition(prompt, turntable(2), frames(2))["text"].rows
    side = mine.side // mine.codec.factor
    z, t = torch.randn(2, 4, side, side), torch.tensor([3, 700])
    said = mine.predict(z, t, mine.condition(prompt, turntable(2), frames(2))["text"])
    added = {"text_embeds": rows["pooled"], "time_ids": rows["sizes"]}
    plain = net(z, t, rows["text"], added_cond_kwargs=added)[0]
    added["image_embeds"] = [rows["image"]]
    torch.testing.assert_close(said, mine.module(z, t, rows["text"], added_cond_kwargs=added)[0], rtol=1e-4, atol=1e-5)
    assert (said - plain).abs().max() > 1e-2


def test_what_does_not_belong_together_is_one_line(folder: Path, tmp_path: Path) -> None:
    net = unet_of(folder)
    path = adapter(net, tmp_path, False)
    assert adapter_of(str(tmp_path)) == path
    with pytest.raises(InputError, match="the prompt has no picture; give one with --image"):
        built(IPAdapter, folder, path).condition(Prompt("a red mushroom"), turntable(1), frames(1))
    other = tmp_path / "other"
    adapter(net, other, True)
    config = other / "image_encoder/config.json"
    config.write_text(re.sub(r'"hidden_size": \d+', '"hidden_size": 48', config.read_text()))
    with pytest.raises(ModelError, match=r"its hidden_size is 48, and .* reads 64; name the folder of the right one"):
        built(IPAdapter, folder, other / "ip-adapter-plus_sd15.safetensors")
    shutil.rmtree(other / "image_encoder")
    with pytest.raises(ModelError, match=r"image_encoder.config\.json: is not there"):
        built(IPAdapter, folder, other / "ip-adapter-plus_sd15.safetensors")
    with pytest.raises(ModelError, match="2 files of IP-Adapter in it"):
        adapter_of(str(tmp_path))


def test_a_style_is_the_picture_less_what_its_content_s_text_says(folder: Path, tmp_path: Path) -> None:
    """By the encoders themselves; what is left is at right angles to the text, the content is told in words alone."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection

    path, given = adapter(unet_of(folder), tmp_path, False), reference(size=28)
    encoder = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "image_encoder").eval()
    torch.manual_seed(4)
    config = CLIPTextConfig(
        vocab_size=514, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        projection_dim=encoder.config.projection_dim, bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    tower, place = CLIPTextModelWithProjection(config).eval(), tmp_path / "tower"
    shutil.copytree(folder / "tokenizer", place)
    tower.save_pretrained(place)
    mine = built(IPAdapter, folder, path, content="a blue mug", text_tower=str(place))
    said = mine.condition(Prompt("a red mushroom", "ugly", given), turntable(2), frames(2))
    ids = CLIPTokenizer.from_pretrained(place)("a blue mug", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        c, f = tower(ids).text_embeds[0], encoder(clip_pixels(before(given, 1.0), 28)).image_embeds[0]
    style = said["style"].rows["image"][0, 0]
    torch.testing.assert_close(style, f - (f @ c) / (c @ c) * c, rtol=1e-4, atol=1e-5)
    assert abs(float(style @ c)) < 1e-4 * float(style.norm() * c.norm())
    assert torch.equal(said["style"].rows["text"], said["text"].rows["text"])
    assert torch.equal(said["content"].rows["image"], said["null"].rows["image"])
    plain = mine.condition(Prompt("a blue mug", "", given), turntable(2), frames(2))
    assert torch.equal(said["content"].rows["text"], plain["text"].rows["text"])
    assert {"content", "style"} <= IPAdapter.card(mine.settings).conditions
    with pytest.raises(RecipeError, match="needs both, content and text_tower"):
        IPAdapter.card(IPAdapter.Settings(content="a blue mug"))
