# SPDX-License-Identifier: Apache-2.0
"""What the oracle knows: the prompt's object among a few others, drawn from the procedural world on demand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.streams import derive
from dreamlab.core.types import Prompt
from dreamlab.toybox.caption import Caption, programs_for
from dreamlab.toybox.draw import Pictures, draw
from dreamlab.toybox.program import Program, stack
from dreamlab.toybox.shapes import CATEGORIES, finishes, program
from dreamlab.toybox.understand import understand
from guidance.shared.worlds import Mixing, Views, World, Worlds


def worlds_of(seed: int) -> Worlds:
    """The worlds of a run, drawn when a guidance asks."""
    return Worlds(lambda prompt, wanted: oracle_world(prompt, wanted, seed), lambda prompt: true_pictures(prompt, seed))


def oracle_world(prompt: Prompt, settings: Mixing, seed: int) -> World:
    """`instances` objects that the prompt describes, and `others` of other categories in their usual colours."""
    caption = understand(prompt.text)
    first = derive(seed, "instance") % 10_000
    wanted = [programs_for(caption, first + i) for i in range(settings.instances)]
    rest = sorted(set(CATEGORIES) - {caption.category}, key=lambda name: derive(seed, "other", name))
    others = [program(name, seed=first) for name in rest[: settings.others]]
    shown = styled(caption, understand(settings.style, "style"), first) if settings.style else []
    objects = stack(wanted + others + shown)
    total = len(wanted) + len(others) + len(shown)

    moving = [moments_of(caption, first + i) for i in range(settings.instances)]

    def evenly(begin: int, count: int) -> Tensor:
        """[K] log-probabilities: the same for `count` objects from `begin` on, none for the rest."""
        log = torch.full((total,), -math.inf)
        log[begin : begin + count] = -math.log(max(count, 1))
        return log

    log_null, log_text = evenly(0, total), evenly(0, len(wanted))
    log_negative = evenly(len(wanted), len(others)) if others else log_null
    more: dict[str, Tensor] = {}
    if len(wanted) > 1:
        more |= {"control": evenly(0, 1), "control_null": evenly(0, 1), "category": log_text}
    if shown:
        more |= {"content": evenly(total - 2, 1), "style": evenly(total - 1, 1)}

    def look(cameras: Cameras, size: int) -> Views:
        seen = draw(objects.to(cameras.camera_to_world.device), cameras, size)
        if caption.action is None or cameras.time is None:
            return Views(seen.rgb, seen.alpha)
        shown = [at_their_times(at, cameras, size) for at in moving]
        rgb, alpha = ([getattr(one, name) for one in (*shown, seen)] for name in ("rgb", "alpha"))
        rgb[-1], alpha[-1] = rgb[-1][len(wanted) :], alpha[-1][len(wanted) :]
        return Views(torch.cat(rgb), torch.cat(alpha))

    world = World(log_text, log_null, log_negative, look, more)
    return world if settings.sides == 0 else with_blind(world, settings.sides)


def styled(caption: Caption, style: Caption, seed: int) -> list[Program]:
    """What a style picture shows, and the prompt's object in its colours, part by part."""
    palette = list(style.colours.values())
    parts = finishes(CATEGORIES[caption.category], caption.finishes)
    dyed = {part: replace(finish, colour=palette[i % len(palette)]) for i, (part, finish) in enumerate(parts.items())}
    return [programs_for(style, seed), programs_for(replace(caption, finishes=dyed), seed)]


FAVOUR, WORD = 1.5, 4.0  # how strongly a 2D model prefers the front, and how strongly a word of direction is heard


def with_blind(world: World, sides: int) -> World:
    """The same world, and beside it a model that is not told the camera: it has seen each object from `sides` azimuths,
    the front most often (p ~ exp(FAVOUR cos azimuth)), and hears words of direction (p times exp(WORD cos (azimuth -
    the word's))). It is why 2D priors paint a face on every side."""
    azimuth_deg = torch.arange(sides) * (360.0 / sides)
    turn = torch.deg2rad(azimuth_deg)
    favour = FAVOUR * turn.cos()
    aside = torch.logaddexp(WORD * turn.sin(), -WORD * turn.sin())
    level = torch.zeros_like(turn)
    tilt = {"blind": level, "front": WORD * turn.cos(), "side": aside, "back": -WORD * turn.cos(), "overhead": level}
    count = len(world.log_text)

    def padded(log: Tensor, blind: Tensor | None = None) -> Tensor:
        """[K + K A]: the camera-aware pictures first; the model in question sees only its own part."""
        if blind is None:
            return torch.cat([log, torch.full((count * sides,), -math.inf)])
        return torch.cat([torch.full((count,), -math.inf), (log[:, None] + blind.log_softmax(0)).flatten()])

    def look(cameras: Cameras, size: int) -> Views:
        shown = world.look(cameras, size)
        around = orbit(
            azimuth_deg.to(cameras.azimuth_deg).repeat(len(cameras)),
            cameras.elevation_deg.repeat_interleave(sides),
            cameras.distance.repeat_interleave(sides),
            cameras.fovy_deg.repeat_interleave(sides),
        )
        seen = world.look(around, size)

        def beside(own: Tensor, other: Tensor) -> Tensor:  # [K, B, ...], [K, B A, ...] -> [K + K A, B, ...]
            turned = other.unflatten(1, (len(cameras), sides)).transpose(1, 2).flatten(0, 1)
            return torch.cat([own, turned])

        return Views(beside(shown.rgb, seen.rgb), beside(shown.alpha, seen.alpha))

    more = {name: padded(log) for name, log in world.more.items()}
    more |= {name: padded(world.log_text, favour + shift) for name, shift in tilt.items()}
    more["blind_null"] = padded(world.log_null, favour)
    text, null, negative = (padded(log) for log in (world.log_text, world.log_null, world.log_negative))
    return World(text, null, negative, look, more)


def true_pictures(prompt: Prompt, seed: int) -> Callable[[Cameras, int], Pictures]:
    """What the cameras see of the prompt's object: one picture each, [1, B, ...], at the cameras' times if it moves."""
    caption = understand(prompt.text)
    instance = derive(seed, "instance") % 10_000

    at = moments_of(caption, instance)

    def look(cameras: Cameras, size: int) -> Pictures:
        if caption.action is None or cameras.time is None:
            return draw(at(0.0).to(cameras.camera_to_world.device), cameras, size)
        return at_their_times(at, cameras, size)

    return look


def moments_of(caption: Caption, instance: int) -> Callable[[float], Program]:
    """The object at a time in [0, 1]; times that come again are remembered."""
    return lru_cache(maxsize=1024)(lambda time: programs_for(caption, instance, [time]))


def at_their_times(at: Callable[[float], Program], cameras: Cameras, size: int) -> Pictures:
    """[1, B, ...] a moving object from each camera, at that camera's time."""
    assert cameras.time is not None
    moments = stack([at(time) for time in cameras.time.tolist()])
    shown = draw(moments.to(cameras.camera_to_world.device), cameras, size, per_program=True)
    return Pictures(*(value.transpose(0, 1) for value in vars(shown).values()))
