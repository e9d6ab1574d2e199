# SPDX-License-Identifier: Apache-2.0
"""Batches of every role, drawn on the fly: batch `index` of a plan is a pure function of (seed, index).

So a resumed run needs no state of the data, and drawing ahead in a thread changes nothing. Whatever
`dreamlab.toybox.split` holds out is drawn again; it is asked with the second part's true colour, named or not.
"""

from __future__ import annotations

import itertools
import queue
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.streams import derive
from dreamlab.toybox.caption import RELATIONS, Caption
from dreamlab.toybox.category import Category, draft
from dreamlab.toybox.colours import COLOURS, MATERIALS, PATTERNS, Finish
from dreamlab.toybox.draw import draw
from dreamlab.toybox.grammar import PHRASINGS as SENTENCES
from dreamlab.toybox.grammar import Said, look_of, say
from dreamlab.toybox.motion import ACTIONS, animate, can
from dreamlab.toybox.program import Program, Sketch, stack
from dreamlab.toybox.shapes import CATEGORIES, finishes
from dreamlab.toybox.split import held_out_combination, held_out_instance, phrasings
from dreamlab.toybox.training.plan import Plan
from dreamlab.toybox.training.roles import GIVEN, ROLES, cameras_of, clip_times, graded, misread, told
from guidance.toybox.prior import padded
from guidance.toybox.told import CAMERA_FEATURES, hint_of, hint_of_picture
from guidance.toybox.words import Words

PHRASINGS, HELD_PHRASINGS = phrasings()
UNTRAINED = tuple(RELATIONS)  # scenes of two objects are not drawn for any role
# Drawn twice as often as others: 1,223,760 pictures had taught one of two held-out prompts.
HARD = ("apple", "book", "bus", "mug", "submarine", "whale")
DRAWN = (*CATEGORIES, *HARD)


@dataclass(frozen=True)
class Drawn:
    """One object of a batch: what is said of it and what it is."""

    caption: Caption
    text: str
    instance: int
    times: tuple[float, ...] = (0.0,)  # of an action, one for each frame


@dataclass(frozen=True)
class Batch:
    """Pictures with what the network is told of them."""

    rgb: Tensor  # [B, S, S, 3] sRGB over a solid background
    weight: Tensor  # [B, S, S] of the loss: 1 + alpha + extra where parts other than the main one project
    ids: Tensor  # [B, L] words
    camera: Tensor  # [B, features of camera and moment]
    shown: Tensor  # [B, S, S, SHOWN] what is there, without a background
    graded: Tensor  # [B] bool: whose error counts; the others are given without noise
    joint: int = 1  # rows that follow one another and see each other
    hint: Tensor | None = None  # [B, S, S, HINT_CHANNELS]
    novel: bool = False  # the given pictures are all that is told of the objects, and can be withheld as hints can


def vocabulary() -> Words:
    return Words.of_world(UNTRAINED)


@lru_cache(maxsize=512)
def _instances(name: str, count: int, held_out: bool) -> tuple[int, ...]:
    return tuple(seed for seed in range(count) if held_out_instance(name, seed) == held_out)


def draw_caption(rng: random.Random, plan: Plan, held_out: bool = False) -> Drawn:
    """A caption, phrasing and instance of the training split; `held_out`: of the other side in all three."""
    while True:  # a category with a single part may have nothing held out
        category = CATEGORIES[rng.choice(tuple(CATEGORIES) if held_out else DRAWN)]
        chosen = draw_finishes(rng, category, plan)
        if _held_out(category, chosen) == held_out:
            break
    instance = rng.choice(_instances(category.name, plan.instances, held_out))
    action = None
    if rng.random() < plan.share["action"]:
        action = rng.choice([name for name in ACTIONS if can(category, name)])
    caption = Caption(category.name, chosen, action=action)
    return Drawn(caption, words_of(rng, caption, plan, held_out), instance, (rng.random(),))


def _held_out(category: Category, chosen: dict[str, Finish]) -> bool:
    """Asked with the colours that the first two parts really have, named or usual."""
    colours, parts = finishes(category, chosen), category.nameable
    second = colours[parts[1]].colour if len(parts) > 1 else None
    return held_out_combination(category.name, colours[category.main].colour, second)


def draw_finishes(rng: random.Random, category: Category, plan: Plan) -> dict[str, Finish]:
    """Finishes of the parts a caption will name."""
    share, parts = plan.share, category.nameable
    kinds = ("bare", "main", "both", "three")
    count = kinds.index(rng.choices(kinds, [share[kind] for kind in kinds])[0])
    named = list(parts[: min(count, 2)])
    others = [part for part in category.parts if part not in named]
    if count == 3 and others:
        named.append(rng.choice(others))
    return {part: draw_finish(rng, share) for part in named}


def words_of(rng: random.Random, caption: Caption, plan: Plan, held_out: bool) -> str:
    """The caption in a phrasing of its side of the split."""
    phrasing = rng.choice(HELD_PHRASINGS if held_out else PHRASINGS)
    if caption.action or not caption.finishes or rng.random() >= plan.share["named"]:
        return say(caption, phrasing)
    parts = tuple((part, look_of(finish)) for part, finish in caption.finishes.items())
    return SENTENCES[phrasing](Said(caption.category, "", parts))


def draw_finish(rng: random.Random, share: dict[str, float]) -> Finish:
    finish = Finish(rng.choice(tuple(COLOURS)))
    if rng.random() < share["pattern"]:
        other = rng.choice([colour for colour in COLOURS if colour != finish.colour])
        finish = replace(finish, pattern=rng.choice(PATTERNS[1:]), second=other)
    if rng.random() < share["material"]:
        finish = replace(finish, material=rng.choice([name for name in MATERIALS if name != "matte"]))
    return finish


@lru_cache(maxsize=40_000)
def _shape(name: str, instance: int) -> Program:
    """An instance in its usual colours; sketching costs more than drawing, so the tables are kept."""
    category = CATEGORIES[name]
    return draft(category, instance).pack(finishes(category, {}))


@lru_cache(maxsize=20_000)
def _part_row(finish: Finish) -> Tensor:  # [1, 1, PART]
    dot = Sketch()
    dot.sphere("dot", (0.0, 0.0, 0.0), 1.0)
    return dot.pack({"dot": finish}, fit=None).parts


def program_of(drawn: Drawn) -> Program:
    caption = drawn.caption
    category = CATEGORIES[caption.category]
    if caption.action:
        return animate(category, caption.action, drawn.times, caption.finishes, drawn.instance)
    rows = [_part_row(finish) for finish in finishes(category, caption.finishes).values()]
    return replace(_shape(category.name, drawn.instance), parts=torch.cat(rows, 1))


def draw_background(count: int, generator: torch.Generator) -> Tensor:  # [count, 3]
    """Any solid colour (as the recipes' renders have), gray, or white."""
    colour = torch.rand(count, 3, generator=generator)
    kind = torch.rand(count, 1, generator=generator)
    return torch.where(kind < 0.7, colour, torch.where(kind < 0.9, colour[:, :1], torch.ones(1)))


def render(
    objects: list[Drawn], cameras: Cameras, background: Tensor, size: int, second_weight: float | None, device: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures [B, S, S, 3], loss weights [B, S, S] (even, if `second_weight` is None), hints, and what is there.

    The cameras are groups, one for each object or frame.
    """
    programs = stack([program_of(one) for one in objects]).to(device)
    cameras = cameras.to(device)
    shown = draw(programs, cameras, size, per_program=True)
    rgb = shown.over(background.to(device).reshape(len(programs), -1, 1, 1, 3)).flatten(0, 1)
    weight = torch.ones_like(shown.alpha[..., 0])
    if second_weight is not None:
        weight = weight + shown.alpha[..., 0] + second_weight * (shown.part > 0)  # the main part's id is 0
    hint = hint_of(shown.depth.flatten(0, 1), shown.normal.flatten(0, 1), shown.alpha.flatten(0, 1), cameras)
    colour, second = shown.rgb.flatten(0, 1), (shown.part == 1).flatten(0, 1)[..., None]
    there = torch.cat([colour, hint[..., 4:5], hint[..., :4], second.to(colour)], -1)
    return rgb, weight.flatten(0, 1), hint, there


def draw_batch(
    plan: Plan,
    words: Words,
    index: int,
    size: int,
    device: str = "cpu",
    held_out: bool = False,
    weighted: bool = True,
) -> Batch:
    """Batch `index` of a plan of one role (see `Plan.task`)."""
    rng = random.Random(derive(plan.seed, "captions", index, held_out))  # noqa: S311
    generator = torch.Generator().manual_seed(derive(plan.seed, "views", index, held_out))
    joint, count = plan.joint, plan.batch
    objects = [draw_caption(rng, plan, held_out) for _ in range(count // plan.views)]
    ids = padded([words.encode(words.read(one.text), plan.net.longest) for one in objects])
    cameras = cameras_of(plan.role, count, joint, generator)
    background = draw_background(count, generator)
    if joint > 1:  # a group stands before one colour; of views, whose runs may differ in that, half of the groups
        shared = 0.5 if plan.role == "views" else 1.0
        same = (torch.rand(count // joint, generator=generator) < shared).repeat_interleave(joint)
        background = torch.where(same[:, None], background[torch.arange(count) // joint * joint], background)
    if ROLES[plan.role].moments:
        times = clip_times(count, joint, generator)
        cameras = replace(cameras, time=times)
        clips = times.unflatten(0, (-1, joint)).tolist()
        objects = [replace(one, times=tuple(clip)) for one, clip in zip(objects, clips, strict=True)]
    camera = told(plan.role, misread(cameras, joint, generator) if plan.role == "novel" else cameras)
    extra = plan.second_weight if weighted else None
    rgb, weight, hint, there = render(objects, cameras, background, size, extra, device)
    if plan.role == "novel":  # the hint is the given picture in place of the surface
        hint = hint_of_picture(2 * rgb[torch.arange(count) // joint * joint] - 1)
    return Batch(
        rgb,
        weight,
        ids.repeat_interleave(plan.views, 0).to(device),
        F.pad(camera, (0, CAMERA_FEATURES + 2 * plan.net.moments - camera.shape[1])).to(device),
        there,
        graded(plan.role, count, joint, 0.0 if held_out else GIVEN, generator).to(device),
        joint,
        hint if plan.net.hint else None,
        novel=plan.role == "novel",
    )


def in_turn(plan: Plan, words: Words, first: int, seen: int, device: str) -> Iterator[Batch]:
    """Batches `first`, `first` + 1, ... each drawn when it is asked for; `seen` pictures came before them."""
    for i in itertools.count():
        now = seen + i * plan.batch
        size = plan.size_at(now, first + i)
        yield draw_batch(plan.task(first + i), words, first + i, size, device, weighted=plan.weighted_at(now))


@contextmanager
def ahead(plan: Plan, words: Words, first: int, seen: int, device: str, depth: int = 3) -> Iterator[Iterator[Batch]]:
    """The same, drawn in a thread, at most `depth` ahead: for a device that computes while the host draws. Where both
    share the cores they only get in each other's way (measured on two: 18 % more time a step than in turn)."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(depth)
    stop, threads = threading.Event(), torch.get_num_threads()

    def offer(item: Batch | BaseException) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def work() -> None:
        torch.set_num_threads(threads)  # the count belongs to a thread
        try:
            for batch in in_turn(plan, words, first, seen, device):
                offer(batch)
                if stop.is_set():
                    break
        except BaseException as error:  # handed to the loop, which raises it
            offer(error)

    def batches() -> Iterator[Batch]:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=work, name="toybox-data", daemon=True)
    thread.start()
    try:
        yield batches()
    finally:
        stop.set()
        thread.join()
