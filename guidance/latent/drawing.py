# SPDX-License-Identifier: Apache-2.0
"""One picture of a text by a model that is otherwise asked for directions."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, turntable
from dreamlab.core.streams import derive
from dreamlab.core.types import Frames, Guidance, Prompt
from guidance.latent.model import LatentModel
from guidance.latent.sampling import Sampling, drawn

PICTURES = ("sd", "sdxl", "deepfloyd", "sd3", "flux", "klein", "z-image", "mvdream")  # that need a text alone


def drawn_picture(model: Guidance, prompt: Prompt, steps: int, scale: float, seed: int) -> Tensor:
    """[H, W, 3] sRGB; of a model that sees views together, its views side by side."""
    assert isinstance(model, LatentModel)
    made = drawn_views(model, prompt, turntable(model.together), Sampling(steps, scale), seed)
    return torch.cat(list(made), 1).cpu()


def drawn_views(model: LatentModel, prompt: Prompt, cameras: Cameras, how: Sampling, seed: int) -> Tensor:
    """[B, S, S, 3] sRGB of views, on the model's device."""
    blank = torch.zeros(len(cameras), model.side, model.side, 1, device=model.device)
    frames = Frames(blank.expand(-1, -1, -1, 3), blank, blank, torch.ones(len(cameras), 3, device=model.device))
    with torch.no_grad():
        shape = model.encode(frames.rgb).shape
        told = model.condition(prompt, cameras.to(model.device), frames)
        generator = torch.Generator().manual_seed(derive(seed, "drawing"))
        z = drawn(model, told["text"], told["null"], tuple(shape), generator, how)
        return model.decode(z).clamp(0, 1)
