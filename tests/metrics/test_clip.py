# SPDX-License-Identifier: Apache-2.0
"""CLIP scores with the real architecture at small size, saved in the real layout, against a forward pass by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.errors import InputError, ModelError
from dreamlab.metrics.asset import Solid
from dreamlab.metrics.clip import Clip, clip_figures, load_clip, smoothed_best, sphere, sphere_cameras
from dreamlab.toybox.shapes import program

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
PROMPTS = ["a red mushroom", "a blue duck", "ten green bottles"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as transformers writes one: model, tokenizer, preprocessor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    path = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    end = vocabulary["<|endoftext|>"]
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = text | {"image_size": 32, "patch_size": 8}
    text |= {"vocab_size": len(words), "max_position_embeddings": 40, "eos_token_id": end, "bos_token_id": end - 1}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    for parameter in model.parameters():  # as initialised, all pictures look alike
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(path)
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(path)
    size = {"shortest_edge": 32}
    crop = {"height": 32, "width": 32}
    CLIPImageProcessor(size=size, crop_size=crop, image_mean=MEAN, image_std=STD).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return load_clip(folder)


def encoder(state: dict[str, Tensor], prefix: str, x: Tensor, heads: int, causal: bool) -> Tensor:
    """A pre-norm transformer written from the paper (Radford et al. 2021; quick GELU)."""
    for layer in range(2):
        w = {k.removeprefix(f"{prefix}.encoder.layers.{layer}."): v for k, v in state.items() if f"{prefix}.enc" in k}
        h = F.layer_norm(x, x.shape[-1:], w["layer_norm1.weight"], w["layer_norm1.bias"])
        q, k, v = (
            (h @ w[f"self_attn.{n}_proj.weight"].T + w[f"self_attn.{n}_proj.bias"])
            .unflatten(-1, (heads, -1))
            .transpose(1, 2)
            for n in "qkv"
        )
        score = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if causal:
            score = score.masked_fill(torch.ones(score.shape[-2:]).triu(1).bool(), -torch.inf)
        mixed = (score.softmax(-1) @ v).transpose(1, 2).flatten(-2)
        x = x + mixed @ w["self_attn.out_proj.weight"].T + w["self_attn.out_proj.bias"]
        h = F.layer_norm(x, x.shape[-1:], w["layer_norm2.weight"], w["layer_norm2.bias"])
        h = h @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]
        x = x + (h * torch.sigmoid(1.702 * h)) @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]
    return x


def test_picture_embeddings_are_those_of_a_forward_pass_by_hand(folder: Path, clip: Clip) -> None:
    from safetensors.torch import load_file

    state = load_file(folder / "model.safetensors")
    rgb = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    pixels = ((rgb - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)
    x = F.conv2d(pixels, state["vision_model.embeddings.patch_embedding.weight"], stride=8).flatten(2).transpose(1, 2)
    first = state["vision_model.embeddings.class_embedding"].expand(3, 1, -1)
    x = torch.cat([first, x], 1) + state["vision_model.embeddings.position_embedding.weight"]
    x = F.layer_norm(x, (32,), state["vision_model.pre_layrnorm.weight"], state["vision_model.pre_layrnorm.bias"])
    x = encoder(state, "vision_model", x, 4, causal=False)[:, 0]
    x = F.layer_norm(x, (32,), state["vision_model.post_layernorm.weight"], state["vision_model.post_layernorm.bias"])
    wanted = F.normalize(x @ state["visual_projection.weight"].T, dim=-1)
    assert torch.allclose(clip.pictures(rgb), wanted, atol=2e-5)


def test_text_embeddings_are_those_of_a_forward_pass_by_hand(folder: Path, clip: Clip) -> None:
    from safetensors.torch import load_file

    state = load_file(folder / "model.safetensors")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    found = clip.texts(PROMPTS)
    for prompt, row in zip(PROMPTS, found, strict=True):
        pieces = ["<|startoftext|>"]
        for word in prompt.split():
            pieces += [*word[:-1], word[-1] + "</w>"]
        ids = torch.tensor([[vocabulary[piece] for piece in [*pieces, "<|endoftext|>"]]])
        x = state["text_model.embeddings.token_embedding.weight"][ids]
        x = x + state["text_model.embeddings.position_embedding.weight"][: ids.shape[1]]
        x = encoder(state, "text_model", x, 4, causal=True)[:, -1]
        x = F.layer_norm(
            x, (32,), state["text_model.final_layer_norm.weight"], state["text_model.final_layer_norm.bias"]
        )
        assert torch.allclose(row, F.normalize(x @ state["text_projection.weight"].T, dim=-1)[0], atol=2e-5)


def test_pictures_of_another_size_are_resized_as_pillow_does(clip: Clip) -> None:
    from PIL import Image

    smooth = F.interpolate(torch.rand(1, 3, 7, 7, generator=torch.Generator().manual_seed(2)), (96, 96), mode="bicubic")
    rgb = (smooth.clamp(0, 1) * 255).round().byte()[0].permute(1, 2, 0)
    small = Image.fromarray(rgb.numpy()).resize((32, 32), Image.Resampling.BICUBIC)
    wanted = clip.pictures(torch.tensor(numpy.array(small))[None] / 255)
    assert float((clip.pictures(rgb[None] / 255) * wanted).sum()) > 0.9999


def test_the_sphere_is_subdivided_and_seen_from_outside() -> None:
    vertices, near = sphere(1)
    assert len(vertices) == 42 and {len(n) for n in near} == {5, 6}
    cameras = sphere_cameras(vertices)
    place = F.normalize(cameras.camera_to_world[:, :3, 3], dim=1)
    assert torch.allclose(place, vertices, atol=1e-4)
    assert torch.allclose(cameras.camera_to_world[:, :3, 2], vertices, atol=1e-4)  # they look at the middle


def test_smoothing_is_the_loop_that_t3bench_describes() -> None:
    vertices, near = sphere(1)
    scores = torch.randn(len(vertices), generator=torch.Generator().manual_seed(0)).double()
    now = scores.tolist()
    for _ in range(3):
        now = [(now[i] + sum(now[j] for j in near[i])) / (len(near[i]) + 1) for i in range(len(now))]
    assert smoothed_best(scores, near) == pytest.approx(max(now), rel=1e-12)
    assert smoothed_best(torch.full((42,), 3.0), near) == pytest.approx(3.0)


def test_figures_of_an_asset_are_made_of_its_views(clip: Clip) -> None:
    asset = Solid(program("mushroom", {"cap": "red"}))
    found = clip_figures(asset, PROMPTS[0], PROMPTS[1:], clip, zooms=(0.9, 1.1))
    vertices, near = sphere(1)
    texts = clip.texts(PROMPTS)
    tables = []
    for zoom in (0.9, 1.1):
        rgb = asset.render(sphere_cameras(vertices, zoom), clip.size, torch.ones(42, 3)).rgb
        tables.append(100 * clip.pictures(rgb) @ texts.T)
    both = torch.cat(tables)
    assert found.views == 84
    assert found.similarity == pytest.approx(float(both[:, 0].mean()), abs=1e-4)
    assert found.quality == pytest.approx(smoothed_best(torch.stack(tables)[..., 0].amax(0), near), abs=1e-4)
    assert found.r_precision == pytest.approx(float((both.argmax(1) == 0).float().mean()))
    assert found.retrieved == (int(both.mean(0).argmax()) == 0)


def test_the_right_text_is_retrieved_when_the_embeddings_say_so(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that are the pictures' own mean direction and its opposite."""
    asset = Solid(program("duck"))
    vertices, _ = sphere(0)
    rgb = asset.render(sphere_cameras(vertices), clip.size, torch.ones(12, 3)).rgb
    mean = F.normalize(clip.pictures(rgb).mean(0), dim=0)
    monkeypatch.setattr(clip, "texts", lambda prompts: torch.stack([mean, -mean]))
    assert clip_figures(asset, "yes", ["no"], clip, level=0).retrieved
    monkeypatch.setattr(clip, "texts", lambda prompts: torch.stack([-mean, mean]))
    assert not clip_figures(asset, "yes", ["no"], clip, level=0).retrieved


def test_bad_folders_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(ModelError, match=r"no config\.json"):
        load_clip(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    data = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError) as error:
        load_clip(broken)
    assert "\n" not in str(error.value)


def test_a_prompt_among_its_distractors_is_refused(clip: Clip) -> None:
    with pytest.raises(InputError, match="among its own distractors"):
        clip_figures(Solid(program("duck")), "a duck", ["a duck"], clip, level=0)
