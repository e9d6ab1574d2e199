# SPDX-License-Identifier: Apache-2.0
"""Models of few steps against the library's pipelines: their times, what an LCM is told, the picture it means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidance.fewstep import TAUGHT, FewStep, FewStepXL
from tests.guidance.pretrained import PROMPT, asked, made, spied

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def lcm(random_folder: Folder) -> FewStep:
    return made(FewStep, random_folder("sd15-lcm"), told_guidance=7.0)


@pytest.fixture(scope="module")
def drawn(random_folder: Folder) -> tuple[Any, list[Any], list[Tensor]]:
    """The library's pipeline with its network's calls, and the picture that its scheduler makes of each."""
    from diffusers import LatentConsistencyModelPipeline

    pipe = LatentConsistencyModelPipeline.from_pretrained(str(random_folder("sd15-lcm")), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    means: list[Tensor] = []
    step = pipe.scheduler.step

    def keep(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        means.append(result[1])
        return result

    pipe.scheduler.step = keep
    with spied(pipe.unet) as calls:
        pipe(
            PROMPT.text, guidance_scale=7.0, num_inference_steps=8, height=64, width=64, output_type="latent",
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    return pipe, calls, means


def test_an_lcm_means_the_picture_that_the_library_s_means(
    lcm: FewStep, drawn: tuple[Any, list[Any], list[Tensor]]
) -> None:
    """At every time of the sampler, boundary included; told the same guidance and the same text."""
    _, calls, means = drawn
    told = asked(lcm)["text"]
    assert len(calls) == 8
    with spied(lcm.net) as mine:
        for (given, _), mean in zip(calls, means, strict=True):
            t = torch.tensor([TAUGHT["lcm"].index(int(given["timestep"]))])
            eps = lcm.predict(given["sample"], t, told)
            x0 = lcm.table.x0(given["sample"], eps, t)
            torch.testing.assert_close(x0, mean, rtol=5e-4, atol=5e-4)  # b / a is 15 at the last
    torch.testing.assert_close(mine[0][0]["timestep_cond"], calls[0][0]["timestep_cond"], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(mine[0][0]["encoder_hidden_states"], calls[0][0]["encoder_hidden_states"])


def test_what_it_is_told_of_guidance_counts(lcm: FewStep, random_folder: Folder) -> None:
    other = made(FewStep, random_folder("sd15-lcm"), told_guidance=1.5)
    z, t, told = torch.randn(1, 4, 8, 8), torch.tensor([20]), asked(lcm)["text"]
    assert (lcm.predict(z, t, told) - other.predict(z, t, told)).abs().max() > 1e-4


def test_the_boundary_answers_the_picture_itself_where_there_is_no_noise() -> None:
    from guidance.fewstep import bounded

    z, eps, bar = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.tensor([0.9, 0.5])
    x0 = (z - (1 - bar).sqrt()[:, None, None, None] * bounded(z, eps, torch.zeros(2), bar)) / bar.sqrt()[
        :, None, None, None
    ]
    torch.testing.assert_close(x0, z)


@pytest.mark.parametrize(("taught", "steps"), [("turbo", 4), ("hyper", 8), ("dmd2", 4)])
def test_times_are_those_of_samplers_that_start_at_the_last(taught: str, steps: int, random_folder: Folder) -> None:
    """Turbo's and Hyper-SD's spacing is "trailing"; the library's scheduler is the judge."""
    from diffusers import DDIMScheduler

    model = made(FewStepXL, random_folder("sdxl"), taught=taught)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(steps)
    assert sorted(scheduler.timesteps.tolist()) == model.clock.time.tolist()
    torch.testing.assert_close(model.table.alpha_bar, scheduler.alphas_cumprod[model.clock.time.long()])


def test_the_large_one_is_asked_at_its_times_alone(random_folder: Folder) -> None:
    model = made(FewStepXL, random_folder("sdxl"), taught="dmd2-one")
    with spied(model.net) as calls:
        model.predict(torch.randn(1, 4, 8, 8), torch.tensor([0]), asked(model)["text"])
    assert calls[0][0]["timestep"].tolist() == [399.0] and len(model.table) == 1
