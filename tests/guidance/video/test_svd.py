# SPDX-License-Identifier: Apache-2.0
"""Stable Video Diffusion from a tiny folder, judged by the library's own pipeline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from dreamlab.core.cameras import turntable
from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.types import Condition, Prompt
from guidance.latent.pictures import softened
from guidance.svd import StableVideo
from tests.guidance.pretrained import frames, keeper, spied
from tests.guidance.video.common import asked, check_encode, drawn, picture

F = 3
SIDE = 64


def built(folder: Path, **settings: object) -> Any:
    own = {"model": str(folder), "dtype": "float32", "frames": F, "size": SIDE, **settings}
    return StableVideo.build(StableVideo.Settings(**own), None).to("cpu")


@pytest.fixture(scope="module")
def folder(random_folder: Callable[..., Path]) -> Path:
    return random_folder("svd")


@pytest.fixture(scope="module")
def model(folder: Path) -> StableVideo:
    mine: StableVideo = built(folder, fps=9, motion=40, augment=0.3, picture_seed=5)
    return mine


@pytest.fixture(scope="module")
def given() -> tuple[Image.Image, Prompt]:
    """One picture, of whole bytes, for both."""
    bytes_of = (255 * picture(SIDE).rgb).round().to(torch.uint8)
    return Image.fromarray(bytes_of.numpy()), Prompt("ignored", image=replace(picture(SIDE), rgb=bytes_of / 255))


@pytest.mark.parametrize("size", [300, 224, 40])
def test_pictures_are_softened_as_the_library_does(size: int) -> None:
    from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as theirs

    x = drawn(1, 3, size, size + 60)
    torch.testing.assert_close(softened(x, 224), theirs._resize_with_antialiasing(x, (224, 224)), rtol=1e-4, atol=1e-5)


def test_one_step_equals_the_library_s_pipeline(
    folder: Path, model: StableVideo, given: tuple[Image.Image, Prompt]
) -> None:
    """All that goes in and comes out; guidance from 1 to 3 over the frames is their sampler's, done here by hand."""
    from diffusers import StableVideoDiffusionPipeline

    pipeline, kept = StableVideoDiffusionPipeline.from_pretrained(str(folder)), list[Tensor]()
    pipeline.set_progress_bar_config(disable=True)
    with spied(pipeline.unet) as seen:
        pipeline(
            given[0], height=SIDE, width=SIDE, num_frames=F, num_inference_steps=5, fps=9, motion_bucket_id=40,
            noise_aug_strength=0.3, min_guidance_scale=1.0, max_guidance_scale=3.0, latents=drawn(1, F, 4, 8, 8),
            generator=torch.Generator().manual_seed(5), output_type="latent", callback_on_step_end=keeper(kept),
        )  # fmt: skip
    told, _ = seen[3]
    x_in, time = told["sample"], told["timestep"]
    assert x_in.shape == (2, F, 8, 8, 8) and told["encoder_hidden_states"].shape == (2, 1, 32)
    t = int((model.clock.time - time).abs().argmin())
    model.clock.time[t] = time  # theirs, between two of ours
    sigma = float(torch.exp(4 * time.double()))
    model.table.alpha_bar[t] = 1 / (1 + sigma**2)
    conditions = model.condition(given[1], turntable(F), frames(F))
    assert set(conditions) == {"text", "null"}
    rows = Condition.cat([conditions["null"], conditions["text"]])
    for mine, theirs in (
        (rows.rows["seen"][::F], told["encoder_hidden_states"]),
        (rows.rows["told"][::F], told["added_time_ids"]),
        (rows.rows["given"].unflatten(0, (2, F)), x_in[:, :, 4:]),
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    z_t = x_in[0, :, :4]  # c_in x: the variance-preserving state
    eps = model.predict(z_t.repeat(2, 1, 1, 1), torch.full((2 * F,), t), rows)
    a, b = 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5
    v = seen[3][1][0].reshape(2, F, 4, 8, 8)
    torch.testing.assert_close(eps.unflatten(0, (2, F)), b * z_t + a * v, rtol=1e-4, atol=1e-4)
    scale = torch.linspace(1, 3, F).reshape(-1, 1, 1, 1)
    null, text = eps.chunk(2)
    x0 = (z_t - b * (null + scale * (text - null))) / a
    before, then = kept[2][0], float(pipeline.scheduler.sigmas[4])
    moved = x0 + then * (before - x0) / sigma
    torch.testing.assert_close(moved, kept[3][0], rtol=1e-3, atol=1e-3)


def test_its_times_are_a_quarter_of_the_logarithm_of_sigma(model: StableVideo, folder: Path) -> None:
    fresh = built(folder)
    sigma = torch.exp(4 * fresh.clock.time.double())
    assert sigma[0] == pytest.approx(0.002, rel=1e-5) and sigma[-1] == pytest.approx(700, rel=1e-5)
    torch.testing.assert_close(fresh.table.alpha_bar.double(), 1 / (1 + sigma**2), rtol=1e-5, atol=0)
    assert fresh.clock.form == "v"


def test_null_is_nothing_of_the_picture_and_the_same_numbers(model: StableVideo, given: tuple[Any, Prompt]) -> None:
    said = model.condition(given[1], turntable(F), frames(F))
    for name in ("seen", "given"):
        assert (said["null"].rows[name] == 0).all() and said["text"].rows[name].abs().max() > 0.1
    assert said["null"].rows["told"][0].tolist() == said["text"].rows["told"][0].tolist() == pytest.approx([8, 40, 0.3])


def test_the_noise_on_the_picture_is_its_own_and_stays(folder: Path, given: tuple[Any, Prompt]) -> None:
    def noised(seed: int, drawn_before: int) -> Tensor:
        torch.manual_seed(drawn_before)
        own = built(folder, augment=0.3, picture_seed=seed)
        return own.condition(given[1], turntable(F), frames(F))["text"].rows["given"]

    first, again, other = noised(0, 1), noised(0, 2), noised(1, 1)
    assert torch.equal(first, again) and (first - other).abs().max() > 1e-3


def test_the_gradient_of_every_frame(folder: Path, model: StableVideo) -> None:
    from diffusers import AutoencoderKLTemporalDecoder

    vae = AutoencoderKLTemporalDecoder.from_pretrained(str(folder / "vae")).double().eval()

    def straight(rgb: Tensor) -> Tensor:
        return vae.encode(2 * rgb.permute(0, 3, 1, 2) - 1).latent_dist.mode() * 0.18215

    check_encode(model, straight, clips=2)
    z = drawn(2 * F, 4, 8, 8)
    with torch.no_grad():
        expected = torch.cat([vae.decode(part.double() / 0.18215, num_frames=F).sample for part in z.split(F)])
    torch.testing.assert_close(
        model.decode(z).double(), ((expected.permute(0, 2, 3, 1) + 1) / 2).clamp(0, 1), rtol=1e-3, atol=1e-4
    )


def test_what_it_is_not_is_refused(
    folder: Path, model: StableVideo, random_folder: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="follows a picture and the prompt has none"):
        asked(model)
    with pytest.raises(ModelError, match="is a sv3d model; this family is read from a folder only"):
        built(random_folder("sv3d-u"))
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    place = copy / "unet/config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "projection_class_embeddings_input_dim": 32}))
    with pytest.raises(ModelError, match="is told 1 numbers beside the picture, not 3; is it an SV3D"):
        built(copy)
    shutil.copy(folder / "unet/config.json", place)
    place = copy / "scheduler/scheduler_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "prediction_type": "epsilon"}))
    with pytest.raises(ModelError, match="scheduler: epsilon at continuous times; this family predicts v"):
        built(copy)
