# SPDX-License-Identifier: Apache-2.0
"""Training of the autoencoder: pictures of 128 px to 4 x 16 x 16 numbers and back.

L1, L1 of the differences between neighbours (edges), and a pull of the latents to the normal distribution (Rombach et
al. 2022) that is strong enough for noise of some hundredths to do no harm: distillation and the U-Net's errors need
latents whose neighbours are neighbouring pictures.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dreamlab.core.streams import derive
from dreamlab.toybox.training.data import draw_background
from dreamlab.toybox.training.loss import mixed_precision
from dreamlab.toybox.training.sd.course import Course, CoursePlan
from dreamlab.toybox.training.sd.norms import swift
from dreamlab.toybox.training.sd.scenes import PIXELS, SIDES, Shelf, draw_shelf
from dreamlab.toybox.training.sd.shapes import Model, new_vae
from dreamlab.toybox.training.sd.sheets import rows_of, write_sheet

EDGE, PULL = 0.5, 5e-4
SMALL, PER_PICTURE = 32, 8


@dataclass(frozen=True)
class VaePlan(CoursePlan):
    """Counts are in small pieces of 32 px. What is hard to learn are colours through group norms, and a piece shows one
    background however large it is: 128 small ones a step had reached 19.7 dB for what 64-px pieces had 13.9 dB for.
    Larger pieces, and whole pictures with their empty borders, come last."""

    batch: int = 128
    rate: float = 2e-3
    warmup: int = 1_500
    total: int = 56_000
    cooldown: float = 0.4
    ema: float = 0.99
    small_until: int = 46_000
    whole_after: int = 48_000
    frozen: bool = False  # the encoder

    def count_at(self, size: int) -> int:
        """Pieces a step: the larger, the fewer, but not in proportion to their area."""
        return self.batch * SMALL // size // (2 if size == PIXELS else 1)

    def size_at(self, seen: int) -> int:
        """Pixels of a piece."""
        return SMALL if seen < self.small_until else 2 * SMALL if seen < self.whole_after else PIXELS


def vae_loss(shown: Tensor, drawn: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Of pictures [B, 3, S, S]."""
    off = drawn - shown
    edges = (off.diff(dim=2).abs().mean() + off.diff(dim=3).abs().mean()) / 2
    pull = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return off.abs().mean() + EDGE * edges + PULL * pull


def as_input(pictures: Tensor) -> Tensor:
    """[..., S, S, 3] in [0, 1] -> [B, 3, S, S] in [-1, 1]."""
    flat = pictures.reshape(-1, *pictures.shape[-3:]).permute(0, 3, 1, 2)
    return (2 * flat - 1).contiguous(memory_format=torch.channels_last)


def pieces(seed: int, index: int, count: int, size: int) -> Tensor:
    """[count, 3, size, size] of drawn pictures, each before a colour of its own."""
    generator = torch.Generator().manual_seed(derive(seed, "sd pieces", index))
    each = 1 if size == PIXELS else PER_PICTURE
    drawn = draw_shelf(seed, index, max(1, count // each // SIDES))
    rgb, alpha = (part.flatten(0, 1) for part in (drawn.rgb, drawn.alpha))
    which = torch.arange(count) % len(rgb)
    places = torch.randint(PIXELS - size + 1, (count, 2), generator=generator).tolist()
    cuts = [(i, slice(y, y + size), slice(x, x + size)) for i, (y, x) in zip(which.tolist(), places, strict=True)]
    behind = draw_background(count, generator)[:, None, None]
    return as_input(over([rgb[cut] for cut in cuts], [alpha[cut] for cut in cuts], behind))


def over(rgb: list[Tensor], alpha: list[Tensor], behind: Tensor) -> Tensor:
    return torch.stack(rgb) / 255 + (1 - torch.stack(alpha)[..., None] / 255) * behind


def psnr(drawn: Tensor, shown: Tensor) -> Tensor:
    """Mean over pictures in [-1, 1] of the decibels each has."""
    error = (drawn.clamp(-1, 1) - shown).square().flatten(1).mean(1) / 4
    return (-10 * error.log10()).mean()


class VaeCourse(Course):
    kind = "sd-vae"
    plan: VaePlan

    def __init__(self, folder: Path, plan: VaePlan, start: Model | None = None) -> None:
        """From `start` only the decoder learns: whoever knows its latents goes on knowing them."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(plan.seed, "sd vae weights") % 2**63)
            vae = start or new_vae()
        if start is not None:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        super().__init__(folder, plan, swift(nn.ModuleDict({"vae": vae})))

    def loss(self, lane: int) -> tuple[Tensor, dict[str, float]]:
        plan, index = self.plan, self.step * self.plan.lanes + lane
        generator = torch.Generator().manual_seed(derive(plan.seed, "sd vae", index))
        size = plan.size_at(self.seen)
        shown = pieces(plan.seed, index, plan.count_at(size) // plan.lanes, size)
        vae: Model = self.net["vae"]
        with mixed_precision(shown.device):
            found = vae.encode(shown).latent_dist
            mean, logvar = found.mean.float(), found.logvar.float()
            latents = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
            drawn = vae.decode(latents).sample.float()
        told = {"psnr": psnr(drawn.detach(), shown).item(), "spread": mean.std().item()}
        return vae_loss(shown, drawn, mean, logvar), told | {"sigma": (0.5 * logvar).exp().mean().item()}

    @torch.no_grad()
    def look(self) -> dict[str, float]:
        """PSNR of held-out pictures, and with latents disturbed by a tenth of their spread."""
        shelf = draw_shelf(0, 0, 24, held_out=True)
        shown = as_input(shelf.pictures())
        vae: Model = self.ema["vae"]
        mean = vae.encode(shown).latent_dist.mean
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
        drawn = vae.decode(mean).sample
        disturbed = vae.decode(mean + 0.1 * mean.std() * noise).sample
        write_sheet(self.folder / f"{self.seen:09d}.png", rows_of(shown, drawn, disturbed), shelf.texts)
        spread = mean.std().item()
        return {
            "held_out_psnr": psnr(drawn, shown).item(),
            "held_out_psnr_disturbed": psnr(disturbed, shown).item(),
            "held_out_spread": spread,
        }


def encoded(vae: Model, shelf: Shelf, lanes: ThreadPoolExecutor | None = None, rows: int = 16) -> Tensor:
    """[K, 4, 4, 16, 16] mean latents, not scaled; the lanes share the work."""

    @torch.no_grad()  # of the thread it runs in
    def part(first: int) -> Tensor:
        torch.set_num_threads(1)
        shown = as_input(shelf.pictures(slice(first, first + rows)))
        with mixed_precision(shown.device):
            mean: Tensor = vae.encode(shown).latent_dist.mean
        return mean.float()

    found = (map if lanes is None else lanes.map)(part, range(0, len(shelf.texts), rows))
    return torch.cat(list(found)).unflatten(0, (-1, SIDES))
