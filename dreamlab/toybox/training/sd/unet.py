# SPDX-License-Identifier: Apache-2.0
"""Training of the U-Net: from noise to latents, one picture or four views at a time.

The text encoder first learns what captions mean from texts alone (`meaning`), and then stays. The error is that of
v = a n - s z (Salimans & Ho 2022) at every noise level alike; one level for a group of views. A tenth of the captions
is left out: the empty text, or what recipes write into the negative prompt. A network of four views learns single
pictures beside them, with words for their sides and a camera of zeros, as MVDream does (Shi et al. 2023, section 4.2).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dreamlab.core.noise import make_table
from dreamlab.core.streams import derive
from dreamlab.toybox.training.loss import mixed_precision
from dreamlab.toybox.training.sd.course import Course, CoursePlan
from dreamlab.toybox.training.sd.folder import read_vae, write_pipeline
from dreamlab.toybox.training.sd.latents import LatentCache, LatentGroups
from dreamlab.toybox.training.sd.meaning import listen
from dreamlab.toybox.training.sd.norms import swift
from dreamlab.toybox.training.sd.scenes import SHELF, SIDES, Shelf, cameras_of, draw_shelf
from dreamlab.toybox.training.sd.shapes import WORDS, Model, new_text_encoder, new_unet
from dreamlab.toybox.training.sd.tokens import NEGATIVES, read_tokenizer
from dreamlab.toybox.training.sd.vae import encoded
from dreamlab.toybox.training.sd.view_words import view_words
from guidance.latent.joint import ViewCount, joined, told

DROPPED, NEGATIVE, WORDED = 0.1, 0.3, 0.6
HELD = 32  # held-out groups whose error is logged


@dataclass(frozen=True)
class UnetPlan(CoursePlan):
    views: int = SIDES  # 1: one picture, told its side in words; 4: a ring, told its cameras
    alone: float = 0.3  # of four views: steps of single pictures
    texts: int = 2_000  # steps of the text encoder before the first picture; 0: it stays as it starts
    even: float = 0.4  # the last part of the run, in which all cells weigh the same (see `Plan.weighted_at`)
    scale: float = 1.0  # of latents: 1 / their deviation
    latents: str = ""  # folder of the cache
    total: int = 600_000


@dataclass(frozen=True)
class ToldLatents:
    """ToldLatents of a batch: clean latents [B, 4, h, w] and what is said of them."""

    latents: Tensor
    texts: list[str]  # one for each group
    views: int = 1  # of a group
    camera: Tensor | None = None  # [B, 16]
    weight: Tensor | None = None  # [B, h, w] of the errors
    shown: Tensor | None = None  # [B, 3, S, S] of its surface, for a control network


class UnetCourse(Course):
    plan: UnetPlan

    def __init__(self, folder: Path, plan: UnetPlan, shelf: int = SHELF) -> None:
        """The folder holds vae/ and tokenizer/ already."""
        self.tokenizer = read_tokenizer(folder / "tokenizer")
        self.vae = read_vae(folder / "vae").requires_grad_(False).eval()
        self.cache = LatentCache(Path(plan.latents), self.vae, plan.seed, shelf)
        self.table = make_table("scaled_linear")
        self.together = ViewCount()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(plan.seed, "sd weights") % 2**63)
            net = self.networks(folder, plan)
        super().__init__(folder, plan, swift(nn.ModuleDict(net)))
        self.understood = False
        self.held: ToldLatents | None = None

    def networks(self, folder: Path, plan: UnetPlan) -> dict[str, Model]:
        """What learns, new."""
        made = {"text_encoder": new_text_encoder(len(self.tokenizer)), "unet": new_unet(plan.views)}
        made["text_encoder"].requires_grad_(False)
        made["unet"].requires_grad_(True)
        if plan.views > 1:
            self.together.count = plan.views
            joined(made["unet"], self.together, str(folder))
        return made

    def ready(self, stopping: Callable[[], bool]) -> bool:
        return super().ready(stopping) and self.heard(stopping) and self.cache.grow(self.seen, self.lanes, stopping)

    def heard(self, stopping: Callable[[], bool]) -> bool:
        """The text encoder has learnt what captions mean; a run that is stopped before begins it again."""
        if self.step or not self.plan.texts or self.understood:
            return True
        encoder = self.net["text_encoder"].requires_grad_(True)
        found = listen(encoder, self.tokenizer, self.plan.seed, self.plan.texts, stopping)
        encoder.requires_grad_(False)
        if found is None:
            return False
        self.ema["text_encoder"].load_state_dict(encoder.state_dict())
        self.understood = True
        self.log(found)
        return True

    def train_step(self) -> dict[str, float]:
        self.together.count = self.views_now()
        told = super().train_step()
        self.together.count = self.plan.views
        return told

    def loss(self, lane: int) -> tuple[Tensor, dict[str, float]]:
        plan, key = self.plan, (self.step, lane)
        generator = torch.Generator().manual_seed(derive(plan.seed, "sd batch", *key))
        views = self.views_now()
        count = plan.batch // plan.lanes // views
        told = self.drawn(lane, count, generator)
        level = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
        t_index = (level * len(self.table)).long().repeat_interleave(views)
        noise = torch.randn(told.latents.shape, generator=generator)
        weighted = self.seen < (1 - plan.even) * plan.total
        error = self.errors(self.net, told, t_index, noise, weighted=weighted)
        quarter = (4 * t_index) // len(self.table)
        by_noise = {f"q{q}": error[quarter == q].mean().item() for q in quarter.unique().tolist()}
        return error.mean(), by_noise

    def views_now(self) -> int:
        """Of a group, in this step and in all its lanes."""
        dice = random.Random(derive(self.plan.seed, "alone", self.step))  # noqa: S311
        return 1 if dice.random() < self.plan.alone else self.plan.views

    def drawn(self, lane: int, count: int, generator: torch.Generator) -> ToldLatents:
        group = self.cache.take(torch.randint(self.cache.reach(self.seen), (count,), generator=generator))
        return self.spoken(group, self.dice(lane), self.views_now())

    def dice(self, lane: int) -> random.Random:
        return random.Random(derive(self.plan.seed, "sd words", self.step, lane))  # noqa: S311

    def spoken(self, group: LatentGroups, dice: random.Random, views: int) -> ToldLatents:
        """ToldLatents of groups; a single picture is one side of each, mostly with the words for it."""
        texts, latents, orbits, weight = list(group.texts), group.latents * self.plan.scale, group.orbits, group.weight
        if views == 1:
            side = torch.tensor([dice.randrange(SIDES) for _ in texts])
            latents, orbits, weight = (x[torch.arange(len(texts)), side][:, None] for x in (latents, orbits, weight))
            words = view_words(cameras_of(orbits))
            texts = [text + (word if dice.random() < WORDED else "") for text, word in zip(texts, words, strict=True)]
        texts = [self.dropped(dice) if dice.random() < DROPPED else text for text in texts]
        camera = told(cameras_of(orbits)) if self.plan.views > 1 else None
        if camera is not None and views == 1:
            camera = torch.zeros_like(camera)  # nobody's: a camera has a row (0, 0, 0, 1)
        return ToldLatents(latents.flatten(0, 1), texts, views, camera, weight.flatten(0, 1))

    @staticmethod
    def dropped(dice: random.Random) -> str:
        return dice.choice(NEGATIVES) if dice.random() < NEGATIVE else ""

    def embedded(self, net: nn.ModuleDict, texts: list[str]) -> Tensor:
        """[K, 77, D]"""
        ids = self.tokenizer(texts, padding="max_length", max_length=WORDS, truncation=True, return_tensors="pt")
        found: Tensor = net["text_encoder"](ids.input_ids).last_hidden_state
        return found

    def errors(
        self, net: nn.ModuleDict, told: ToldLatents, t_index: Tensor, noise: Tensor, *, weighted: bool = False
    ) -> Tensor:
        """[B] mean squared error of v."""
        a, s = self.table.signal_noise(t_index, noise)
        with mixed_precision(noise.device):
            words = self.embedded(net, told.texts).repeat_interleave(told.views, 0)
            noisy = (a * told.latents + s * noise).contiguous(memory_format=torch.channels_last)
            found = self.answer(net, noisy, t_index, words, told).float()
        off = (found - (a * noise - s * told.latents)).square().mean(1)
        if weighted and told.weight is not None:
            off = off * told.weight / told.weight.mean((1, 2), keepdim=True)
        return off.flatten(1).mean(1)

    def answer(self, net: nn.ModuleDict, noisy: Tensor, t_index: Tensor, words: Tensor, told: ToldLatents) -> Tensor:
        said: Tensor = net["unet"](noisy, t_index, words, class_labels=told.camera).sample
        return said

    @torch.no_grad()
    def look(self) -> dict[str, float]:
        from dreamlab.toybox.training.sd.sampling import draw_sheet

        return {"held_out": self.held_out_error()} | draw_sheet(self)

    @torch.no_grad()
    def held_out_error(self) -> float:
        """The average's, of fixed held-out groups with fixed noise."""
        if self.held is None:
            self.held = self.held_out(draw_shelf(0, 0, HELD, held_out=True))
        generator = torch.Generator().manual_seed(1)
        count = len(self.held.latents) // self.plan.views
        noise = torch.randn(self.held.latents.shape, generator=generator)
        t_index = torch.linspace(20, len(self.table) - 20, count)[torch.randperm(count, generator=generator)].long()
        return self.errors(self.ema, self.held, t_index.repeat_interleave(self.plan.views), noise).mean().item()

    def held_out(self, shelf: Shelf) -> ToldLatents:
        latents = encoded(self.vae, shelf)
        group = LatentGroups(latents, shelf.orbits, shelf.texts, shelf.weight(latents.shape[-1]))
        return self.spoken(group, random.Random(0), self.plan.views)  # noqa: S311

    def export(self, out: Path) -> None:
        """The average as the folder that guidances load."""
        name = "MVDreamPipeline" if self.plan.views > 1 else "StableDiffusionPipeline"
        write_pipeline(out, name, self.ema, self.folder / "vae", self.folder / "tokenizer")
