# SPDX-License-Identifier: Apache-2.0
"""DeepFloyd IF against the library's own pipeline, on a tiny folder in the layout that users have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlab.core.errors import RecipeError
from dreamlab.core.noise import cfg
from dreamlab.core.types import Prompt
from guidance.deepfloyd import DeepFloyd
from guidance.latent.loading import ModelFolder
from guidance.latent.t5 import t5_tokenizer
from tests.guidance.pretrained import PROMPT, asked, made, spied

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(random_folder: Folder) -> Path:
    return random_folder("if1m")


@pytest.fixture(scope="module")
def model(folder: Path) -> DeepFloyd:
    return made(DeepFloyd, folder)


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    """The pipeline without what it draws over pictures; its scheduler without thresholds, noise and learned variance,
    so that a step is algebra."""
    from diffusers import DDIMScheduler, IFPipeline

    tokenizer = t5_tokenizer(ModelFolder(folder), "tokenizer")
    made_of = IFPipeline.from_pretrained(str(folder), tokenizer=tokenizer, safety_checker=None, watermarker=None)
    made_of.scheduler = DDIMScheduler.from_config(made_of.scheduler.config, thresholding=False, clip_sample=False)
    made_of.scheduler.register_to_config(variance_type="fixed_small")  # the pipeline asks for it
    made_of.set_progress_bar_config(disable=True)
    return made_of


def test_its_answer_is_the_first_half_of_the_pipeline_s(model: DeepFloyd, pipe: Any) -> None:
    """Text, padding and time as the pipeline gives them; eps are three of the six channels, guided among themselves."""
    after: list[Tensor] = []
    with spied(pipe.unet) as calls:
        pipe(
            "A Red Mushroom ", negative_prompt=PROMPT.negative, num_inference_steps=2, guidance_scale=7.0,
            height=16, width=16, output_type="pt", clean_caption=False, generator=torch.Generator().manual_seed(0),
            callback=lambda step, t, latents: after.append(latents.clone()), callback_steps=1,
        )  # fmt: skip
    given, (said,) = calls[0]
    told = asked(model, prompt=Prompt("A Red Mushroom ", PROMPT.negative))
    rows = torch.cat([told["negative"].rows["text"], told["text"].rows["text"]])
    torch.testing.assert_close(rows, given["encoder_hidden_states"])
    z, t = given["sample"][:1], torch.tensor([int(given["timestep"])])
    null, text = model.predict(z, t, told["negative"]), model.predict(z, t, told["text"])
    assert said.shape == (2, 6, 16, 16)
    torch.testing.assert_close(torch.cat([null, text]), said[:, :3], rtol=1e-4, atol=1e-5)
    then = torch.tensor([int(pipe.scheduler.timesteps[1])])
    moved = model.table.ddim_move(z, cfg(null, text, 7.0), t, then)
    torch.testing.assert_close(moved, after[0], rtol=1e-3, atol=1e-4)


def test_what_lies_behind_the_text_is_not_attended_to(model: DeepFloyd, folder: Path) -> None:
    """With T5's own network: without the mask the words themselves come out as others."""
    from transformers import T5EncoderModel

    net = T5EncoderModel.from_pretrained(str(folder / "text_encoder"))
    tokens = t5_tokenizer(ModelFolder(folder), "tokenizer")(
        "red", padding="max_length", max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        masked = net(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        open_ = net(tokens.input_ids).last_hidden_state
    mine = asked(model, prompt=Prompt("red"))["text"].rows["text"]
    torch.testing.assert_close(mine, masked)
    assert (masked - open_)[:, :4].abs().max() > 1e-3


def test_a_picture_is_its_own_latent(model: DeepFloyd) -> None:
    rgb = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    z = model.encode(rgb)
    torch.testing.assert_close(z, 2 * rgb.permute(0, 3, 1, 2) - 1)
    z.sum().backward()
    torch.testing.assert_close(rgb.grad, torch.full_like(rgb, 2.0))
    torch.testing.assert_close(model.decode(z.detach()), rgb.detach(), rtol=0, atol=1e-6)
    assert model.encode(torch.rand(1, 40, 40, 3)).shape == (1, 3, 16, 16)


def test_its_noise_is_the_squared_cosine(model: DeepFloyd) -> None:
    expected = {0: 0.99995869, 250: 0.84588802, 500: 0.49228504, 750: 0.14317866, 980: 0.0008765292}
    for t, bar in expected.items():
        assert float(model.table.alpha_bar[t]) == pytest.approx(bar, rel=1e-5)


def test_settings_that_mean_nothing_to_it_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"^encoder: tiny: DeepFloyd looks at pixels"):
        DeepFloyd.card(DeepFloyd.Settings(encoder="tiny"))
    with pytest.raises(RecipeError, match=r"^clip_skip: DeepFloyd hears T5"):
        DeepFloyd.card(DeepFloyd.Settings(clip_skip=1))
