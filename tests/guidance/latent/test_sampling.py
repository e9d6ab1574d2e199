# SPDX-License-Identifier: Apache-2.0
"""Pictures drawn with our states, tables and random numbers: the library's own pipelines end at the same latents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import turntable
from dreamlab.core.errors import InputError
from guidance.latent.sampling import Sampling, drawn
from guidance.sd3 import StableDiffusion3
from tests.conftest import Commands
from tests.guidance.latent.test_core import PROMPT, asked, frames, latents, sd


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["sd15", "sd21v"])
def test_a_picture_is_the_pipeline_s(name: str, random_folder: Callable[..., Path]) -> None:
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    folder = random_folder(name)
    mine = sd(folder)
    shape = latents(mine, 1).shape
    how = {"safety_checker": None, "feature_extractor": None, "torch_dtype": torch.float32}
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), **how)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing", final_sigmas_type="zero"
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPT.text, negative_prompt=PROMPT.negative, num_inference_steps=6, guidance_scale=5.0,
        latents=noise(shape, 3), height=mine.side, width=mine.side, output_type="latent",
    ).images  # fmt: skip
    told = asked(mine, 1)
    ours = drawn(mine, told["text"], told["negative"], shape, torch.Generator().manual_seed(3), Sampling(6, 5.0))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_flow_s_picture_is_the_pipeline_s(random_folder: Callable[..., Path]) -> None:
    from diffusers import StableDiffusion3Pipeline

    folder = random_folder("sd3")
    settings = StableDiffusion3.Settings(model=str(folder), dtype="float32", size=64)
    mine = StableDiffusion3.build(settings, None).to("cpu")
    channels, side = mine.codec.channels, mine.side // mine.codec.factor
    shape = (1, channels, side, side)
    pipeline = StableDiffusion3Pipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPT.text, negative_prompt=PROMPT.negative, num_inference_steps=5, guidance_scale=4.0,
        latents=noise(shape, 3), height=mine.side, width=mine.side, output_type="latent",
    ).images  # fmt: skip
    told = mine.condition(PROMPT, turntable(1), frames(1))
    ours = drawn(mine, told["text"], told["negative"], shape, torch.Generator().manual_seed(3), Sampling(5, 4.0))
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)


def test_the_seed_decides_and_the_unguided_picture_asks_once(random_folder: Callable[..., Path]) -> None:
    mine = sd(random_folder("sd15"))
    told, shape = asked(mine, 1), latents(mine, 1).shape
    pictures = [drawn(mine, told["text"], told["null"], shape, torch.Generator().manual_seed(s), Sampling(3))
                for s in (0, 0, 1)]  # fmt: skip
    assert torch.equal(pictures[0], pictures[1]) and not torch.allclose(pictures[0], pictures[2], atol=0.1)
    rows: list[int] = []
    answer = mine.answer
    mine.answer = lambda z, *more: rows.append(len(z)) or answer(z, *more)  # type: ignore[method-assign,func-returns-value]
    drawn(mine, told["text"], told["null"], shape, torch.Generator(), Sampling(3, 1.0))
    drawn(mine, told["text"], told["null"], shape, torch.Generator(), Sampling(3, 2.0))
    assert rows == [1, 1, 1, 2, 2, 2]


def test_rows_can_be_guided_each_by_its_own_scale(random_folder: Callable[..., Path]) -> None:
    mine = sd(random_folder("sd15"))
    told, shape = asked(mine, 2), latents(mine, 2).shape

    def made(how: Sampling) -> Tensor:
        return drawn(mine, told["text"], told["null"], shape, torch.Generator().manual_seed(3), how)

    both = made(Sampling(3, scales=(1.0, 6.0)))
    torch.testing.assert_close(both[0], made(Sampling(3, 1.0))[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[1], made(Sampling(3, 6.0))[1], rtol=1e-4, atol=1e-4)
    assert (both[0] - made(Sampling(3, 6.0))[0]).abs().max() > 1e-2


def test_a_given_picture_is_refined_as_far_as_was_asked(random_folder: Callable[..., Path]) -> None:
    """It begins with as much noise as that many of the last steps take away."""
    mine = sd(random_folder("sd15"))
    told, start = asked(mine, 1), latents(mine, 1, seed=9)
    for strength, steps in ((0.1, 1), (0.9, 9)):
        seen: list[tuple[Tensor, int]] = []
        predict = mine.predict
        mine.predict = lambda z, t, c: seen.append((z, int(t))) or predict(z, t, c)  # type: ignore[method-assign,func-returns-value]  # noqa: B023
        how = Sampling(10, 1.0, strength)
        drawn(mine, told["text"], told["null"], start.shape, torch.Generator().manual_seed(0), how, start)
        mine.predict = predict  # type: ignore[method-assign]
        first, t = seen[0]
        assert len(seen) == steps and t == pytest.approx(1000 * strength, abs=2)
        a, b = mine.table.signal_noise(torch.tensor([t]), start)
        torch.testing.assert_close(first, a * start + b * noise(start.shape, 0), rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match=r"strength 1.5 must be in \(0, 1\]"):
        drawn(mine, told["text"], told["null"], start.shape, torch.Generator(), Sampling(10, 1.0, 1.5), start)


def test_a_command_draws_one_picture(random_folder: Callable[..., Path], dreamlab: Commands, tmp_path: Path) -> None:
    """The same from the same seed; a model that needs a picture of its own draws none."""
    from PIL import Image

    folder, told = str(random_folder("sd15")), ("a red mushroom", "--steps", "2")
    for name in ("one.png", "two.png"):
        ended = dreamlab("models", "draw", folder, *told, "--out", str(tmp_path / name))
        assert ended.code == 0 and ended.out.strip() == str(tmp_path / name), ended.err
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size == (64, 64) and len(picture.getcolors(4096) or ()) > 100
    refused = dreamlab("models", "draw", "zero123", *told, "--out", str(tmp_path / "three.png"))
    assert refused.code == 2 and "zero123 draws no single picture from a text alone" in refused.err
