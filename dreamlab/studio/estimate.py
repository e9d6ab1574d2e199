# SPDX-License-Identifier: Apache-2.0
"""How long a job will take: as long, step for step, as this machine's last ones of the recipe took; where there is none
yet, a guess from what the default recipe is known to take, which is said to be one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from datetime import datetime

from configs import DEFAULT, find
from dreamlab import recipe
from dreamlab.core.errors import DreamError
from dreamlab.core.files import Json
from dreamlab.jobs.folders import located
from dreamlab.jobs.states import SUCCEEDED, Job
from dreamlab.recipe import Recipe
from dreamlab.recipe.apart import apart
from dreamlab.recipe.checks import every_card
from dreamlab.recipe.tables import TABLES
from dreamlab.studio.follow import Curves
from dreamlab.studio.recipes import packaged
from dreamlab.studio.studio import Studio

LAST, LOOKED_AT = 5, 100  # jobs of the recipe that count, among so many
PER_MEGAPIXEL, AFTERWARDS = 5.3, 6.0  # seconds of the default recipe on two cores of 2024: training, export
HEAVY = 60.0  # times as long, with a pretrained model on a CPU


def work_of(wanted: Recipe) -> float:
    """Megapixels that a recipe renders and looks at."""
    return sum(stage.steps * stage.views * stage.size**2 for stage in wanted.stages) / 1e6


def estimated(studio: Studio, owner: str, curves: Curves, name: str, settings: Sequence[str], prompt: str = "") -> Json:
    """`{"seconds", "measured", "from"}` of a recipe with settings changed, `stages.0.steps=9`; a prompt of several
    objects takes as many times the steps."""
    wanted = recipe.load(find(packaged(name)), TABLES, prompt=prompt or None, overrides=settings)
    work = work_of(apart(wanted) or wanted)
    seen = [found for job in _last(studio, owner, name) if (found := _measured(studio, curves, job)) is not None][:LAST]
    if seen:
        rate = statistics.median(trained / each for trained, _, each in seen)
        rest = statistics.median(rest for _, rest, _ in seen)
        jobs = f"the last {len(seen)} jobs" if len(seen) > 1 else "the last job"
        return {"seconds": round(rate * work + rest, 1), "measured": True, "from": f"{jobs} of {name} on this machine"}
    heavy = HEAVY if any(card.models for _, card in every_card(wanted)) else 1.0
    seconds = heavy * PER_MEGAPIXEL * work + AFTERWARDS
    return {
        "seconds": round(seconds, 1),
        "measured": False,
        "from": f"a guess from the recipe {DEFAULT}: none of {name} is done here",
    }


def _last(studio: Studio, owner: str, name: str) -> list[Job]:
    page = studio.queue.page(owner=owner, states=(SUCCEEDED,), limit=LOOKED_AT)
    return [job for job in page.jobs if job.recipe == name and job.kind in ("dream", "texture") and job.attempt == 1]


def _measured(studio: Studio, curves: Curves, job: Job) -> tuple[float, float, float] | None:
    """(seconds of training, of the rest, megapixels) of a job that went through at once."""
    folder = located(studio.root, job.run)
    try:
        took = (datetime.fromisoformat(job.finished) - datetime.fromisoformat(job.started)).total_seconds()
        work = work_of(recipe.load(folder / "recipe.yaml", TABLES))
    except (ValueError, DreamError):
        return None
    # Seconds are counted anew in every stage: the last of each counts.
    of_stages = {str(point.get("stage", "")): float(point.get("seconds", 0.0)) for point in curves.points(folder)}
    trained = sum(of_stages.values())
    usable = job.stopped_at is None and 0 < trained <= took and work > 0 and math.isfinite(took)
    return (trained, took - trained, work) if usable else None
