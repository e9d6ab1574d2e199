# SPDX-License-Identifier: Apache-2.0
"""`dreamlab texture`: other materials for a mesh that stays what it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from configs import find
from dreamlab.cli.app import Device, app, check_device
from dreamlab.cli.prompt import read_prompt, sorted_words
from dreamlab.cli.runs import go
from dreamlab.core.errors import RecipeError

RECIPE = "texture"


@app.command()
def texture(
    file: Annotated[Path, typer.Argument(help="GLB, glTF, OBJ, PLY or STL; or a run of `texture`, to write it again")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT] [KEY=VALUE]...")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="where to write it; none: in the run")] = None,
    recipe: Annotated[str, typer.Option(help="packaged recipe or file, whose first scene is a mesh")] = RECIPE,
    fresh_uv: Annotated[
        bool, typer.Option("--fresh-uv", help="texture coordinates of its own for every place, in a new set")
    ] = False,
    maps: Annotated[str, typer.Option(help="what to write, with commas: base, rough_metal, normal")] = "all",
    up: Annotated[str, typer.Option(help="the file's axis that points up: y or z")] = "y",
    seed: Annotated[int | None, typer.Option(help="as seed=N")] = None,
    steps: Annotated[int | None, typer.Option(help="of every stage, as steps=N")] = None,
    negative: Annotated[str | None, typer.Option(help="what it must not look like")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="read the prompt from this file")] = None,
    out: Annotated[Path, typer.Option(help="folder for run folders")] = Path("runs"),
    device: Device = "cpu",
) -> None:
    """Paint your own mesh: vertices, faces, texture coordinates, skin and animations stay byte for byte; base colour,
    roughness and metallic go back into the slots of its materials. The last line of stdout is the painted file."""
    from dreamlab.core.text import did_you_mean
    from dreamlab.intake.painting import MAPS, taken

    chosen = MAPS if maps == "all" else tuple(maps.split(","))
    for name in chosen:
        if name not in MAPS:
            raise RecipeError(f"--maps: {name!r} is none of them{did_you_mean(name, MAPS)}")
    if up not in ("y", "z"):
        raise RecipeError(f"--up: {up!r}; y or z")
    spoken, settings = sorted_words(words or [])
    prompt = read_prompt(spoken, prompt_file, None)
    check_device(device)
    from dreamlab import pipeline
    from dreamlab.run.folder import Run

    if file.is_dir():
        if prompt is not None or settings:
            raise RecipeError(f"texture {file}: a run has its prompt and settings; leave them out")
        print(pipeline.painted(Run.open(file), device, chosen, output))
        return
    if prompt is None:
        raise RecipeError(f'texture needs a prompt, e.g. dreamlab texture {file} "a red chair with white legs"')
    from dreamlab.intake.painting import target

    path = find(recipe)
    if output is not None:
        target(taken(file), file, output)
    settings += [f"{key}={value}" for key, value in (("seed", seed), ("steps", steps)) if value is not None]
    from dreamlab.run.joining import joined

    def made(ranks: int) -> Run:
        return pipeline.create_painting(prompt, file, path, out, settings, negative, sys.argv, fresh_uv, up)

    with joined(device) as table:
        run = table.run(made)
        go(run, table.device, table.ranks)
    if table.ranks.rank == 0:
        print(pipeline.painted(run, device, chosen, output))
