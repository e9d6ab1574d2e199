# SPDX-License-Identifier: Apache-2.0
"""Training of the reader (`guidance.toybox.reader`): batches of the training split, drawn on the fly.

Batch `index` is a pure function of (seed, index) and the state is saved with its counters, so a resumed run goes on as
if it had not stopped.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core import tensors
from dreamlab.core.cameras import Cameras, sample_orbit
from dreamlab.core.errors import InputError
from dreamlab.core.files import disk_errors, write_atomic
from dreamlab.core.safemath import linear_to_srgb
from dreamlab.core.streams import derive
from dreamlab.run.signals import catching
from dreamlab.toybox.caption import Caption
from dreamlab.toybox.colours import COLOURS
from dreamlab.toybox.draw import draw
from dreamlab.toybox.program import stack
from dreamlab.toybox.shapes import CATEGORIES
from dreamlab.toybox.training import style
from dreamlab.toybox.training.data import Drawn, draw_caption, program_of
from dreamlab.toybox.training.loss import mixed_precision
from dreamlab.toybox.training.moments import moments, remember
from dreamlab.toybox.training.muon import Muon, split
from dreamlab.toybox.training.plan import SHARES, Plan
from dreamlab.toybox.training.rates import falling
from dreamlab.toybox.training.roles import VIEWS
from dreamlab.toybox.training.trainer import LOG, STATE, Rhythm, opened
from guidance.toybox.net import NetSettings
from guidance.toybox.reader import (
    FILE,
    FILL,
    SIZE,
    Answers,
    Known,
    Reader,
    azimuth_of,
    looked_at,
    packed,
    prepared,
    turn_error,
)

NAMES = tuple(sorted(CATEGORIES))
LOOKS = 2  # pictures of each object
LIGHTS = 4  # in a batch
USUAL = 0.45  # share of those drawn in other styles that have their usual colours, or colours near them
STRANGE, PLAIN = 0.1, 0.4  # shares of a batch: nothing that has a name; the world's own pictures as they are
NOISE, GAIN = 0.03, 0.15  # deviations of what the world's own pictures differ by beside their object, at most


@dataclass(frozen=True)
class ReaderPlan:
    total: int = 220_000  # pictures; the rate falls linearly to zero over the last two thirds
    batch: int = 64
    rate: float = 2e-3
    warmup: int = 4_000
    seed: int = 0

    def rate_at(self, seen: int) -> float:
        return falling(self, seen)


@dataclass(frozen=True)
class Lesson:
    """Pictures and what is right of them."""

    picture: Tensor  # `prepared`
    category: Tensor  # [B]; -1 of what has no name
    colour: Tensor  # [B, 2]; -1 where there is no second part
    azimuth_deg: Tensor  # [B]
    fronted: Tensor  # [B] bool
    lean_deg: Tensor  # [B]


def known() -> Known:
    parts = {name: (*CATEGORIES[name].nameable, "")[1] for name in NAMES}
    return Known(tuple(parts.items()), tuple(COLOURS))


def draw_shown(plan: ReaderPlan, index: int, held_out: bool = False, strange: bool = False) -> Lesson:
    """Batch `index`. Held-out ones are the world's pictures as they are, or, `strange`, in styles alone."""
    rng = random.Random(derive(plan.seed, "reader objects", index, held_out))  # noqa: S311
    generator = torch.Generator().manual_seed(derive(plan.seed, "reader views", index, held_out))
    captions = Plan(NetSettings(1), share=SHARES | {"action": 0.0})
    objects = [draw_caption(rng, captions, held_out) for _ in range(plan.batch // LOOKS)]
    count = len(objects) * LOOKS
    cameras = sample_orbit(VIEWS, count, generator)
    # The objects of one batch are in any order: its first are drawn as the world has them.
    plain = len(objects) if held_out and not strange else 0 if held_out else round(PLAIN * len(objects))
    for i in range(plain, len(objects)):  # a banana is yellow for strangers, too
        if rng.random() < USUAL:
            objects[i] = replace(objects[i], caption=Caption(objects[i].caption.category))
    rgb, alpha, tones = drawn(objects, cameras, plain, generator)
    lean = torch.zeros(count)
    fill, shift = torch.full((count,), FILL), torch.zeros(count, 2)
    names = torch.tensor([NAMES.index(one.caption.category) for one in objects]).repeat_interleave(LOOKS)
    if not held_out:
        gain = 1 + GAIN * (2 * torch.rand(count, 1, 1, 3, generator=generator) - 1)
        strength = NOISE * torch.rand(count, 1, 1, 1, generator=generator)
        rgb = (rgb * gain + strength * alpha * torch.randn(rgb.shape, generator=generator)).clamp(0, 1)
        fill = FILL + 0.12 * (2 * torch.rand(count, generator=generator) - 1)
        shift = 0.06 * torch.randn(count, 2, generator=generator)
    first = plain * LOOKS
    if first < count:
        made = style.styled(rgb[first:], alpha[first:], generator)
        rgb, alpha = torch.cat([rgb[:first], made.rgb]), torch.cat([alpha[:first], made.alpha])
        lean[first:] = made.roll_deg
        wild = 0 if held_out else round(STRANGE * count)
        if wild:
            rgb[-wild:], alpha[-wild:] = style.strange(rgb[-wild:], alpha[-wild:], generator)
            names[-wild:] = -1
    fronted = torch.tensor([CATEGORIES[one.caption.category].fronted for one in objects]).repeat_interleave(LOOKS)
    picture = prepared(rgb, alpha, fill, shift)
    return Lesson(picture, names, tones, cameras.azimuth_deg, fronted, lean)


def drawn(
    objects: list[Drawn], cameras: Cameras, plain: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Colours premultiplied, alpha, and the named colours [B, 2] nearest to those of the first two parts. The first
    `plain` objects have their own colours in the world's light."""
    programs = stack([program_of(one) for one in objects])
    shown, parts = [], []
    edges = [0, *(plain + (len(objects) - plain) * i // LIGHTS for i in range(LIGHTS + 1))]
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        if low == high:
            continue
        own = number == 0
        some = programs[low:high] if own else style.repainted(programs[low:high], generator, 0.8)
        seen = cameras[low * LOOKS : high * LOOKS]
        light = None if own else style.any_light(generator)
        shown.append(draw(some, seen, SIZE, light=light, per_program=True))
        parts.append(some.parts)
    tones = style.nearest_named(linear_to_srgb(torch.cat(parts)[..., style.BASES]))
    named = []
    for row, one in zip(tones.tolist(), objects, strict=True):
        category = CATEGORIES[one.caption.category]
        order = list(category.parts)
        named.append([*(row[order.index(part)] for part in category.nameable[:2]), -1][:2])
    rgb = torch.cat([each.rgb.flatten(0, 1) for each in shown])
    alpha = torch.cat([each.alpha.flatten(0, 1) for each in shown])
    return rgb, alpha, torch.tensor(named).repeat_interleave(LOOKS, 0)


def loss_of(answers: Answers, shown: Lesson) -> Tensor:
    """What has no name should be any of the kinds alike, and says nothing of colours and sides."""
    named = shown.category >= 0
    colour = F.cross_entropy(answers.colour[named].flatten(0, 1), shown.colour[named].flatten(), ignore_index=-1)
    turn = turn_error(answers.turn, shown.azimuth_deg)[named].mean()
    lean = turn_error(answers.lean, shown.lean_deg)[named].mean()
    kind = F.cross_entropy(answers.category[named], shown.category[named])
    if bool(named.all()):
        return kind + turn + colour + lean
    return kind + turn + colour + lean - 0.2 * answers.category[~named].log_softmax(-1).mean()


@torch.no_grad()
def figures(reader: Reader, plan: ReaderPlan, batches: int = 16, strange: bool = False) -> dict[str, float]:
    """Of held-out objects: how often the category and both colours are right; of those with a front, how far off the
    azimuth is. `strange`: in other styles than the world's, and leaning."""
    found: dict[str, list[Tensor]] = {"category": [], "colours": [], "apart": [], "leaning": []}
    for index in range(batches):
        shown = draw_shown(plan, index, True, strange)
        answers = reader(shown.picture)
        right = (answers.colour.argmax(-1) == shown.colour) | (shown.colour < 0)
        apart = torch.remainder(azimuth_of(answers.turn) - shown.azimuth_deg + 180.0, 360.0) - 180.0
        found["category"].append((answers.category.argmax(-1) == shown.category).float())
        found["colours"].append(right.all(-1).float())
        found["apart"].append(apart.abs()[shown.fronted])
        leaning = torch.remainder(azimuth_of(answers.lean) - shown.lean_deg + 180.0, 360.0) - 180.0
        found["leaning"].append(leaning.abs())
    category, colours, apart, leaning = (torch.cat(found[name]) for name in found)
    return {
        "category": float(category.mean()),
        "both_colours": float(colours.mean()),
        "degrees_off_median": float(apart.median()),
        "within_20_degrees": float((apart < 20).float().mean()),
        "lean_off_median": float(leaning.median()),
    }


@torch.no_grad()
def calibrated(reader: Reader, plan: ReaderPlan, batches: int = 8) -> float:
    """The temperature at which the probabilities of kinds, as they are read (the mean over several looks), are nearest
    to the truth of held-out pictures, half of them in other styles."""
    seen, right = [], []
    for index in range(batches):
        shown = draw_shown(plan, index, True, index % 2 == 1)
        cover = (shown.picture[..., 3:] + 1) / 2
        rgb = (shown.picture[..., :3] + cover) / 2
        seen.append(torch.stack([each.category for each in looked_at(reader, torch.cat([rgb, cover], -1))]))
        right.append(shown.category)
    logits, kinds = torch.cat(seen, 1), torch.cat(right)

    def surprise(temperature: float) -> float:
        return float(F.nll_loss((logits / temperature).softmax(-1).mean(0).clamp(min=1e-9).log(), kinds))

    return min((0.3 + 0.05 * i for i in range(40)), key=surprise)


class Schooling:
    """A reader in training and its folder: plan.json, state.safetensors, log.jsonl, reader.safetensors."""

    def __init__(self, folder: Path, plan: ReaderPlan) -> None:
        self.folder, self.plan = folder, plan
        self.step, self.seen = 0, 0  # a run may change its batch when it is resumed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(plan.seed, "reader weights") % 2**63)
            self.reader = Reader(known())
        self.reader.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        hidden, rest = split(self.reader)
        self.optimisers = (
            Muon(hidden, plan.rate),
            torch.optim.AdamW(rest, plan.rate, betas=(0.9, 0.99), weight_decay=0.01),
        )

    def start_from(self, path: Path) -> None:
        """Take over the weights of another reader; questions that it does not know begin anew."""
        if not path.is_file():
            raise InputError(f"{path}: there is no reader here to start from")
        held = tensors.unpacked(path, "reader")[1]
        for name, value in self.reader.state_dict().items():
            if name in held:
                value[: len(held[name])] = held[name]

    def train_step(self) -> float:
        shown = draw_shown(self.plan, self.step)
        for group in (group for each in self.optimisers for group in each.param_groups):
            group["lr"] = self.plan.rate_at(self.seen)
        with mixed_precision(shown.picture.device):
            answers = self.reader(shown.picture)
        loss = loss_of(answers, shown)
        self.reader.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.reader.parameters(), 1.0)
        for each in self.optimisers:
            each.step()
        self.step, self.seen = self.step + 1, self.seen + self.plan.batch
        return loss.item()

    def save(self) -> None:
        held = {f"reader.{name}": value for name, value in self.reader.state_dict().items()}
        held |= moments(self.reader, self.optimisers)
        state = tensors.packed(held, "counters", {"step": self.step, "seen": self.seen})
        own = packed(self.reader, {"images": self.seen, "seed": self.plan.seed})
        with disk_errors("saving the training state", self.folder):
            write_atomic(self.folder / STATE, state)
            write_atomic(self.folder / FILE, own)

    def restore(self) -> None:
        counters, held = tensors.unpacked(self.folder / STATE, "counters")
        self.step, self.seen = counters["step"], counters["seen"]
        own = {name.removeprefix("reader."): value for name, value in held.items() if name.startswith("reader.")}
        self.reader.load_state_dict(own)
        remember(self.reader, self.optimisers, held)

    def log(self, **line: float) -> None:
        rounded = {"images": self.seen} | {name: round(value, 5) for name, value in line.items()}
        with disk_errors("writing the log", self.folder), (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")

    def train(self, minutes: float, stopping: Callable[[], bool]) -> None:
        """Until the plan's total, the time, or a signal; always ends with a saved state."""
        end, rhythm, losses, since = time.monotonic() + 60 * minutes, Rhythm(), [], time.monotonic()
        while self.seen < self.plan.total and time.monotonic() < end and not stopping():
            losses.append(self.train_step())
            if rhythm.now("log"):
                rate = len(losses) * self.plan.batch / (time.monotonic() - since)
                self.log(rate=self.plan.rate_at(self.seen), images_per_s=rate, loss=sum(losses) / len(losses))
                losses, since = [], time.monotonic()
            if rhythm.now("save"):
                self.save()
            if rhythm.now("sheet"):
                self.log(**figures(self.reader, self.plan, 4))
        self.reader.temperature = calibrated(self.reader, self.plan)
        self.save()
        if not stopping():
            self.log(temperature=self.reader.temperature)
            self.log(**figures(self.reader, self.plan))
            self.log(**{f"styled_{k}": v for k, v in figures(self.reader, self.plan, strange=True).items()})


def begin(
    folder: Path, *, minutes: float, resume: bool, changes: Mapping[str, int | float], start: Path | None = None
) -> int:
    """Start, from the weights of another reader if one is named, or go on with a run; the exit code."""
    plan = opened(ReaderPlan, "reader", folder, resume, changes)
    run = Schooling(folder, plan)
    if resume:
        run.restore()
    elif start is not None:
        run.start_from(start / FILE)
    with catching() as stop:
        run.train(minutes, lambda: stop.requested)
    return stop.exit_code if stop.requested else 0
