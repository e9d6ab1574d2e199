# SPDX-License-Identifier: Apache-2.0
"""The shared core of pretrained models on Stable Diffusion's layout: tiny, random, in the folder users have.

The library's own pipeline is the judge of one denoising step, its own modules of every part of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamlab.core.cameras import Cameras, turntable
from dreamlab.core.errors import ModelError, OutOfMemory
from dreamlab.core.noise import cfg
from dreamlab.core.types import Condition, Frames, Guidance, Hearing, Prompt, Relieving
from guidance.latent.codec import Codec
from guidance.latent.memory import Ladder
from guidance.sd import StableDiffusion

PROMPT = Prompt("a red mushroom", "ugly")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def sd(folder: Path, **settings: object) -> StableDiffusion:
    chosen = StableDiffusion.Settings(**{"model": str(folder), "dtype": "float32", **settings})
    return StableDiffusion.build(chosen, None).to("cpu")


def frames(count: int, size: int = 16) -> Frames:
    blank = torch.zeros(count, size, size, 1)
    return Frames(blank.expand(-1, -1, -1, 3), blank, blank, torch.zeros(count, 3))


def asked(model: StableDiffusion, count: int = 2, prompt: Prompt = PROMPT) -> dict[str, Condition]:
    cameras: Cameras = turntable(count)
    return dict(model.condition(prompt, cameras, frames(count)))


def latents(model: StableDiffusion, count: int = 2, seed: int = 0) -> Tensor:
    side = model.side // model.codec.factor
    return torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folder(random_folder: Callable[..., Path]) -> Path:
    return random_folder("sd15")


@pytest.fixture(scope="module")
def model(folder: Path) -> StableDiffusion:
    return sd(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """One's own folder to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "model"))


@pytest.mark.parametrize("name", ["sd15", "sd21", "sd21v"])
def test_one_step_equals_the_library_s_pipeline(name: str, random_folder: Callable[..., Path]) -> None:
    """eps of `predict`, guided, one DDIM step with the folder's table: the pipeline's latents after its first step."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    place = random_folder(name)
    mine = sd(place)
    z = latents(mine, 1)
    how = {"safety_checker": None, "feature_extractor": None, "torch_dtype": torch.float32}
    pipeline = StableDiffusionPipeline.from_pretrained(str(place), **how)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    after: list[Tensor] = []

    def keep(_: object, step: int, time: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        after.append(values["latents"].clone())
        return values

    pipeline(
        PROMPT.text, negative_prompt=PROMPT.negative, num_inference_steps=2, guidance_scale=7.5, latents=z.clone(),
        height=mine.side, width=mine.side, output_type="latent", callback_on_step_end=keep,
    )  # fmt: skip
    first, then = (int(t) for t in pipeline.scheduler.timesteps)
    t = torch.tensor([first])
    said = asked(mine, 1)
    eps = cfg(mine.predict(z, t, said["negative"]), mine.predict(z, t, said["text"]), 7.5)
    moved = mine.table.ddim_move(z, eps, t, torch.tensor([then]))
    torch.testing.assert_close(moved, after[0], rtol=1e-4, atol=2e-5)
    assert mine.clock.form == ("v" if name == "sd21v" else "eps")
    assert isinstance(mine, Guidance) and isinstance(mine, Hearing) and isinstance(mine, Relieving)


def test_it_hears_texts_once_and_lets_go_of_their_encoder(folder: Path) -> None:
    mine = sd(folder)
    mine.hear([PROMPT, Prompt("a blue duck")])
    first = asked(mine)
    again = asked(mine, prompt=Prompt("a blue duck"))
    assert mine.heard.times_loaded == 1
    assert not torch.equal(first["text"].rows["text"], again["text"].rows["text"])
    asked(mine, prompt=Prompt("never heard before"))
    assert mine.heard.times_loaded == 2


def test_words_of_direction_and_the_unconditional_half(model: StableDiffusion, folder: Path) -> None:
    said = asked(model)
    worded = asked(model, prompt=Prompt("a red mushroom, back view"))
    assert torch.equal(said["back"].rows["text"], worded["text"].rows["text"])
    nothing = asked(model, prompt=Prompt(""))["text"].rows["text"]
    assert torch.equal(said["null"].rows["text"], nothing)
    ugly = asked(sd(folder, null="negative"))
    assert torch.equal(ugly["null"].rows["text"], said["negative"].rows["text"])


def test_clip_skip_is_the_layer_before_normalised(folder: Path) -> None:
    """By the library's own encoder with its last layer taken out."""
    from transformers import CLIPTextModel, CLIPTokenizer

    skipping = asked(sd(folder, clip_skip=1))["text"].rows["text"]
    net = CLIPTextModel.from_pretrained(str(folder / "text_encoder")).eval()
    del net.encoder.layers[-1]
    ids = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))(
        PROMPT.text, padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        expected = net(ids).last_hidden_state
    torch.testing.assert_close(skipping[:1], expected)


def test_every_part_runs_in_the_precision_that_was_asked(folder: Path) -> None:
    for asked_for, net, vae in (("float32", torch.float32, torch.float32), ("bfloat16", torch.bfloat16, torch.float32)):
        mine = sd(folder, dtype=asked_for)
        assert {p.dtype for p in mine.module.parameters()} == {net}
        assert {p.dtype for p in mine.codec.vae.parameters()} == {vae}
        assert asked(mine)["text"].rows["text"].dtype == net
        assert not any(p.requires_grad for p in mine.module.parameters()) and not mine.module.training
        assert mine.predict(latents(mine), torch.tensor([10, 900]), asked(mine)["text"]).dtype == torch.float32


def test_the_gradient_of_a_picture_through_encode_is_that_of_differences(model: StableDiffusion, folder: Path) -> None:
    """Against differences in float64 of the autoencoder used straight: 2x - 1, the posterior's mode, the scale."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(str(folder / "vae")).double().eval()
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(1, model.side, model.side, 3, generator=generator)
    towards, along = torch.randn(1, 4, model.side // 8, model.side // 8, generator=generator), torch.randn(rgb.shape)

    def straight(picture: Tensor) -> Tensor:
        mode = vae.encode(2 * picture.permute(0, 3, 1, 2) - 1).latent_dist.mode()
        return (mode * vae.config.scaling_factor * towards.double()).sum()

    step = 1e-5
    with torch.no_grad():
        ahead, behind = (straight(rgb.double() + sign * step * along.double()) for sign in (1, -1))
    leaf = rgb.clone().requires_grad_()
    z = model.encode(leaf)
    (z * towards).sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad * along).sum().item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=1e-3)
    torch.testing.assert_close((z * towards).sum().double(), straight(rgb.double()).detach(), rtol=1e-4, atol=1e-4)
    assert torch.equal(model.encode(rgb), model.encode(rgb))  # the mode; a sample would differ


def test_a_picture_before_a_plain_background_is_encoded_exactly() -> None:
    """Against float64: group norms of what hardly varies are where an arrangement of memory costs digits."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    widths, kinds = (32, 64, 64, 64), ("DownEncoderBlock2D",) * 4
    vae = AutoencoderKL(block_out_channels=widths, down_block_types=kinds, up_block_types=("UpDecoderBlock2D",) * 4)
    vae = vae.eval().requires_grad_(False)
    picture = torch.full((1, 3, 128, 128), 0.3)
    picture[:, :, 50:78, 50:78] = torch.rand(1, 3, 28, 28)
    codec = Codec(vae)
    codec.to(torch.device("cpu"))
    mine = codec.encode(picture, Ladder(1)).double()
    exact = vae.double().encode(picture.double()).latent_dist.mode() * vae.config.scaling_factor
    assert (mine - exact).norm() < 1e-4 * exact.norm()


def test_a_frame_of_another_size_is_looked_at_at_its_own(model: StableDiffusion) -> None:
    assert model.encode(torch.rand(2, 24, 24, 3)).shape == (2, 4, model.side // 8, model.side // 8)
    picture = model.decode(latents(model))
    assert picture.shape == (2, model.side, model.side, 3) and picture.min() >= 0 and picture.max() <= 1


def test_decoding_undoes_the_scale(model: StableDiffusion, folder: Path) -> None:
    """By the autoencoder used straight."""
    from diffusers import AutoencoderKL

    vae, z = AutoencoderKL.from_pretrained(str(folder / "vae")).eval(), latents(model)
    with torch.no_grad():
        straight = vae.decode(z / 0.18215).sample
    torch.testing.assert_close(model.decode(z), (straight.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("way", ["recompute", "singly"])
def test_an_encoder_that_keeps_less_gives_the_same_gradient(model: StableDiffusion, way: str) -> None:
    grads = []
    for thrifty in (False, True):
        ladder = Ladder(1)
        setattr(ladder, way, thrifty)
        leaf = torch.rand(3, 3, model.side, model.side, generator=torch.Generator().manual_seed(1)).requires_grad_()
        model.codec.encode(leaf, ladder).square().sum().backward()
        grads.append(leaf.grad)
    assert grads[0] is not None
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-6)


def test_rows_in_pieces_answer_as_all_at_once(model: StableDiffusion) -> None:
    z, t = latents(model, 5), torch.tensor([10, 400, 980, 3, 500])
    told = asked(model, 5)["text"]
    whole = model.predict(z, t, told)
    model.ladder.rows = 2
    try:
        torch.testing.assert_close(model.predict(z, t, told), whole, rtol=1e-5, atol=1e-5)
    finally:
        model.ladder.rows = 0


def test_a_call_that_does_not_fit_is_halved_until_it_does() -> None:
    """A network with memory for three rows, in groups of one and of two."""
    sizes: list[int] = []

    def network(z: Tensor, t: Tensor, told: Condition) -> Tensor:
        sizes.append(len(z))
        if len(z) > 3:
            raise torch.OutOfMemoryError("no")
        return 2 * z + told.rows["a"] + t[:, None]

    z, t, told = torch.randn(8, 4), torch.arange(8), Condition({"a": torch.randn(8, 4)})
    for together, piece in ((1, 2), (2, 2)):
        ladder, sizes[:] = Ladder(together), []
        torch.testing.assert_close(ladder.call(network, z, t, told), 2 * z + told.rows["a"] + t[:, None])
        assert sizes == [8, 4, *[piece] * (8 // piece)] and len(ladder.taken) == 2
        sizes.clear()
        ladder.call(network, z, t, told)
        assert max(sizes) == piece  # it remembers
    with pytest.raises(OutOfMemory, match="does not fit with 4 rows at once"):
        Ladder(4).call(network, z, t, told)


def test_what_is_given_up_is_given_up_once_and_in_order() -> None:
    ladder = Ladder(1)
    said = [ladder.relieve() for _ in range(4)]
    assert "recomputed" in said[0] and "one at a time" in said[1] and said[2:] == ["", ""]
    assert ladder.recompute and ladder.singly and ladder.taken == said[:2]


def test_offloaded_and_compiled_networks_answer_the_same(
    model: StableDiffusion, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    z, t, told = latents(model), torch.tensor([10, 900]), asked(model)["text"]
    expected = model.predict(z, t, told)
    torch.testing.assert_close(sd(folder, offload=True).predict(z, t, told), expected)
    compile_it = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, **how: compile_it(net, backend="eager", **how))
    mine = sd(folder, compile=True)
    torch.testing.assert_close(mine.predict(z, t, told), expected)
    # Hooks on a compiled network are not seen: the adapter must answer differently all the same.
    own = mine.adapter(2)
    params = {name: torch.full_like(value, 0.1) for name, value in own.start().items()}
    assert (own.apply(params, z, t, told, torch.ones(2, 16)) - expected).abs().max() > 1e-3
    with torch.no_grad():  # as it was compiled
        assert (own.apply(params, z, t, told, torch.ones(2, 16)) - expected).abs().max() > 1e-3
    torch.testing.assert_close(mine.predict(z, t, told), expected)


# ---- the tiny encoder ------------------------------------------------------------------------------------------------
def test_the_hybrid_has_the_exact_value_and_the_tiny_gradient(model: StableDiffusion) -> None:
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    widths = (8, 8, 8, 8)
    tiny = AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths).eval()
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    results = {}
    for way in ("exact", "hybrid", "tiny"):
        leaf = picture.clone().requires_grad_()
        codec = Codec(model.codec.vae, tiny, way, floor=-1.0)
        if way == "exact":
            z = codec.encode(leaf, Ladder(1))
        else:
            with pytest.warns(UserWarning, match=r"agrees with the exact one's to a cosine of"):
                z = codec.encode(leaf, Ladder(1))
        z.sum().backward()
        results[way] = (z.detach(), leaf.grad)
    torch.testing.assert_close(results["hybrid"][0], results["exact"][0])
    torch.testing.assert_close(results["hybrid"][1], results["tiny"][1])
    assert not torch.allclose(results["tiny"][0], results["exact"][0], atol=1e-2)


def test_a_tiny_encoder_that_disagrees_is_not_used(model: StableDiffusion) -> None:
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    tiny = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).eval()
    codec = Codec(model.codec.vae, tiny, "hybrid", floor=0.999)
    with pytest.warns(UserWarning, match=r"below 0.999: the exact encoder is used"):
        codec.encode(torch.rand(1, 3, 32, 32), Ladder(1))
    assert codec.way == "exact"


# ---- folders that are not whole --------------------------------------------------------------------------------------
def spoilt(place: Path, change: Callable[[dict[str, Tensor]], None], file: str = WEIGHTS) -> None:
    tensors = load_file(place / file)
    change(tensors)
    save_file(tensors, place / file, {"format": "pt"})


def test_a_missing_tensor_is_refused_and_named(copy: Path) -> None:
    spoilt(copy, lambda tensors: tensors.__delitem__("conv_in.weight"))
    with pytest.raises(ModelError, match=r"unet: 1 tensor missing \(conv_in.weight\)"):
        sd(copy)


def test_an_extra_tensor_is_refused_and_named(copy: Path) -> None:
    spoilt(copy, lambda tensors: tensors.update(surplus=torch.zeros(1)))
    with pytest.raises(ModelError, match=r"unet: 1 tensor unknown \(surplus\)"):
        sd(copy)


def test_a_misshapen_tensor_is_refused(copy: Path) -> None:
    spoilt(copy, lambda tensors: tensors.update({"conv_in.weight": torch.zeros(3, 4, 3, 3)}))
    with pytest.raises(ModelError, match=r"unet: .*conv_in"):
        sd(copy)


def test_a_text_encoder_with_a_gap_is_refused(copy: Path) -> None:
    file = "text_encoder/model.safetensors"
    spoilt(copy, lambda tensors: tensors.__delitem__("text_model.final_layer_norm.weight"), file)
    with pytest.raises(ModelError, match=r"text_encoder: 1 tensor missing \(.*final_layer_norm.weight\)"):
        asked(sd(copy))


def test_a_truncated_file_is_refused(copy: Path) -> None:
    whole = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"unet: could not be loaded"):
        sd(copy)


def test_the_folder_of_another_family_is_refused(copy: Path) -> None:
    config = json.loads((copy / "unet/config.json").read_text())
    (copy / "unet/config.json").write_text(json.dumps({**config, "_class_name": "UNet3DConditionModel"}))
    with pytest.raises(ModelError, match=r"unet: is a UNet3DConditionModel; this family takes UNet2DConditionModel"):
        sd(copy)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("tokenizer", "tokenizer: no such folder"),
        ("scheduler/scheduler_config.json", "scheduler_config.json: is not there"),
        ("vae", r"vae/config.json: is not there"),
        (WEIGHTS, "unet: no .safetensors"),
        ("model_index.json", "no model_index.json"),
    ],
)
def test_what_is_not_there_is_named(copy: Path, gone: str, said: str) -> None:
    place = copy / gone
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(ModelError, match=said) as caught:
        asked(sd(copy))
    assert "\n" not in str(caught.value)


def test_a_pickle_is_read_only_by_name_and_then_as_tensors(copy: Path, model: StableDiffusion) -> None:
    torch.save(load_file(copy / WEIGHTS), copy / "unet/diffusion_pytorch_model.bin")
    (copy / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"holds the pickle diffusion_pytorch_model.bin: convert it, or name it"):
        sd(copy)
    mine = sd(copy, legacy="diffusion_pytorch_model.bin")
    z, t, told = latents(model), torch.tensor([10, 900]), asked(model)["text"]
    torch.testing.assert_close(mine.predict(z, t, told), model.predict(z, t, told))
    torch.save({"conv_in.weight": replace}, copy / "unet/diffusion_pytorch_model.bin")  # an object that runs code
    with pytest.raises(ModelError, match="unet: could not be loaded"):
        sd(copy, legacy="diffusion_pytorch_model.bin")


def test_half_precision_files_are_found_where_they_are_all_there_is(copy: Path) -> None:
    tensors = {name: value.half() for name, value in load_file(copy / WEIGHTS).items()}
    save_file(tensors, copy / "unet/diffusion_pytorch_model.fp16.safetensors", {"format": "pt"})
    (copy / WEIGHTS).unlink()
    mine = sd(copy)
    torch.testing.assert_close(mine.module.conv_in.weight, tensors["conv_in.weight"].float())
