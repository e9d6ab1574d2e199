# SPDX-License-Identifier: Apache-2.0
"""What there is: the machine, the recipes with their settings, words, how long something takes; and the interface's own
description."""

from __future__ import annotations

import os
import platform
import random
import shutil
from dataclasses import dataclass

from dreamlab import __version__
from dreamlab.core.settings import setting
from dreamlab.core.text import MAX_PROMPT
from dreamlab.jobs.queue import MOST_OF_AN_OWNER, MOST_WAITING
from dreamlab.studio.answers import Reply
from dreamlab.studio.api.base import Call, Endpoint
from dreamlab.studio.estimate import estimated
from dreamlab.studio.follow import Curves
from dreamlab.studio.guard import MOST_BODY, MOST_UPLOAD
from dreamlab.studio.recipes import form, listing
from dreamlab.studio.sniff import MOST_PIXELS
from dreamlab.studio.surprise import surprise
from dreamlab.studio.words import heard

CURVES = Curves()


@dataclass(frozen=True, kw_only=True)
class RecipeQuery:
    """A packaged recipe."""

    recipe: str = setting("toybox", help="its name")


@dataclass(frozen=True, kw_only=True)
class FormQuery(RecipeQuery):
    """A recipe, with other parts than its own."""

    parts: tuple[str, ...] = setting((), help="with commas: stages.0.scene=field,stages.0.terms.0.system=csd")


@dataclass(frozen=True, kw_only=True)
class WordsQuery(RecipeQuery):
    """A prompt for a recipe."""

    prompt: str = setting("", help="as it is typed, whole or not")


@dataclass(frozen=True, kw_only=True)
class EstimateQuery(RecipeQuery):
    """A recipe with some settings changed, and what is to be made by it."""

    settings: tuple[str, ...] = setting((), help="with commas: steps=100,stages.0.size=64")
    prompt: str = setting("", help="of several objects it takes longer")


@dataclass(frozen=True, kw_only=True)
class SurpriseQuery:
    """Chance, or none of it."""

    seed: int | None = setting(None, low=0, help="the same seed, the same words")


@dataclass(frozen=True, kw_only=True)
class ImaginedQuery:
    """A prompt, and which of what may come of it."""

    prompt: str = setting("", help="of known words")
    seed: int = setting(0, low=0, high=2**31 - 1, help="another one imagines another")


def system(call: Call) -> Reply:
    """What this studio is and how it does."""
    studio = call.studio
    counts = studio.queue.counts(call.owner)
    runs = sum(counts.values()) or studio.index.count(call.owner)  # those of the command line, where there are no jobs
    workers = [
        {"id": each.id, "device": each.device, "job": each.job if _own(call, each.job) else "", "state": each.state}
        for each in studio.queue.workers()
    ]
    free = shutil.disk_usage(studio.root).free
    return Reply({
        "name": "dreamlab", "version": __version__, "owner": call.owner, "python": platform.python_version(),
        "platform": platform.platform(), "cores": os.cpu_count(), "devices": list(studio.options.devices),
        "disk_free": free, "paused": studio.queue.paused, "jobs": counts, "runs": runs,
        "waiting": studio.queue.waiting(None), "workers": workers, "mcp": studio.options.mcp,
        "auth": bool(studio.door.users),
        "limits": {"prompt": MAX_PROMPT, "body": MOST_BODY, "upload": MOST_UPLOAD, "pixels": MOST_PIXELS,
                   "waiting": MOST_WAITING, "waiting_of_an_owner": MOST_OF_AN_OWNER},
    })  # fmt: skip


def _own(call: Call, job: str) -> bool:
    return bool(job) and call.studio.queue.job(job).owner == call.owner


def recipes(call: Call) -> Reply:
    """The packaged recipes."""
    return Reply({"recipes": list(listing())})


def settings(call: Call) -> Reply:
    """What may be changed of a recipe, as the fields of a form."""
    asked = call.asked(FormQuery)
    return Reply({"settings": list(form(asked.recipe, asked.parts))})


def words(call: Call) -> Reply:
    """Which words a recipe's models know, and which were probably meant."""
    asked = call.asked(WordsQuery)
    return Reply(heard(asked.prompt[:MAX_PROMPT], asked.recipe))


def estimate(call: Call) -> Reply:
    """How long a job of a recipe will take on this machine."""
    asked = call.asked(EstimateQuery)
    prompt = asked.prompt.strip()[:MAX_PROMPT]
    return Reply(estimated(call.studio, call.owner, CURVES, asked.recipe, asked.settings, prompt))


def surprise_me(call: Call) -> Reply:
    """A prompt out of the blue."""
    seed = call.asked(SurpriseQuery).seed
    return Reply({"prompt": surprise(random.Random(seed))})  # noqa: S311


def imagine(call: Call) -> Reply:
    """Four sides of what the embedded prior imagines of a prompt, a row for each object: a PNG."""
    from dreamlab.export.png import png_bytes
    from dreamlab.imagined import imagined

    asked = call.asked(ImaginedQuery)
    with call.studio.uploads.reading():
        data = png_bytes(imagined(asked.prompt.strip()[:MAX_PROMPT], asked.seed))
    return Reply(data, kind="image/png", headers={"Cache-Control": "private, max-age=3600"})


ENDPOINTS = (
    Endpoint("GET", "/v1/system", system, "What this studio is, what its machine has, its limits"),
    Endpoint("GET", "/v1/recipes", recipes, "The packaged recipes"),
    Endpoint(
        "GET", "/v1/settings", settings, "The settings of a recipe, as fields of a form", FormQuery, refuses=(422,)
    ),
    Endpoint(
        "GET", "/v1/words", words, "The words of a prompt that a recipe's models know", WordsQuery, refuses=(422,)
    ),
    Endpoint("GET", "/v1/estimate", estimate, "Seconds that a job will take", EstimateQuery, refuses=(422,)),
    Endpoint("GET", "/v1/surprise", surprise_me, "A prompt out of the blue", SurpriseQuery, refuses=(422,)),
    Endpoint(
        "GET",
        "/v1/imagined",
        imagine,
        "What the prior imagines of a prompt",
        ImaginedQuery,
        kind="image/png",
        refuses=(409, 422, 503),
    ),
)
