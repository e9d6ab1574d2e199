# SPDX-License-Identifier: Apache-2.0
"""Wan 2.1 and 2.2 from tiny folders, judged by the library's own pipelines and networks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from dreamlab.core.cameras import turntable
from dreamlab.core.errors import InputError, ModelError, RecipeError
from dreamlab.core.noise import NoiseTable, cfg, flow_bar
from dreamlab.core.types import Condition
from guidance.latent.built import PRECISE
from guidance.latent.loading import ModelFolder
from guidance.latent.tables import Clock
from guidance.wan import LENGTH, Wan, WanPicture
from tests.guidance.pretrained import PROMPT, frames, keeper, spied
from tests.guidance.video.common import asked, check_encode, drawn, picture

F, M, C = 9, 3, 16  # frames, moments, channels


def built(folder: Path, kind: type[Wan] = Wan, **settings: object) -> Any:
    own = {"model": str(folder), "dtype": "float32", "frames": F, "size": 32, **settings}
    return kind.build(kind.Settings(**own), None).to("cpu")


@pytest.fixture(scope="module")
def folder(random_folder: Callable[..., Path]) -> Path:
    return random_folder("wan21-1.3b")


@pytest.fixture(scope="module")
def model(folder: Path) -> Wan:
    mine: Wan = built(folder)
    return mine


def at_times(model: Wan, *times: float) -> None:
    """The model's clock shows these times of the flow."""
    s = torch.tensor(times)
    model.clock = Clock(NoiseTable(flow_bar(s.double()).float()), "flow", s)


def state(z_s: Tensor, s: Tensor) -> Tensor:
    """The variance-preserving state that holds the same picture and noise."""
    return z_s / ((1 - s) ** 2 + s**2) ** 0.5


def pipeline(folder: Path, kind: str, **parts: Any) -> Any:
    """The library's, on a schedule whose times are exact."""
    import diffusers

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    found = [part for part in ("transformer", "transformer_2") if (folder / part).is_dir()]
    nets = {part: net_of(folder, part, torch.float32) for part in found}
    made = getattr(diffusers, kind).from_pretrained(str(folder), **nets, **parts, scheduler=scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def net_of(folder: Path, part: str, dtype: torch.dtype) -> Any:
    return ModelFolder(folder).network(part, Wan.net_kinds, dtype)


def test_the_network_is_the_library_s_with_every_tensor_in_its_place(folder: Path) -> None:
    """Against the class filled by torch itself: answers in float32, and what stays in float32 in bfloat16."""
    from diffusers import WanTransformer3DModel

    state = ModelFolder(folder).tensors("transformer", torch.float32)
    net = WanTransformer3DModel.from_config(dict(ModelFolder(folder).config("transformer"))).eval()
    assert not (missing := net.load_state_dict(state, strict=True).missing_keys), missing
    z, t, text = drawn(2, C, M, 4, 4), torch.tensor([20.5, 900.0]), drawn(2, LENGTH, 32)
    mine = net_of(folder, "transformer", torch.float32)
    with torch.no_grad():
        assert torch.equal(mine(z, t, text).sample, net(z, t, text).sample)
    kept = PRECISE["WanTransformer3DModel"]
    half = net_of(folder, "transformer", torch.bfloat16)
    assert set(kept) == set(WanTransformer3DModel._keep_in_fp32_modules)
    for name, value in half.named_parameters():
        whole = any(part in kept for part in name.split("."))
        assert value.dtype == (torch.float32 if whole else torch.bfloat16), name


@pytest.mark.parametrize(("name", "channels", "side"), [("wan21-1.3b", C, 4), ("wan22-5b", 48, 2)])
def test_one_step_equals_the_library_s_pipeline(
    name: str, channels: int, side: int, random_folder: Callable[..., Path]
) -> None:
    """The second of its steps: the first begins at a time that holds no picture. 2.2's small model is told one time
    for each token there, all alike."""
    folder = random_folder(name)
    mine, theirs, kept = built(folder), pipeline(folder, "WanPipeline"), list[Tensor]()
    with spied(theirs.transformer) as seen:
        theirs(
            PROMPT.text, negative_prompt=PROMPT.negative, num_frames=F, num_inference_steps=4, guidance_scale=5.0,
            latents=drawn(1, channels, M, side, side), height=32, width=32, output_type="latent",
            callback_on_step_end=keeper(kept),
        )  # fmt: skip
    s, then = theirs.scheduler.sigmas[1], theirs.scheduler.sigmas[2]
    at_times(mine, float(s))
    told = asked(mine)
    z_s = kept[0]
    rows = Condition.cat([told["negative"], told["text"]])
    z_t = state(z_s, s).flatten(1, 2)
    eps = mine.predict(z_t.repeat(2, 1, 1, 1), torch.tensor([0, 0]), rows).unflatten(1, (channels, M))
    call = seen[2][0]
    torch.testing.assert_close(call["timestep"], torch.full_like(call["timestep"], 1000 * float(s)))
    assert call["hidden_states"].shape == (1, channels, M, side, side) and call["encoder_hidden_states"].shape == (
        1,
        LENGTH,
        32,
    )
    torch.testing.assert_close(eps[1:], z_s + (1 - s) * seen[2][1][0], rtol=1e-4, atol=1e-5)
    velocity = (cfg(eps[:1], eps[1:], 5.0) - z_s) / (1 - s)
    torch.testing.assert_close(z_s + (then - s) * velocity, kept[1], rtol=1e-4, atol=1e-4)


def test_the_text_is_cut_at_its_end_and_the_mask_is_obeyed(model: Wan, folder: Path) -> None:
    theirs = pipeline(folder, "WanPipeline")
    said, _ = theirs.encode_prompt(PROMPT.text, do_classifier_free_guidance=False, max_sequence_length=LENGTH)
    mine = asked(model)["text"].rows["text"]
    torch.testing.assert_close(mine, said, rtol=1e-5, atol=1e-6)
    assert (mine[0, 20:] == 0).all() and (mine[0, :5].abs().amax(-1) > 1e-3).all()


def test_its_times_are_the_folder_s_shifted_ones(model: Wan, folder: Path) -> None:
    from diffusers import UniPCMultistepScheduler

    theirs = UniPCMultistepScheduler.from_pretrained(str(folder / "scheduler"))
    theirs.set_timesteps(50)
    u = (torch.arange(1000, dtype=torch.float64) + 1) / 1001
    torch.testing.assert_close(model.clock.time.double(), 3 * u / (1 + 2 * u), rtol=1e-6, atol=1e-7)
    assert model.clock.form == "flow" and model.clock.time.min() > 0 and model.clock.time.max() < 1
    # Its 50 sigmas are the same curve: at 999, 979, ... of a thousand even steps.
    even = torch.linspace(1, 1 / 1000, 51, dtype=torch.float64)[:-1]
    torch.testing.assert_close(theirs.sigmas[:-1].double(), 3 * even / (1 + 2 * even), rtol=2e-3, atol=1e-3)
    assert built(folder, shift=5.0).clock.time[500] == pytest.approx(5 * float(u[500]) / (1 + 4 * float(u[500])))


@pytest.mark.parametrize(("count", "moments"), [(5, 2), (9, 3), (13, 4)])
def test_time_is_compressed_into_moments(count: int, moments: int, folder: Path) -> None:
    mine = built(folder, frames=count)
    z = mine.encode(torch.rand(2 * count, 32, 32, 3))
    assert z.shape == (2, C * moments, 4, 4)
    assert mine.decode(z).shape == (2 * count, 32, 32, 3)
    card = Wan.card(mine.settings)
    assert (card.folds, card.moments, card.clip) == (count, moments, True)
    assert len(asked(mine, clips=2)["text"].rows["text"]) == 2


def test_one_frame_is_one_moment(model: Wan) -> None:
    """The codec below the contract, whose clips have more."""
    model.codec.together = 1
    try:
        assert model.codec.by_vae(torch.rand(2, 3, 32, 32)).shape == (2, C, 4, 4)
    finally:
        model.codec.together = F


def test_the_gradient_of_every_frame_and_each_channel_s_statistics(model: Wan, folder: Path) -> None:
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(str(folder / "vae")).double().eval()
    mean, std = (torch.tensor(v).double() for v in (vae.config.latents_mean, vae.config.latents_std))

    def straight(rgb: Tensor) -> Tensor:
        clip = torch.stack([2 * frame.permute(2, 0, 1) - 1 for frame in rgb], 1)[None]
        mode = vae.encode(clip).latent_dist.mode()[0]
        rows = [(mode[c, m] - mean[c]) / std[c] for c in range(C) for m in range(M)]
        return torch.stack(rows)[None]

    check_encode(model, straight)


def test_decoding_undoes_the_statistics(model: Wan, folder: Path) -> None:
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(str(folder / "vae")).eval()
    mean, std = (torch.tensor(v).reshape(-1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    z = 0.3 * drawn(2, C * M, 4, 4)
    with torch.no_grad():
        clips = vae.decode(z.unflatten(1, (C, M)) * std + mean).sample
    expected = torch.stack([(clips[b, :, f].permute(1, 2, 0) + 1) / 2 for b in range(2) for f in range(F)]).clamp(0, 1)
    torch.testing.assert_close(model.decode(z), expected, rtol=1e-4, atol=1e-5)


def test_an_encoder_that_keeps_less_gives_the_same_gradient_of_every_clip(folder: Path) -> None:
    mine, grads = built(folder), []
    mine.codec.vae.double()
    for thrifty in (False, True):
        mine.ladder.recompute = mine.ladder.singly = thrifty
        leaf = torch.rand(2 * F, 32, 32, 3, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
        mine.encode(leaf).square().sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-7)


def test_what_cannot_be_folded_is_refused(model: Wan, folder: Path, random_folder: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match=r"frames: 16; Wan takes clips of 4 k \+ 1: 13 or 17"):
        Wan.card(replace(model.settings, frames=16))
    with pytest.raises(InputError, match=r"looks at clips of 9 frames, and 8 came"):
        model.encode(torch.rand(8, 32, 32, 3))
    with pytest.raises(InputError, match="size: 40 is no multiple of 16"):
        built(folder, size=40)
    with pytest.raises(InputError, match="no tiny autoencoder compresses time"):
        built(folder, encoder="hybrid")
    with pytest.raises(ModelError, match=r"is a CogVideoXPipeline .* no model for guidance wan"):
        built(random_folder("cogvideox-2b"))


def test_a_gap_in_a_shard_is_refused_and_named(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    shard = sorted((copy / "transformer").glob("*.safetensors"))[0]
    tensors = load_file(shard)
    tensors.pop(gone := sorted(tensors)[0])
    save_file(tensors, shard)
    with pytest.raises(ModelError, match=rf"transformer: 1 of \d+ tensors do not fit \({gone} is missing"):
        built(copy)
    shard.unlink()
    with pytest.raises(ModelError, match=r"transformer: \d+ of \d+ tensors do not fit"):
        built(copy)


# ---- 2.2: two experts ---------------------------------------------------------------------------------------------
def test_the_boundary_decides_which_expert_answers(random_folder: Callable[..., Path], tmp_path: Path) -> None:
    """As the library's pipeline does, over its own steps; also in one batch with rows on both sides."""
    folder = Path(shutil.copytree(random_folder("wan22-t2v-a14b"), tmp_path / "model"))
    for shard in (folder / "transformer_2").glob("*.safetensors"):  # drawn by name, so like the other's
        save_file({name: value.flip(0) for name, value in load_file(shard).items()}, shard, {"format": "pt"})
    mine, theirs, kept = built(folder), pipeline(folder, "WanPipeline"), list[Tensor]()
    with spied(theirs.transformer) as much, spied(theirs.transformer_2) as little:
        theirs(
            PROMPT.text, num_frames=F, num_inference_steps=6, guidance_scale=1.0, latents=drawn(1, C, M, 4, 4),
            height=32, width=32, output_type="latent", callback_on_step_end=keeper(kept),
        )  # fmt: skip
    sigmas = theirs.scheduler.sigmas[:-1]
    first = int((1000 * sigmas >= 875).sum())
    assert len(much) == first >= 2 and len(little) == 6 - first >= 2
    at_times(mine, *sigmas[1:].tolist())
    told = asked(mine)["text"]
    z_s = torch.cat(kept[:-1])
    s = sigmas[1:].reshape(-1, 1, 1, 1, 1)
    eps = mine.predict(state(z_s, s).flatten(1, 2), torch.arange(5), Condition.cat([told] * 5)).unflatten(1, (C, M))
    expected = z_s + (1 - s) * torch.cat([said[0] for _, said in (*much[1:], *little)])
    with torch.no_grad():
        other = theirs.transformer(**{**little[0][0], "return_dict": False})[0]
    assert (other - little[0][1][0]).abs().max() > 0.1  # the experts disagree
    torch.testing.assert_close(eps, expected, rtol=1e-4, atol=1e-5)
    own = mine.adapter(2)
    start = own.start()
    assert {name.split(".")[0] for name in start} == {"much", "little"}  # both learn
    z, t = state(z_s, s).flatten(1, 2), torch.arange(5)
    torch.testing.assert_close(
        own.apply(start, z, t, Condition.cat([told] * 5), drawn(5, 16)).unflatten(1, (C, M)), eps
    )


# ---- models that follow a picture ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["wan21-i2v-14b", "wan22-i2v-a14b"])
def test_a_clip_that_begins_with_a_picture_equals_the_library_s(
    name: str, random_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Picture, mask and what CLIP sees stand where their pipeline puts them; the null differs in its text alone."""
    from diffusers.pipelines.wan import pipeline_wan_i2v
    from PIL import Image

    monkeypatch.setattr(pipeline_wan_i2v, "ftfy", SimpleNamespace(fix_text=str), raising=False)  # it forgets to ask
    folder = random_folder(name)
    mine, kept = built(folder, WanPicture, size=32), list[Tensor]()
    sees = (folder / "image_encoder").is_dir()
    theirs = pipeline(
        folder, "WanImageToVideoPipeline", **({} if sees else {"image_encoder": None, "image_processor": None})
    )
    bytes_of = (255 * picture(32).rgb).round().to(torch.uint8)
    image, given = Image.fromarray(bytes_of.numpy()), replace(picture(32), rgb=bytes_of / 255)
    if sees:
        large = functional.interpolate(given.rgb.permute(2, 0, 1)[None], (224, 224), mode="bicubic", antialias=True)
        pixels = normal(large.clamp(0, 1))
        own = theirs.image_processor(images=image, return_tensors="pt").pixel_values
        assert (pixels - own).abs().max() < 1.2 / 255 / 0.26  # theirs are rounded to bytes along rows, then columns
        with torch.no_grad():
            exact = theirs.image_encoder(pixels, output_hidden_states=True).hidden_states[-2]
        monkeypatch.setattr(theirs, "encode_image", lambda image, device: exact)
    with spied(theirs.transformer) as calls:
        theirs(
            image, PROMPT.text, negative_prompt=PROMPT.negative, num_frames=F, num_inference_steps=6,
            guidance_scale=5.0, latents=drawn(1, C, M, 4, 4), height=32, width=32, output_type="latent",
            callback_on_step_end=keeper(kept),
        )  # fmt: skip
    s = theirs.scheduler.sigmas[1]
    at_times(mine, float(s))
    told = mine.condition(replace(PROMPT, image=given), turntable(F), frames(F))
    z_s = kept[0]
    z_t = state(z_s, s).flatten(1, 2).repeat(2, 1, 1, 1)
    eps = mine.predict(z_t, torch.tensor([0, 0]), Condition.cat([told["text"], told["negative"]]))
    call = calls[2][0]
    assert call["hidden_states"].shape == (1, 36, M, 4, 4)
    torch.testing.assert_close(told["text"].rows["given"], call["hidden_states"][:, C:], rtol=1e-4, atol=1e-5)
    expected = z_s + (1 - s) * torch.cat([said[0] for _, said in calls[2:4]])
    torch.testing.assert_close(eps.unflatten(1, (C, M)), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="follows a picture and the prompt has none"):
        asked(mine)


def normal(x: Tensor) -> Tensor:
    """CLIP's, with its published numbers."""
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return torch.stack([(x[:, i] - mean[i]) / std[i] for i in range(3)], 1)


def test_a_folder_of_the_other_kind_is_refused(
    random_folder: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="takes 36 channels, and a clip has 16; use kind: wan-i2v"):
        built(random_folder("wan22-i2v-a14b"))
    with pytest.raises(ModelError, match=r"is a WanPipeline .* no model for guidance wan-i2v"):
        built(folder, WanPicture)
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "_class_name": "WanImageToVideoPipeline"}))
    with pytest.raises(ModelError, match="takes 16 channels, and a clip has 16; use kind: wan"):
        built(copy, WanPicture)
