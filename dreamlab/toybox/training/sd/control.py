# SPDX-License-Identifier: Apache-2.0
"""Training of a control network (Zhang et al. 2023, arXiv:2302.05543) that is shown the world's depth beside a trained
U-Net for single pictures: the U-Net stays as its folder holds it, the copy of its first half learns.

Pictures are drawn as they are needed; the depth is shown as guidances show it to anybody's control network.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dreamlab.toybox.training.sd.folder import UNET_WEIGHTS, config_of, halved, read_base, write_part
from dreamlab.toybox.training.sd.scenes import SIDES, Shelf, draw_shelf
from dreamlab.toybox.training.sd.shapes import Model
from dreamlab.toybox.training.sd.unet import DROPPED, ToldLatents, UnetCourse, UnetPlan
from dreamlab.toybox.training.sd.vae import encoded
from dreamlab.toybox.training.sd.view_words import view_words
from guidance.latent.controls import depth_picture

BASE = "base"  # the pipeline beside which it learns, in the run folder
HINT = (16, 32, 64, 96)  # channels from 128 px to the latents' 16


class ControlCourse(UnetCourse):
    def networks(self, folder: Path, plan: UnetPlan) -> dict[str, Model]:
        from diffusers import ControlNetModel

        self.base = read_base(folder / BASE)
        copied = ControlNetModel.from_unet(self.base["unet"], conditioning_embedding_out_channels=HINT)
        return {"control": copied.requires_grad_(True)}

    def ready(self, stopping: Callable[[], bool]) -> bool:
        return not stopping()  # nothing is kept

    def drawn(self, lane: int, count: int, generator: torch.Generator) -> ToldLatents:
        index = self.step * self.plan.lanes + lane
        return self.surfaced(draw_shelf(self.plan.seed, index, count // SIDES), self.dice(lane))

    def surfaced(self, shelf: Shelf, dice: random.Random) -> ToldLatents:
        """Every side by itself, and its depth."""
        texts = [text for text in shelf.texts for _ in range(SIDES)]
        said = [text + word for text, word in zip(texts, view_words(shelf.cameras()), strict=True)]
        said = [self.dropped(dice) if dice.random() < DROPPED else text for text in said]
        depth = depth_picture(shelf.frames()).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
        return ToldLatents(encoded(self.vae, shelf).flatten(0, 1) * self.plan.scale, said, shown=depth)

    def held_out(self, shelf: Shelf) -> ToldLatents:
        return self.surfaced(shelf, random.Random(0))  # noqa: S311

    def embedded(self, net: nn.ModuleDict, texts: list[str]) -> Tensor:
        with torch.no_grad():
            return super().embedded(self.base, texts)

    def answer(self, net: nn.ModuleDict, noisy: Tensor, t_index: Tensor, words: Tensor, told: ToldLatents) -> Tensor:
        down, middle = net["control"](noisy, t_index, words, controlnet_cond=told.shown, return_dict=False)
        more = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        said: Tensor = self.base["unet"](noisy, t_index, words, **more).sample
        return said

    @torch.no_grad()
    def look(self) -> dict[str, float]:
        """The error on held-out pictures, and without the depth: what it is good for."""
        shown = self.held_out_error()
        assert self.held is not None and self.held.shown is not None
        kept, self.held = self.held, ToldLatents(self.held.latents, self.held.texts, shown=0 * self.held.shown)
        blind, self.held = self.held_out_error(), kept
        return {"held_out": shown, "held_out_blind": blind}

    def export(self, out: Path) -> None:
        write_part(out, UNET_WEIGHTS, config_of(self.ema["control"]), halved(self.ema["control"]))
