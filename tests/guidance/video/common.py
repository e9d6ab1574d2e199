# SPDX-License-Identifier: Apache-2.0
"""What the tests of video models share: clips of frames, and a library's pipeline that keeps what it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from dreamlab.core.cameras import Cameras, turntable
from dreamlab.core.types import Condition, Prompt, Reference
from guidance.latent.clips import ClipModel
from guidance.layouts.parts import Config, Network
from guidance.layouts.random import Dice, write_part
from tests.guidance.pretrained import PROMPT, frames

MOTION: Config = {
    "block_out_channels": [8, 16], "motion_layers_per_block": 1, "motion_norm_num_groups": 4,
    "motion_num_attention_heads": 2, "motion_max_seq_length": 6, "use_motion_mid_block": True,
}  # fmt: skip


def adapter(place: Path, config: Config = MOTION) -> Path:
    """A motion adapter's folder."""
    write_part(place, Network("", "diffusers", "MotionAdapter", config, config), "tiny", "fp32", Dice(1))
    return place


def asked(model: ClipModel, clips: int = 1, prompt: Prompt = PROMPT) -> dict[str, Condition]:
    count = clips * model.settings.frames
    cameras: Cameras = turntable(count)
    return dict(model.condition(prompt, cameras, frames(count)))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(size: int = 40) -> Reference:
    """Stripes of colour, opaque."""
    rgb = torch.rand(5, 4, 3, generator=torch.Generator().manual_seed(7))
    rgb = torch.nn.functional.interpolate(rgb.permute(2, 0, 1)[None], (size, size), mode="bicubic").clamp(0, 1)
    return Reference(rgb[0].permute(1, 2, 0), torch.ones(size, size, 1), turntable(1))


def save_picture(path: Path) -> None:
    """The same picture, cut out, as a file."""
    rgba = torch.cat([picture().rgb, torch.zeros(40, 40, 1)], -1)
    rgba[5:35, 8:30, 3] = 1
    Image.fromarray((255 * rgba).round().to(torch.uint8).numpy()).save(path)


def check_encode(model: ClipModel, straight: Callable[[Tensor], Tensor], clips: int = 1) -> None:
    """Values and gradient of `encode` against `straight`, a float64 function of the same frames, by differences; every
    frame hears the gradient."""
    count = clips * model.settings.frames
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(count, model.side, model.side, 3, generator=generator)
    along = torch.randn(rgb.shape, generator=generator)
    leaf = rgb.clone().requires_grad_()
    z = model.encode(leaf)
    torch.testing.assert_close(z.double(), straight(rgb.double()), rtol=1e-3, atol=1e-4)
    towards = torch.randn(z.shape, generator=generator)
    (z * towards).sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad.flatten(1).abs().amax(1) > 1e-5).all()  # every frame
    step = 1e-5
    with torch.no_grad():
        ends = [(straight(rgb.double() + sign * step * along) * towards).sum() for sign in (1, -1)]
    slope = ((ends[0] - ends[1]) / (2 * step)).item()
    assert abs((leaf.grad * along).sum().item() - slope) < 1e-3 * max(1.0, abs(slope))
    assert torch.equal(model.encode(rgb), model.encode(rgb))  # the mode; a sample would differ


def eps_of(
    model: ClipModel, z: Tensor, t: int, names: Sequence[str] = ("null", "text"), clips: int = 1
) -> list[Tensor]:
    """The answers of several variants in one call."""
    told = asked(model, clips)
    rows = Condition.cat([told[name] for name in names])
    eps = model.predict(z.repeat(len(names), 1, 1, 1), torch.full((len(names) * len(z),), t), rows)
    return list(eps.chunk(len(names)))
