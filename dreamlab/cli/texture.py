# SPDX-License-Identifier: Apache-2.0
"""`dreamlab texture`: other materials for a mesh that stays what it is."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from configs import find
from dreamlab.cli.app import Device, app, check_device
from dreamlab.cli.prompt import read_prompt, sorted_words
from dreamlab.cli.runs import go
from dreamlab.core.errors import RecipeError

if TYPE_CHECKING:
    from dreamlab.run.folder import Run

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
        print(written(Run.open(file), output, chosen, device))
        return
    if prompt is None:
        raise RecipeError(f'texture needs a prompt, e.g. dreamlab texture {file} "a red chair with white legs"')
    from dreamlab.core.foreign.asset import read_asset
    from dreamlab.intake.painting import keep, target
    from renderers.surface.canvas import SUFFIX
    from renderers.surface.stretch import canvas_of

    path = find(recipe)
    canvas = canvas_of(read_asset(file, "mesh"), str(file), fresh_uv, up)
    given = taken(file)
    if output is not None:
        target(given, file, output)
    for line in canvas.facts["lines"]:
        print(f"note: {line}", file=sys.stderr)
    settings += [f"{key}={value}" for key, value in (("seed", seed), ("steps", steps)) if value is not None]
    if any(slot.get("shared", 0) > 0.02 for slot in canvas.facts["slots"]):
        # What several places share must learn from all of them; a field in space would be read at one.
        settings.append("stages.0.scene.material=texture")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, f"asset{SUFFIX}")
        place.write_bytes(canvas.bytes())
        settings.append(f"stages.0.scene.asset={place}")
        run = pipeline.create(prompt, path, out, settings, negative, sys.argv)
    keep(run, given)
    go(run, device)
    print(written(run, output, chosen, device))


def written(run: Run, output: Path | None, maps: tuple[str, ...], device: str) -> Path:
    """The painted asset of a finished run, in the run and, if asked, elsewhere, too."""
    from dreamlab import pipeline
    from dreamlab.core.files import disk_errors
    from dreamlab.export.origin import origin_of
    from dreamlab.intake.painting import copy_out, give_back

    chosen, scene, step = pipeline.finished_scene(run, device)
    with disk_errors("writing the painted asset", output or run.export):
        origin = origin_of(chosen, chosen.prompt, step)
        return copy_out(give_back(run, scene, step, origin, maps, "" if output is None else output.stem), output)
