# SPDX-License-Identifier: Apache-2.0
"""The view schedule of image-to-3D: how many of a step's views are the picture's own camera, and how far the others may
stand from it.

A prompt's picture has one camera. A share of each step's views is taken from it, for terms that compare with the
picture; the others are for terms that imagine. Their ranges of azimuth and elevation grow from the picture's camera to
the orbit's own (threestudio's progressive view, as DreamCraft3D uses it, Sun et al. 2023, arXiv:2310.16818).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from dreamlab.core.cameras import GOLDEN, Cameras, OrbitSettings, sample_orbit
from dreamlab.core.errors import InputError
from dreamlab.core.schedules import Progress, Schedule, constant
from dreamlab.core.settings import setting
from dreamlab.core.types import Reference

WHICH = ("all", "given", "others")


@dataclass(frozen=True)
class GivenViews:
    """How the prompt's picture shares in the views of a stage."""

    share: Schedule = setting(constant(0.0), low=0, high=1, help="of a step's views: the picture's own camera")
    widen: Schedule = setting(
        constant(1.0), low=0, high=1, help="of the orbit's ranges that the other views use; 0: at the picture's camera"
    )
    views: int = setting(0, low=0, high=64, help="so many of every step's views, in place of a share")

    @property
    def used(self) -> bool:
        return self.some or min(self.widen.values) < 1

    @property
    def some(self) -> bool:
        return self.views > 0 or max(self.share.values) > 0

    def always(self, views: int) -> int | None:
        """How many of a step's views are the picture's; None where that changes from step to step."""
        share = self.share.values
        own = share[0] * views
        return self.views or (round(own) if min(share) == max(share) and own == round(own) else None)


def given_count(share: float, views: int, step: int) -> int:
    """Whole views whose mean over the steps is share x views: the fraction is rounded by a golden sequence, not drawn.

    One view and a share of 1/2 is the alternation of DreamCraft3D.
    """
    return min(math.floor(share * views + math.fmod(step * GOLDEN, 1.0)), views)


def narrowed(orbit: OrbitSettings, camera: Cameras, widen: float) -> OrbitSettings:
    """The orbit with its ranges of azimuth and elevation shrunk towards `camera`; a whole circle is centred on it."""
    if widen >= 1:
        return orbit
    azimuth, elevation = float(camera.azimuth_deg[0]), float(camera.elevation_deg[0])
    west, east = orbit.azimuth_deg
    if east - west >= 360:
        west, east = azimuth - 180, azimuth + 180

    def shrunk(centre: float, low: float, high: float) -> tuple[float, float]:
        return centre + widen * (low - centre), centre + widen * (high - centre)

    around = shrunk(azimuth, west, east)
    return replace(orbit, azimuth_deg=around, elevation_deg=shrunk(elevation, *orbit.elevation_deg))


def sample_views(
    orbit: OrbitSettings,
    given: GivenViews,
    views: int,
    reference: Reference | None,
    progress: Progress,
    stream: torch.Generator,
) -> tuple[Cameras, int]:
    """The cameras of a step, the picture's own first, and how many those are."""
    if not given.used:
        return sample_orbit(orbit, views, stream), 0
    if reference is None:
        raise InputError("given: the prompt has no picture to take views from; give one with --image")
    own = min(given.views, views) or given_count(given.share.at(progress), views, progress.step)
    others = narrowed(orbit, reference.camera, given.widen.at(progress))
    if own == 0:
        return sample_orbit(others, views, stream), 0
    first = reference.camera[torch.zeros(own, dtype=torch.long)]
    return (joined(first, sample_orbit(others, views - own, stream)) if own < views else first), own


def joined(first: Cameras, rest: Cameras) -> Cameras:
    """One batch of two; cameras without a time stand at 0 beside those that have one."""
    fields = {
        name: torch.cat([value, getattr(rest, name)]) for name, value in vars(first).items() if name != "time"
    }  # fmt: skip
    if first.time is None and rest.time is None:
        return Cameras(**fields)
    times = [torch.zeros_like(part.fovy_deg) if part.time is None else part.time for part in (first, rest)]
    return Cameras(**fields, time=torch.cat(times))


def chosen(which: str, sample: int, views: int, given: int, stream: torch.Generator) -> list[int] | None:
    """The rows of a step that a term sees (None: all): the picture's own, the others, or `sample` drawn among them."""
    rows = {"all": range(views), "given": range(given), "others": range(given, views)}[which]
    if 0 < sample < len(rows):
        drawn = torch.randperm(len(rows), generator=stream)[:sample]
        return [rows[i] for i in drawn.sort().values.tolist()]
    return None if len(rows) == views else list(rows)
