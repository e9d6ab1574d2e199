# SPDX-License-Identifier: Apache-2.0
"""`dreamlab jobs add`: a prompt for the queue instead of for now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs import DEFAULT, PICTURED
from dreamlab.cli.app import jobs
from dreamlab.cli.dream import Image, Negative, PromptFile, RecipeName, Seed, Words
from dreamlab.cli.prompt import read_prompt, sorted_words
from dreamlab.core.errors import RecipeError


@jobs.command()
def add(
    words: Words = None,
    recipe: RecipeName = None,
    image: Image = None,
    prompt_file: PromptFile = None,
    negative: Negative = None,
    seed: Seed = None,
    count: Annotated[int, typer.Option(min=1, max=64, help="so many, with seeds that follow one another")] = 1,
    lane: Annotated[str, typer.Option(help="normal, or background: when nothing else waits")] = "normal",
    priority: Annotated[int, typer.Option(help="larger ones first")] = 0,
    key: Annotated[str, typer.Option(help="the same key again is the same job")] = "",
    root: Annotated[Path, typer.Option(help="the folder of runs whose queue it is")] = Path("runs"),
) -> None:
    """Put a new run into the queue, which a studio or `dreamlab jobs work` runs; its id is printed."""
    spoken, settings = sorted_words(words or [])
    prompt = read_prompt(spoken, prompt_file, None)
    if prompt is None:
        raise RecipeError('jobs add needs a prompt, e.g. dreamlab jobs add "a red mushroom with a white stem"')
    from dreamlab.jobs.making import make
    from dreamlab.jobs.queue import Queue
    from dreamlab.jobs.requests import request_of

    asked: dict[str, object] = {"prompt": prompt, "negative": negative or "", "seed": seed, "count": count}
    asked |= {"recipe": recipe or (DEFAULT if image is None else PICTURED), "lane": lane, "priority": priority}
    asked |= {"settings": dict(text.partition("=")[::2] for text in settings)}
    asked |= {"image": str(image) if image is not None else ""}
    with Queue(root) as queue:
        for job in make(queue, request_of("dream", asked), key=key, trusted=True):
            print(job.id)
