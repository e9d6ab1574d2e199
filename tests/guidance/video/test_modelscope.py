# SPDX-License-Identifier: Apache-2.0
"""ModelScope and Zeroscope from tiny folders, judged by the library's own pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamlab.core.errors import ModelError
from dreamlab.core.noise import cfg
from guidance.latent.clips import as_clips, as_frames
from guidance.modelscope import ModelScope
from tests.guidance.pretrained import PROMPT, spied
from tests.guidance.video.common import check_encode, drawn, eps_of

F = 3


def built(folder: Path, **settings: object) -> ModelScope:
    own = {"model": str(folder), "dtype": "float32", "frames": F, "size": 32, **settings}
    return ModelScope.build(ModelScope.Settings(**own), None).to("cpu")


@pytest.fixture(scope="module")
def model(random_folder: Callable[..., Path]) -> ModelScope:
    return built(random_folder("modelscope"))


@pytest.mark.parametrize("name", ["modelscope", "zeroscope"])
def test_one_step_equals_the_library_s_pipeline(name: str, random_folder: Callable[..., Path]) -> None:
    from diffusers import DDIMScheduler, TextToVideoSDPipeline

    model = built(random_folder(name))
    pipeline = TextToVideoSDPipeline.from_pretrained(str(random_folder(name)), torch_dtype=torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    z, kept = drawn(F, 4, 4, 4), list[Tensor]()
    with spied(pipeline.unet) as seen:
        pipeline(
            PROMPT.text, negative_prompt=PROMPT.negative, num_frames=F, num_inference_steps=2, guidance_scale=7.5,
            latents=as_clips(z, F).contiguous(), height=32, width=32, output_type="latent",
            callback=lambda i, t, latents: kept.append(latents.clone()),
        )  # fmt: skip
    first, then = (int(t) for t in pipeline.scheduler.timesteps)
    negative, text = eps_of(model, z, first, ("negative", "text"))
    assert seen[0][1][0].shape == (2, 4, F, 4, 4) and seen[0][0]["encoder_hidden_states"].shape == (2, 77, 32)
    theirs = as_frames(seen[0][1][0]).unflatten(0, (2, F))
    torch.testing.assert_close(torch.stack([negative, text]), theirs, rtol=1e-4, atol=1e-5)
    moved = model.table.ddim_move(z, cfg(negative, text, 7.5), torch.tensor([first] * F), torch.tensor([then] * F))
    torch.testing.assert_close(moved, as_frames(kept[0]), rtol=1e-4, atol=2e-5)
    assert model.clock.form == "eps"
    assert model.table.alpha_bar[500].item() == pytest.approx(0.27633247, rel=1e-5)  # scaled_linear


def test_frames_are_heard_through_time(model: ModelScope) -> None:
    """The last convolution of every temporal layer is filled: without it the branch adds nothing."""
    last = [p for name, p in model.module.named_parameters() if "temp_convs" in name and "conv4.3" in name]
    assert last and all((p != 0).any() for p in last)
    z = drawn(2 * F, 4, 4, 4, seed=2)
    both = eps_of(model, z, 300, ("text",), clips=2)[0]
    apart = [eps_of(model, part, 300, ("text",))[0] for part in z.split(F)]
    torch.testing.assert_close(both, torch.cat(apart), rtol=1e-4, atol=1e-5)
    other = z[:F].clone()
    other[2] += 1
    assert (eps_of(model, other, 300, ("text",))[0] - apart[0])[0].abs().max() > 1e-3  # in the first frame


def test_the_gradient_of_every_frame(model: ModelScope, random_folder: Callable[..., Path]) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(str(random_folder("modelscope") / "vae")).double().eval()

    def straight(rgb: Tensor) -> Tensor:
        return vae.encode(2 * rgb.permute(0, 3, 1, 2) - 1).latent_dist.mode() * 0.18215

    check_encode(model, straight)


def test_a_model_of_pictures_is_refused(random_folder: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"is a StableDiffusionPipeline .* no model for guidance modelscope"):
        built(random_folder("sd15"))
