# SPDX-License-Identifier: Apache-2.0
"""Why a 2D prior paints the front on every side, and what helps: views as free pictures, a camera-blind exact score.

The world shows one object, bright from the front, gray from the sides, dark from behind. The blind model has seen it
from eight azimuths, the front most often. No 3D consistency helps here, which makes the score's own bias plain.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.prompting import Asking, Prompting
from dreamlab.core.schedules import Progress, constant, ramp
from dreamlab.core.types import Frames, Prompt
from dreamlab.run.worlds import with_blind
from guidance.oracle import Oracle
from guidance.shared.worlds import Views, World
from systems.engine.residual import Look
from systems.jsd import JSD
from systems.sds import SDS

AZIMUTHS = [0.0, 45.0, 90.0, 135.0, 180.0, -135.0, -90.0, -45.0]
CFG = constant(2.0)


def level(azimuth_deg: torch.Tensor) -> torch.Tensor:
    """Gray of the picture that belongs to an azimuth."""
    return 0.5 + 0.4 * torch.deg2rad(azimuth_deg).cos()


def world(prompt: Prompt) -> World:
    def look(cameras: Cameras, size: int) -> Views:
        alpha = torch.ones(1, len(cameras), size, size, 1)
        return Views(level(cameras.azimuth_deg)[None, :, None, None, None] * alpha.expand(-1, -1, -1, -1, 3), alpha)

    log = torch.zeros(1)
    return with_blind(World(log, log, log, look), sides=8)


def wrong(rule: Any, how: Prompting) -> float:
    """Mean error of the views' grays after descent; 0.4 is a front painted on every side."""
    oracle, cameras = Oracle(Oracle.Settings(spread=0.1, sides=8), world), orbit(AZIMUTHS)
    blank = torch.zeros(8, 4, 4, 1)
    frames = Frames(blank.expand(-1, -1, -1, 3), blank + 1, blank, torch.zeros(8, 3))
    conditions = oracle.condition(Prompt("x"), cameras, frames)
    streams = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    asking, z = Asking(how), 0.3 * torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for i in range(150):
        seen = Look(oracle, z, conditions, Progress(i, 150), *streams, frames, cameras, asking)
        z = z - 0.1 * rule.gradient(seen).clamp(-1, 1)
    return float(((z.mean((1, 2, 3)) + 1) / 2 - level(torch.tensor(AZIMUTHS))).abs().mean())


def sds() -> SDS:
    return SDS(SDS.Settings(cfg=CFG, weight="uniform", t_min=ramp(0.9, 0.05), t_max=ramp(0.95, 0.1)))


BLIND = wrong(sds(), Prompting(camera=False))


def test_a_blind_prior_paints_the_front_everywhere_and_a_camera_ends_it() -> None:
    assert BLIND > 0.3 and wrong(sds(), Prompting()) < 0.03


@pytest.mark.parametrize("views", ["hard", "blend"])
def test_words_of_direction_put_most_of_it_right(views: str) -> None:
    assert wrong(sds(), Prompting(camera=False, views=views)) < 0.5 * BLIND


def test_perp_neg_alone_helps_and_with_words_does_no_harm() -> None:
    alone = wrong(sds(), Prompting(camera=False, perp_neg=1.0))
    words = wrong(sds(), Prompting(camera=False, views="hard", perp_neg=1.0))
    assert alone < BLIND and words < 0.5 * BLIND, (alone, words, BLIND)


def test_jsd_lets_a_camera_aware_model_correct_a_blind_one() -> None:
    settings = {"cfg": CFG, "weight": "uniform", "t_min": ramp(0.9, 0.05), "t_max": ramp(0.95, 0.1)}
    without = wrong(JSD(JSD.Settings(**settings, coupling=constant(0.0))), Prompting())
    joint = wrong(JSD(JSD.Settings(**settings, coupling=constant(5.0))), Prompting())
    assert math.isclose(without, BLIND, abs_tol=0.1) and joint < 0.5 * without, (without, joint)
