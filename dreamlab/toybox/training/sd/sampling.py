# SPDX-License-Identifier: Apache-2.0
"""Pictures of held-out prompts by a network in training, for the eye."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dreamlab.core.cameras import orbit
from dreamlab.core.noise import cfg
from dreamlab.toybox.training.loss import mixed_precision
from dreamlab.toybox.training.sample import PROBES, held_out_prompts, scene_of
from dreamlab.toybox.training.sd.scenes import PIXELS, SIDES
from dreamlab.toybox.training.sd.shapes import LATENT, SCHEDULER, Model
from dreamlab.toybox.training.sd.sheets import rows_of, write_sheet
from dreamlab.toybox.training.sd.vae import as_input
from dreamlab.toybox.training.sd.view_words import view_words
from guidance.latent.joint import told

if TYPE_CHECKING:
    from dreamlab.toybox.training.sd.unet import UnetCourse

SCALE, STEPS = 4.0, 20
RING = ([0.0, 90.0, 180.0, -90.0], 15.0, 3.2, 42.0)  # azimuths, elevation, distance, lens


@torch.no_grad()
def sampled(course: UnetCourse, prompts: list[str], scale: float = SCALE, steps: int = STEPS, seed: int = 0) -> Tensor:
    """[4 K, 3, S, S] in [-1, 1]: four sides of each prompt, by DDIM with fresh noise in every step (eta = 1)."""
    from diffusers import DDIMScheduler

    views = course.plan.views
    cameras = orbit(RING[0] * len(prompts), *RING[1:])
    texts = [text for text in prompts for _ in range(SIDES // views)]
    if views == 1:
        texts = [text + word for text, word in zip(texts, view_words(cameras), strict=True)]
    camera = told(cameras).repeat(2, 1) if views > 1 else None
    generator = torch.Generator().manual_seed(seed)
    scheduler: Model = DDIMScheduler(**SCHEDULER, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    z = torch.randn(len(cameras), 4, LATENT, LATENT, generator=generator)
    with mixed_precision(z.device):
        words = course.embedded(course.ema, [""] * len(texts) + texts).repeat_interleave(views, 0)
    for t in scheduler.timesteps:
        with mixed_precision(z.device):
            null, text = course.ema["unet"](z.repeat(2, 1, 1, 1), t, words, class_labels=camera).sample.float().chunk(2)
        z = scheduler.step(cfg(null, text, scale), t, z, eta=1.0, generator=generator).prev_sample
    found: Tensor = course.vae.decode(z / course.plan.scale).sample
    return found


def draw_sheet(course: UnetCourse) -> dict[str, float]:
    """Eight held-out prompts: true sides above, drawn ones below."""
    prompts = held_out_prompts(PROBES[::2])
    cameras = orbit(*RING)
    true = as_input(torch.cat([scene_of(prompt, cameras, PIXELS)[0].rgb for prompt in prompts]))
    write_sheet(course.folder / f"{course.seen:09d}.png", rows_of(true, sampled(course, prompts)), prompts)
    return {}
