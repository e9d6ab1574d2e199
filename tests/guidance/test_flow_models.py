# SPDX-License-Identifier: Apache-2.0
"""Rectified-flow families against the library's own pipelines, on tiny folders in the layouts that users have."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.noise import cfg
from dreamlab.core.types import Condition, Prompt
from guidance.flux import Flux, packed, unpacked
from guidance.flux2 import Klein
from guidance.latent.flow import dynamic_shift
from guidance.latent.model import LatentModel
from guidance.sd3 import StableDiffusion3
from guidance.zimage import ZImage
from tests.guidance.pretrained import PROMPT, asked, gradient_is_that_of_differences, keeper, made, spied

Folder = Callable[..., Path]
INDICES = (900, 400)  # of the first step and of the next


def pipeline(kind: str, folder: Path) -> Any:
    import diffusers

    pipe = getattr(diffusers, kind).from_pretrained(str(folder))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sigmas(model: LatentModel) -> list[float]:
    """The pipeline's own list, before its scheduler shifts it: evenly spaced as our table's are."""
    return [(t + 1) / (len(model.table.alpha_bar) + 1) for t in INDICES]


def velocity(model: LatentModel, z_s: Tensor, told: Condition) -> Tensor:
    """v of the flow's state z_s, by way of the variance-preserving state and eps that the contract speaks of."""
    t = torch.tensor([INDICES[0]])
    s = model.clock.time[t].double()
    z_t = z_s / float(((1 - s).square() + s.square()).sqrt())
    return (model.predict(z_t, t, told) - z_s) / float(1 - s)


def noise(channels: int, side: int = 8) -> Tensor:
    return torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))


def stepped(model: LatentModel, z: Tensor, v: Tensor) -> Tensor:
    before, after = (float(model.clock.time[t]) for t in INDICES)
    return z + (after - before) * v


# ---- Stable Diffusion 3 ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["sd3", "sd35m", "sd35l"])
def test_a_step_of_sd3_equals_the_library_s(name: str, random_folder: Folder) -> None:
    folder = random_folder(name)
    model, pipe, after = made(StableDiffusion3, folder), pipeline("StableDiffusion3Pipeline", folder), list[Tensor]()
    z = noise(16)
    with spied(pipe.transformer) as calls:
        pipe(
            PROMPT.text, negative_prompt=PROMPT.negative, sigmas=sigmas(model), guidance_scale=5.0, latents=z.clone(),
            height=64, width=64, output_type="latent", callback_on_step_end=keeper(after),
        )  # fmt: skip
    given, told = calls[0][0], asked(model)
    rows = [told[name].rows for name in ("negative", "text")]
    torch.testing.assert_close(torch.cat([row["text"] for row in rows]), given["encoder_hidden_states"])
    torch.testing.assert_close(torch.cat([row["pooled"] for row in rows]), given["pooled_projections"])
    torch.testing.assert_close(1000 * model.clock.time[INDICES[:1],], given["timestep"][:1], rtol=1e-6, atol=1e-3)
    v = cfg(velocity(model, z, told["negative"]), velocity(model, z, told["text"]), 5.0)
    torch.testing.assert_close(stepped(model, z, v), after[0], rtol=1e-4, atol=5e-5)


def test_sd3_without_t5_hears_zeros_in_its_place(random_folder: Folder) -> None:
    folder = random_folder("sd3")
    pipe = pipeline("StableDiffusion3Pipeline", folder)
    pipe.text_encoder_3 = None
    theirs = pipe.encode_prompt(PROMPT.text, None, None, device="cpu")[0]
    mine = asked(made(StableDiffusion3, folder, t5=False))["text"].rows["text"]
    torch.testing.assert_close(mine, theirs)
    assert mine.shape == (1, 77 + 256, 72) and not mine[:, 77:].any()


def test_sd3_s_latents_are_shifted_before_they_are_scaled(random_folder: Folder) -> None:
    from diffusers import AutoencoderKL

    folder = random_folder("sd3")
    vae = AutoencoderKL.from_pretrained(str(folder / "vae")).double().eval()
    model = made(StableDiffusion3, folder)
    gradient_is_that_of_differences(model, lambda x: (vae.encode(x).latent_dist.mode() - 0.0609) * 1.5305)
    z = noise(16)
    with torch.no_grad():
        expected = vae.decode(z.double() / 1.5305 + 0.0609).sample
    torch.testing.assert_close(
        model.decode(z), ((expected.permute(0, 2, 3, 1) + 1) / 2).clamp(0, 1).float(), rtol=1e-4, atol=1e-4
    )


# ---- FLUX.1 ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["flux1-dev", "flux1-schnell"])
def test_a_step_of_flux_equals_the_library_s(name: str, random_folder: Folder) -> None:
    """Guided twice: by the number it is told, and by a call with another text."""
    folder = random_folder(name)
    model, after = made(Flux, folder, size=64, words=24, distilled=2.0), list[Tensor]()
    pipe, z = pipeline("FluxPipeline", folder), noise(16)
    with spied(pipe.transformer) as calls:
        pipe(
            PROMPT.text, negative_prompt=PROMPT.negative, true_cfg_scale=2.5, guidance_scale=2.0, sigmas=sigmas(model),
            height=64, width=64, latents=packed(z), output_type="latent", callback_on_step_end=keeper(after),
            max_sequence_length=24,
        )  # fmt: skip
    told = asked(model)
    for (given, _), variant in zip(calls, ("text", "negative"), strict=False):
        torch.testing.assert_close(told[variant].rows["text"], given["encoder_hidden_states"])
        torch.testing.assert_close(told[variant].rows["pooled"], given["pooled_projections"])
    torch.testing.assert_close(model.clock.time[INDICES[:1],], calls[0][0]["timestep"], rtol=1e-6, atol=1e-6)
    v = cfg(velocity(model, z, told["negative"]), velocity(model, z, told["text"]), 2.5)
    torch.testing.assert_close(packed(stepped(model, z, v)), after[0], rtol=1e-4, atol=5e-5)


def test_flux_s_places_are_row_and_column(random_folder: Folder) -> None:
    """The places that the pipeline gives, on a picture that is not square."""
    model = made(Flux, random_folder("flux1-dev"), size=64, words=16)
    pipe = pipeline("FluxPipeline", random_folder("flux1-dev"))
    z, told = torch.randn(1, 16, 4, 10), asked(model)["text"]
    with spied(model.net) as calls:
        model.predict(z, torch.tensor([500]), told)
    expected = pipe._prepare_latent_image_ids(1, 2, 5, "cpu", torch.float32)
    torch.testing.assert_close(calls[0][0]["img_ids"], expected)
    torch.testing.assert_close(unpacked(packed(z), 2, 5), z)
    torch.testing.assert_close(packed(z), pipe._pack_latents(z, 1, 16, 4, 10))


def test_flux_s_times_move_towards_noise_with_the_picture(random_folder: Folder) -> None:
    """mu is .63 at 512 pixels and 1.15 at 1024 for dev; schnell is not moved."""
    from guidance.layouts import LAYOUTS

    config = dict(LAYOUTS["flux1-dev"].scheduler)
    assert math.log(dynamic_shift(config, 512)) == pytest.approx(0.63, abs=1e-3)
    assert math.log(dynamic_shift(config, 1024)) == pytest.approx(1.15, abs=1e-6)
    schnell = made(Flux, random_folder("flux1-schnell"), size=64)
    assert float(schnell.clock.time[499]) == pytest.approx(500 / 1001, rel=1e-6)
    shifted = made(Flux, random_folder("flux1-schnell"), size=64, shift=3.0)
    assert float(shifted.clock.time[499]) == pytest.approx(1500 / (1001 + 2 * 500), rel=1e-6)


def test_flux_hears_the_first_end_of_text(random_folder: Folder) -> None:
    model, pipe = made(Flux, random_folder("flux1-dev"), size=64), pipeline("FluxPipeline", random_folder("flux1-dev"))
    theirs = pipe._get_clip_prompt_embeds("red", device="cpu")
    torch.testing.assert_close(asked(model, prompt=Prompt("red"))["text"].rows["pooled"], theirs)
    assert asked(model)["text"].rows["text"].shape == (1, 512, 32)


# ---- FLUX.2-klein ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def klein(random_folder: Folder) -> Klein:
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    # The pipeline moves its times by tokens and steps; any table serves for distillation, here it is the same one.
    shift = math.exp(compute_empirical_mu(16, 2))
    return made(Klein, random_folder("flux2-klein-4b"), size=64, words=48, shift=shift)


def test_a_step_of_klein_equals_the_library_s(klein: Klein, random_folder: Folder) -> None:
    pipe, after, z = pipeline("Flux2KleinPipeline", random_folder("flux2-klein-4b")), list[Tensor](), noise(128, 4)
    with spied(pipe.transformer) as calls:
        pipe(
            prompt=PROMPT.text, guidance_scale=4.0, sigmas=sigmas(klein), num_inference_steps=2, height=64, width=64,
            latents=z, output_type="latent", callback_on_step_end=keeper(after), max_sequence_length=48,
        )  # fmt: skip
    told = asked(klein)
    with spied(klein.net) as mine:
        v = cfg(velocity(klein, z, told["null"]), velocity(klein, z, told["text"]), 4.0)
    for (given, _), variant in zip(calls, ("text", "null"), strict=False):
        torch.testing.assert_close(told[variant].rows["text"], given["encoder_hidden_states"])
    for name in ("img_ids", "txt_ids"):
        torch.testing.assert_close(mine[0][0][name], calls[0][0][name].float())
    torch.testing.assert_close(mine[0][0]["timestep"], calls[0][0]["timestep"], rtol=1e-5, atol=1e-6)
    expected = after[0].transpose(1, 2).reshape(z.shape)
    torch.testing.assert_close(stepped(klein, z, v), expected, rtol=1e-4, atol=1e-4)


def test_klein_s_latents_are_packed_and_whitened(klein: Klein, random_folder: Folder) -> None:
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline

    vae = AutoencoderKLFlux2.from_pretrained(str(random_folder("flux2-klein-4b") / "vae")).double().eval()
    mean, variance = vae.bn.running_mean.view(1, -1, 1, 1), vae.bn.running_var.view(1, -1, 1, 1)

    def straight(x: Tensor) -> Tensor:
        patches = Flux2KleinPipeline._patchify_latents(vae.encode(x).latent_dist.mode())
        return (patches - mean) / torch.sqrt(variance + vae.config.batch_norm_eps)

    gradient_is_that_of_differences(klein, straight)
    z = noise(128, 4)
    back = Flux2KleinPipeline._unpatchify_latents(z.double() * torch.sqrt(variance + vae.config.batch_norm_eps) + mean)
    with torch.no_grad():
        expected = ((vae.decode(back).sample.permute(0, 2, 3, 1) + 1) / 2).clamp(0, 1).float()
    torch.testing.assert_close(klein.decode(z), expected, rtol=1e-4, atol=1e-4)


# ---- Z-Image ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def zimage(random_folder: Folder) -> ZImage:
    return made(ZImage, random_folder("zimage"), size=64)


def test_a_step_of_z_image_equals_the_library_s(zimage: ZImage, random_folder: Folder) -> None:
    """Whose guidance is pos + scale (pos - neg): ours of one more."""
    pipe, after, z = pipeline("ZImagePipeline", random_folder("zimage")), list[Tensor](), noise(16)
    with spied(pipe.transformer) as calls:
        pipe(
            PROMPT.text, negative_prompt=PROMPT.negative, guidance_scale=3.0, sigmas=sigmas(zimage),
            num_inference_steps=2, height=64, width=64, latents=z, output_type="latent",
            callback_on_step_end=keeper(after),
        )  # fmt: skip
    told = asked(zimage)
    for row, variant in zip(calls[0][0]["cap_feats"], ("text", "negative"), strict=True):
        rows = told[variant].rows
        torch.testing.assert_close(rows["text"][0][rows["mask"][0].bool()], row)
    torch.testing.assert_close(1 - zimage.clock.time[INDICES[:1],], calls[0][0]["t"][:1], rtol=1e-5, atol=1e-6)
    v = cfg(velocity(zimage, z, told["negative"]), velocity(zimage, z, told["text"]), 4.0)
    torch.testing.assert_close(stepped(zimage, z, v), after[0], rtol=1e-4, atol=1e-4)


def test_z_image_is_followed_by_the_compiler(
    zimage: ZImage, random_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_it = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, **how: compile_it(net, backend="eager", **how))
    compiled = made(ZImage, random_folder("zimage"), size=64, compile=True)
    z, t, told = noise(16), torch.tensor([500]), asked(zimage)["text"]
    torch.testing.assert_close(compiled.predict(z, t, told), zimage.predict(z, t, told))


# ---- all of them -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "name"), [(StableDiffusion3, "sd3"), (Flux, "flux1-dev"), (Klein, "flux2-klein-4b"), (ZImage, "zimage")]
)
def test_a_trained_copy_starts_equal_and_hears_its_camera(kind: Any, name: str, random_folder: Folder) -> None:
    model = made(kind, random_folder(name), size=64)
    z, t, told = noise(model.codec.channels, 64 // model.codec.factor), torch.tensor([500]), asked(model)["text"]
    adapter, camera, expected = model.adapter(2), torch.randn(1, 16), model.predict(z, t, told)
    params = adapter.start()
    torch.testing.assert_close(adapter.apply(params, z, t, told, camera), expected)
    moved = {key: value + 0.3 if key == "camera.out" else value for key, value in params.items()}
    assert (adapter.apply(moved, z, t, told, camera) - expected).abs().max() > 1e-4
    turned = {key: value + 0.3 if "camera" not in key else value for key, value in params.items()}
    assert len(turned) > 2 and (adapter.apply(turned, z, t, told, camera) - expected).abs().max() > 1e-4
    torch.testing.assert_close(model.predict(z, t, told), expected)


def test_sizes_and_settings_that_do_not_fit_are_refused(random_folder: Folder) -> None:
    with pytest.raises(InputError, match=r"^size: 72 is no multiple of 16"):
        made(Flux, random_folder("flux1-dev"), size=72)
    with pytest.raises(RecipeError, match=r"^clip_skip: FLUX hears one vector"):
        Flux.card(Flux.Settings(clip_skip=1))
    for kind in (Klein, ZImage):
        with pytest.raises(RecipeError, match=r"hears a language model, not CLIP; leave it out$"):
            kind.card(kind.Settings(clip_skip=1))
    with pytest.raises(RecipeError, match=r"^encoder: tiny: there is no tiny autoencoder for FLUX.2"):
        Klein.card(Klein.Settings(encoder="tiny"))
