# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion XL against the library's own pipeline, on a tiny folder in the layout that users have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamlab.core.noise import cfg
from dreamlab.core.types import Prompt
from guidance.sdxl import StableDiffusionXL
from tests.guidance.pretrained import PROMPT, asked, gradient_is_that_of_differences, keeper, made, spied

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(random_folder: Folder) -> Path:
    return random_folder("sdxl")


@pytest.fixture(scope="module")
def model(folder: Path) -> StableDiffusionXL:
    return made(StableDiffusionXL, folder)


def pipeline(folder: Path) -> object:
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(str(folder))
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("negative", ["ugly", None])
def test_one_step_equals_the_library_s_pipeline(model: StableDiffusionXL, folder: Path, negative: str | None) -> None:
    """With a negative text, and with none, where the unconditional half is plain zeros."""
    pipe, after = pipeline(folder), list[Tensor]()
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with spied(pipe.unet) as calls:
        pipe(
            PROMPT.text, negative_prompt=negative, num_inference_steps=2, guidance_scale=7.5, latents=z.clone(),
            height=64, width=64, output_type="latent", callback_on_step_end=keeper(after),
        )  # fmt: skip
    first, then = (int(t) for t in pipe.scheduler.timesteps)
    told, t = asked(model), torch.tensor([first])
    other = told["null" if negative is None else "negative"]
    given = calls[0][0]
    torch.testing.assert_close(
        torch.cat([other.rows["text"], told["text"].rows["text"]]), given["encoder_hidden_states"]
    )
    added = given["added_cond_kwargs"]
    torch.testing.assert_close(torch.cat([other.rows["pooled"], told["text"].rows["pooled"]]), added["text_embeds"])
    torch.testing.assert_close(told["text"].rows["sizes"], added["time_ids"][:1])
    assert bool(other.rows["text"].any()) is (negative is not None)
    eps = cfg(model.predict(z, t, other), model.predict(z, t, told["text"]), 7.5)
    moved = model.table.ddim_move(z, eps, t, torch.tensor([then]))
    torch.testing.assert_close(moved, after[0], rtol=1e-4, atol=5e-5)  # guidance multiplies roundings


def test_an_empty_text_may_be_encoded_instead(model: StableDiffusionXL, folder: Path) -> None:
    """As the pipeline does when the empty text is given to it as the negative one."""
    mine = asked(made(StableDiffusionXL, folder, nothing="encoded"))["null"].rows
    _, theirs, _, pooled = pipeline(folder).encode_prompt(PROMPT.text, negative_prompt="", device="cpu")
    torch.testing.assert_close(mine["text"], theirs)
    torch.testing.assert_close(mine["pooled"], pooled)
    assert theirs.any() and not asked(model)["null"].rows["text"].any()


def test_clip_skip_is_the_pipeline_s(folder: Path) -> None:
    mine = asked(made(StableDiffusionXL, folder, clip_skip=1))["text"].rows["text"]
    theirs = pipeline(folder).encode_prompt(PROMPT.text, device="cpu", clip_skip=1)[0]
    torch.testing.assert_close(mine, theirs)


def test_it_is_told_sizes_in_pixels(folder: Path, model: StableDiffusionXL) -> None:
    assert asked(model)["back"].rows["sizes"].tolist() == [[64, 64, 0, 0, 64, 64]]
    larger = asked(made(StableDiffusionXL, folder, told_size=1024), 2)["null"].rows["sizes"]
    assert larger.tolist() == [[1024, 1024, 0, 0, 1024, 1024]] * 2
    z, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    rows = asked(model)["text"].rows
    from dreamlab.core.types import Condition

    other = Condition({**rows, "sizes": 16 * rows["sizes"]})
    assert (model.predict(z, t, Condition(rows)) - model.predict(z, t, other)).abs().max() > 1e-4


def test_the_pooled_vector_is_of_the_first_end_of_text(model: StableDiffusionXL, folder: Path) -> None:
    """A short text, whose padding (id 0 of the second tokenizer) ends it long before the last place."""
    theirs = pipeline(folder).encode_prompt("red", device="cpu")[2]
    torch.testing.assert_close(asked(model, prompt=Prompt("red"))["text"].rows["pooled"], theirs)


def test_the_gradient_of_a_picture(model: StableDiffusionXL, folder: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(str(folder / "vae")).double().eval()
    gradient_is_that_of_differences(model, lambda x: vae.encode(x).latent_dist.mode() * 0.13025)


def test_its_autoencoder_is_never_in_half_precision(folder: Path) -> None:
    """It overflows there: activations past 65504."""
    mine = made(StableDiffusionXL, folder, dtype="float16")
    assert {value.dtype for value in mine.module.parameters()} == {torch.float16}
    assert {value.dtype for value in mine.codec.vae.parameters()} == {torch.float32}


def test_its_control_network_equals_the_pipeline_s(folder: Path, random_folder: Folder) -> None:
    """Told the sizes and the pooled text too; one step of the library's pipeline for both."""
    import diffusers

    from guidance.controlnet import ControlNetXL
    from guidance.latent.controls import picture, resized
    from tests.guidance.pretrained import frames

    control = random_folder("controlnet-sdxl")
    model = made(ControlNetXL, folder, controls=(str(control),))
    told = asked(model)
    from dreamlab.core.cameras import turntable

    shown = resized(picture("depth", frames(1), turntable(1)), 64)
    net = diffusers.ControlNetModel.from_pretrained(str(control))
    pipe = diffusers.StableDiffusionXLControlNetPipeline.from_pretrained(str(folder), controlnet=net)
    pipe.set_progress_bar_config(disable=True)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with spied(pipe.unet) as calls:
        pipe(
            PROMPT.text, negative_prompt="ugly", image=shown, num_inference_steps=2, latents=z, height=64, width=64,
            output_type="latent",
        )  # fmt: skip
    given, (said,) = calls[0]
    rows, t = given["sample"], given["timestep"].round().long().reshape(1)
    mine = torch.cat([model.predict(rows[:1], t, told["negative"]), model.predict(rows[1:], t, told["text"])])
    torch.testing.assert_close(mine, said, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(made(StableDiffusionXL, folder).predict(rows[1:], t, told["text"]), said[1:], atol=1e-3)
