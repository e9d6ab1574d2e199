# SPDX-License-Identifier: Apache-2.0
"""CogVideoX from tiny folders, judged by the library's own pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.noise import cfg
from dreamlab.core.types import Condition
from guidance.cogvideox import CogVideoX, middle
from guidance.latent.loading import ModelFolder
from guidance.latent.t5 import t5_tokenizer
from tests.guidance.pretrained import PROMPT, keeper, spied
from tests.guidance.video.common import asked, check_encode, drawn

F, M, C = 9, 3, 16  # frames, moments, channels
ANCHORS = {  # alpha_bar at 250, 500, 750
    "cogvideox-2b": (0.38905371, 0.095328101, 0.010838902),
    "cogvideox-5b": (0.65245702, 0.24101878, 0.032799118),
}


def built(folder: Path, **settings: object) -> Any:
    own = {"model": str(folder), "dtype": "float32", "frames": F, "size": 32, **settings}
    return CogVideoX.build(CogVideoX.Settings(**own), None).to("cpu")


@pytest.mark.parametrize(
    ("name", "frames", "size"),
    [("cogvideox-2b", F, 32), ("cogvideox-5b", F, 32), ("cogvideox-5b", 13, 48), ("cogvideox15-5b", 13, 32)],
)
def test_one_step_equals_the_library_s_pipeline(
    name: str, frames: int, size: int, random_folder: Callable[..., Path]
) -> None:
    """The second of its steps: the first begins at a time that holds no picture."""
    from diffusers import CogVideoXPipeline

    folder, kept = random_folder(name), list[Tensor]()
    mine = built(folder, frames=frames, size=size)
    moments, side = (frames + 3) // 4, size // 8
    tokenizer = t5_tokenizer(ModelFolder(folder), "tokenizer")
    pipeline = CogVideoXPipeline.from_pretrained(str(folder), tokenizer=tokenizer, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    with spied(pipeline.transformer) as seen:
        pipeline(
            PROMPT.text, negative_prompt=PROMPT.negative, num_frames=frames, num_inference_steps=4, guidance_scale=6.0,
            latents=drawn(1, moments, C, side, side), height=size, width=size, output_type="latent",
            callback_on_step_end=keeper(kept),
        )  # fmt: skip
    t, then = (int(t) for t in pipeline.scheduler.timesteps[1:3])
    told, z = asked(mine), kept[0].transpose(1, 2).flatten(1, 2)
    rows = Condition.cat([told["negative"], told["text"]])
    eps = mine.predict(z.repeat(2, 1, 1, 1), torch.tensor([t, t]), rows)
    call = seen[1][0]
    assert call["hidden_states"].shape == (2, moments, C, side, side)
    assert call["encoder_hidden_states"].shape == (2, 226, 32)
    torch.testing.assert_close(rows.rows["text"], call["encoder_hidden_states"], rtol=1e-5, atol=1e-6)
    a, b = mine.table.signal_noise(torch.tensor([t, t]), z.repeat(2, 1, 1, 1))
    v = (eps - b * z) / a
    theirs = seen[1][1][0].transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(v, theirs, rtol=1e-3, atol=2e-5)
    moved = mine.table.ddim_move(z, cfg(eps[:1], eps[1:], 6.0), torch.tensor([t]), torch.tensor([then]))
    torch.testing.assert_close(moved.unflatten(1, (C, moments)).transpose(1, 2), kept[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("grid", "side"), [((30, 45), 30), ((30, 45), 24), ((45, 30), 16), ((8, 8), 4)])
def test_a_square_stands_in_the_middle_of_the_grid(grid: tuple[int, int], side: int) -> None:
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    assert middle(grid) == get_resize_crop_region_for_grid((side, side), grid[1], grid[0])


@pytest.mark.parametrize("name", ANCHORS)
def test_the_noise_is_shifted_and_ends_in_nothing(name: str, random_folder: Callable[..., Path]) -> None:
    bar = built(random_folder(name)).table.alpha_bar
    assert bar[[250, 500, 750]].tolist() == [pytest.approx(value, rel=1e-4) for value in ANCHORS[name]]
    assert 0 < bar[999] < 1e-6


def test_the_padding_of_a_text_is_heard(random_folder: Callable[..., Path]) -> None:
    """No mask: what stands behind a short text is not what a masked encoder would have left there."""
    from guidance.latent.t5 import T5Text

    mine = built(random_folder("cogvideox-2b"))
    said = asked(mine)["text"].rows["text"]
    assert said.shape == (1, 226, 32) and (said[0, 60:].abs().amax(-1) > 1e-3).all()
    with torch.no_grad():
        masked = T5Text(mine.source, torch.float32, mine.device, 226, masked=True)([PROMPT.text])["text"]
    assert (said - masked).abs().max() > 1e-2


@pytest.mark.parametrize(("count", "moments"), [(5, 2), (9, 3), (13, 4), (17, 5)])
def test_time_is_compressed_into_moments(count: int, moments: int, random_folder: Callable[..., Path]) -> None:
    mine = built(random_folder("cogvideox-2b"), frames=count)
    z = mine.encode(torch.rand(2 * count, 32, 32, 3))
    assert z.shape == (2, C * moments, 4, 4) and mine.decode(z).shape == (2 * count, 32, 32, 3)


def test_clips_are_decoded_as_the_library_does(random_folder: Callable[..., Path]) -> None:
    """An odd number of moments straight; an even one with the first said twice, which shifts only what came of it."""
    mine, z = built(random_folder("cogvideox-2b"), frames=17), drawn(2, C * 5, 4, 4)
    with torch.no_grad():
        clips = mine.codec.vae.decode(z.unflatten(1, (C, 5)) / 1.15258426).sample
    expected = ((clips.permute(0, 2, 3, 4, 1).flatten(0, 1) + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(mine.decode(z), expected, rtol=1e-4, atol=1e-5)
    shorter = built(random_folder("cogvideox-2b"), frames=13)
    z = z.unflatten(1, (C, 5))
    z[:, :, 0] = z[:, :, 1]
    with torch.no_grad():
        clips = mine.codec.vae.decode(z / 1.15258426).sample[:, :, 4:]
    expected = ((clips.permute(0, 2, 3, 4, 1).flatten(0, 1) + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(shorter.decode(z[:, :, 1:].flatten(1, 2)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "scale"), [("cogvideox-2b", 1.15258426), ("cogvideox-5b", 0.7)])
def test_the_gradient_of_every_frame(name: str, scale: float, random_folder: Callable[..., Path]) -> None:
    from diffusers import AutoencoderKLCogVideoX

    vae = AutoencoderKLCogVideoX.from_pretrained(str(random_folder(name) / "vae")).double().eval()

    def straight(rgb: Tensor) -> Tensor:
        clip = torch.stack([2 * frame.permute(2, 0, 1) - 1 for frame in rgb], 1)[None]
        mode = vae.encode(clip).latent_dist.mode()[0]
        return torch.stack([mode[c, m] * scale for c in range(C) for m in range(M)])[None]

    check_encode(built(random_folder(name)), straight)


def test_what_it_is_not_is_refused(random_folder: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="is told a picture beside the clip"):
        built(random_folder("cogvideox-5b-i2v"))
    with pytest.raises(InputError, match=r"frames: 9; this model takes clips of 8 k \+ 5"):
        built(random_folder("cogvideox15-5b"))
