# SPDX-License-Identifier: Apache-2.0
"""Commands that begin with a prompt: `dream` makes a run of it, `check` says what that would be."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from configs import DEFAULT, PICTURED, find, is_recipe
from dreamlab.cli.app import Device, app, check_device
from dreamlab.cli.prompt import read_prompt, sorted_words
from dreamlab.cli.runs import go
from dreamlab.core.errors import RecipeError
from dreamlab.core.foreign.files import checked_size
from dreamlab.core.foreign.picture_parser import MAX_FILE

ASSETS = (".glb", ".gltf", ".png", ".ply", ".obj", ".usdz", ".usda")  # of these, what we write tells its recipe
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PROMPT] [KEY=VALUE]...",
        help="what to make ('-': from stdin), and settings of the recipe, e.g. steps=50 or stages.0.scene.count=9000",
    ),
]
RecipeName = Annotated[str | None, typer.Option(help="packaged recipe or file; none: toybox, with --image: image")]
Image = Annotated[Path | None, typer.Option(help="PNG or JPEG of the object, for recipes that follow one")]
PromptFile = Annotated[Path | None, typer.Option(help="read the prompt from this file")]
PromptEnv = Annotated[str | None, typer.Option(help="read the prompt from this environment variable")]
Negative = Annotated[str | None, typer.Option(help="what it must not look like")]
Seed = Annotated[int | None, typer.Option(help="as seed=N")]
Steps = Annotated[int | None, typer.Option(help="of every stage, as steps=N")]
Formats = Annotated[str | None, typer.Option(help="comma-separated, or all (`list formats`); as formats=...")]
From = Annotated[Path | None, typer.Option("--from", help="an asset of ours: its recipe, run again")]
OnMissing = Annotated[
    str, typer.Option(help="models that are not here: fail, or embedded: the prior of the package in their place")
]
Strict = Annotated[bool, typer.Option("--strict", help="exit 2 where a part of the prompt cannot be made")]
Init = Annotated[Path | None, typer.Option(help="a mesh, point cloud or Gaussians that the first scene begins as")]


@dataclass(frozen=True)
class Wanted:
    """What a command line asks for, before any recipe is read."""

    prompt: str | None  # none: the recipe's own
    recipe: Path
    settings: list[str]
    negative: str | None
    image: Path | None


def wanted(
    words: list[str],
    recipe: str | None,
    image: Path | None,
    places: tuple[Path | None, str | None],
    negative: str | None,
    options: Mapping[str, object],
) -> Wanted:
    """Everything that can be said of a command line without loading what a recipe needs."""
    spoken, settings = sorted_words(words)
    path = find(recipe or (DEFAULT if image is None else PICTURED))
    prompt = read_prompt(spoken, *places)
    if image is not None:
        checked_size(image, "image", MAX_FILE)
    settings += [f"{key}={value}" for key, value in options.items() if value is not None]
    return Wanted(prompt, path, settings, negative, image)


@app.command()
def dream(
    words: Words = None,
    recipe: RecipeName = None,
    image: Image = None,
    prompt_file: PromptFile = None,
    prompt_env: PromptEnv = None,
    negative: Negative = None,
    seed: Seed = None,
    steps: Steps = None,
    formats: Formats = None,
    source: From = None,
    init: Init = None,
    on_missing: OnMissing = "fail",
    strict: Strict = False,
    out: Annotated[Path, typer.Option(help="folder for run folders")] = Path("runs"),
    device: Device = "cpu",
) -> None:
    """Make an asset from a prompt: a new run, end to end. The last line of stdout is the run folder."""
    options = {"seed": seed, "steps": steps, "formats": formats}
    given = list(words or [])
    if source is None and given and is_asset(given[0]):
        source = Path(given.pop(0))
    asked = wanted(given, recipe, image, (prompt_file, prompt_env), negative, options)
    if asked.prompt is None and asked.recipe == find(DEFAULT) and source is None:
        raise RecipeError('dream needs a prompt, e.g. dreamlab dream "a red mushroom with a white stem"')
    check_device(device)
    if source is not None and recipe is not None:
        raise RecipeError("--from brings a recipe of its own: leave out --recipe")
    from dreamlab import pipeline
    from dreamlab.intake.starting import beginnings, remembered
    from dreamlab.run.folder import Run
    from dreamlab.run.joining import joined

    def made(ranks: int) -> Run:
        with remembered(source, asked.recipe, asked.settings, image) as chosen:
            settings = asked.settings + ([] if init is None else beginnings(init, chosen, asked.settings))
            told = (sys.argv, asked.image, on_missing, strict, ranks)
            return pipeline.create(asked.prompt, chosen, out, settings, asked.negative, *told)

    with joined(device) as table:
        go(table.run(made), table.device, table.ranks)


def is_asset(word: str) -> bool:
    """Whether a word is the name of a file that may tell how it was made, and no prompt."""
    return Path(word).suffix.lower() in ASSETS and len(word) < 4096 and "\n" not in word and Path(word).is_file()


@app.command()
def check(
    words: Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [PROMPT] [KEY=VALUE]...")] = None,
    image: Image = None,
    prompt_file: PromptFile = None,
    prompt_env: PromptEnv = None,
    negative: Negative = None,
    on_missing: OnMissing = "fail",
    strict: Strict = False,
    device: Device = "cpu",
) -> None:
    """What `dream` would do, a line per stage, or what is wrong; makes no folder. RECIPE: a packaged one or a .yaml."""
    given = list(words or [])
    recipe = next((word for word in given if is_recipe(word)), None)
    if recipe is not None:
        given.remove(recipe)
    asked = wanted(given, recipe, image, (prompt_file, prompt_env), negative, {})
    from dreamlab import pipeline

    check_device(device)
    told = (asked.negative, asked.image, on_missing, strict)
    plan, _ = pipeline.plan(asked.prompt, asked.recipe, asked.settings, *told)
    print(f"prompt: {plan.prompt}")
    for stage in plan.stages:
        terms = ", ".join(f"{term.guidance.kind} by {term.system.kind}" for term in stage.terms)
        size = f"{stage.steps} steps of {stage.views} views, {stage.size} x {stage.size}"
        print(f"{stage.name}: {stage.scene.kind}, {terms}; {size}")
    if any(pipeline.models_of(plan)):
        import torch

        from dreamlab import preflight

        print("\n".join(preflight.lines(plan, torch.device(device))))
