# SPDX-License-Identifier: Apache-2.0
"""The roles of the prior: what each is shown and told beside noise, and from where its pictures are taken.

image    one picture, told a caption and a camera
views    four pictures of one object around it, seen together (joint attention, as in MVDream, Shi et al. 2023)
control  one picture, told depth, normals and mask besides (as ControlNet is, Zhang et al. 2023)
novel    a clean picture and one of the same object from elsewhere; mostly told a caption, and where both were taken
         from, half of the time not quite rightly: in use both are read off the picture (`guidance.toybox.reader`)
video    eight frames of an action at even times of its period, from one camera

One network can be trained for one of them, or for every one: then each batch belongs to a role drawn by MIX, and all
roles teach the same trunk what the world looks like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, OrbitSettings, orbit, sample_orbit
from guidance.toybox.roles import ToyboxNovel, ToyboxVideo, ToyboxViews
from guidance.toybox.told import HINT_CHANNELS, camera_features, moment_features

# The defaults of a recipe's cameras (distance 3-3.6, field of view 38-46, elevation -10..60) with a margin around.
VIEWS = OrbitSettings((2.8, 3.8), (36.0, 48.0), (-15.0, 65.0), "mix", stratified=False)
MOMENTS = 3


@dataclass(frozen=True)
class Role:
    """What a role adds to the image role."""

    joint: int = 1  # pictures that see each other, in rows that follow one another
    hint: int = 0
    moments: int = 0
    drop_text: float = 0.1
    drop_camera: float = 0.1
    drop_hint: float = 0.7  # in a run for every role; it costs nothing to tell some of all pictures their surface
    share: Mapping[str, float] = field(default_factory=dict)  # of captions, where it differs
    across: bool = False  # a network for it alone looks across at a quarter of the pictures' size, too
    same_noise: float = 0.0  # of its groups have one noise for all their pictures
    pairs: float = 0.0  # of its batches hold groups of two: as many objects more as the groups are smaller
    alone: Mapping[str, float] = field(default_factory=dict)  # fields of the plan of a run for it alone, on a CPU


FALLING = {"rate": 2.2e-3, "cooldown": 0.85}
ROLES = {
    "image": Role(),
    "views": Role(ToyboxViews.together),
    "control": Role(hint=HINT_CHANNELS, drop_hint=0.1),
    "novel": Role(
        ToyboxNovel.together,
        hint=HINT_CHANNELS,
        drop_text=0.2,
        drop_camera=0.0,
        drop_hint=0.1,
        across=True,
        alone={"total": 122_000, "head_after": 91_000, "shape_for": 64_000} | FALLING,
    ),
    "video": Role(
        ToyboxVideo.together,
        moments=MOMENTS,
        share={"action": 1.0},
        pairs=0.7,
        across=True,
        same_noise=0.5,
        alone={"total": 144_000, "head_after": 122_000, "shape_for": 105_000} | FALLING,
    ),
}
# Of the batches of every role. The shipped weights saw 0.42, 0.28, 0.06, 0.14, 0.10 since the volume: what is left to
# learn is to take a shape from a picture, and to move.
MIX = {"image": 0.28, "views": 0.20, "control": 0.08, "novel": 0.26, "video": 0.18}
OFF_DEG = 6.0  # deviation of the misread groups
GIVEN = 0.25  # of the groups of views and of frames have a clean first picture


def cameras_of(role: str, count: int, joint: int, generator: torch.Generator) -> Cameras:
    """`count` cameras in groups of `joint`."""
    free = sample_orbit(VIEWS, count, generator)
    if role not in ("views", "video"):
        return free
    groups = count // joint
    first = free[torch.arange(groups).repeat_interleave(joint) * joint]
    if role == "video":
        return first
    # Around the object in equal turns, a little off; half of the groups share elevation and lens, as in MVDream.
    turn = torch.arange(count) % joint * (360.0 / joint) + 30.0 * (torch.rand(count, generator=generator) - 0.5)
    same = (torch.rand(groups, generator=generator) < 0.5).repeat_interleave(joint)
    elevation, distance, fovy = (
        torch.where(same, getattr(first, name), getattr(free, name))
        for name in ("elevation_deg", "distance", "fovy_deg")
    )
    return orbit(first.azimuth_deg + turn, elevation, distance, fovy)


def told(role: str, cameras: Cameras) -> Tensor:  # [B, features]
    """What the network is told of its cameras; `time` of a camera is told where the role has moments."""
    features = camera_features(cameras)
    if ROLES[role].moments:
        time = cameras.time if cameras.time is not None else torch.zeros(len(cameras))
        features = torch.cat([features, moment_features(time.to(features), ROLES[role].moments)], -1)
    return features


def misread(cameras: Cameras, joint: int, generator: torch.Generator) -> Cameras:
    """Half of the groups turned together by some degrees: what a reader makes of the side that a picture shows."""
    groups = len(cameras) // joint
    off = OFF_DEG * torch.randn(groups, generator=generator) * (torch.rand(groups, generator=generator) < 0.5)
    return replace(cameras, azimuth_deg=cameras.azimuth_deg + off.repeat_interleave(joint))


def clip_times(count: int, joint: int, generator: torch.Generator) -> Tensor:
    """[count] in [0, 1): each group runs through one period from a random start; two frames are any two."""
    start = torch.rand(count // joint, generator=generator).repeat_interleave(joint)
    if joint == 2:
        return torch.where(torch.arange(count) % 2 == 0, start, torch.rand(count, generator=generator))
    return torch.remainder(start + torch.arange(count) % joint / joint, 1.0)


def graded(role: str, count: int, joint: int, share: float, generator: torch.Generator) -> Tensor:
    """[count] bool: the pictures whose error counts. The others are given, clean: the first of every novel group, and
    of a share of other roles' groups, so that they teach the same paths from a given picture to the rest."""
    given = torch.rand(count // joint, generator=generator) < (1.0 if role == "novel" else share)
    first = torch.arange(count) % joint == 0
    return ~(first & given.repeat_interleave(joint) & (joint > 1))
