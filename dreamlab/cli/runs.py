# SPDX-License-Identifier: Apache-2.0
"""Commands on runs: continue one, look at it, export it again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dreamlab.cli.app import Device, RunPath, app, check_device
from dreamlab.core.errors import Interrupted, RankLost
from dreamlab.core.text import shell

if TYPE_CHECKING:
    from dreamlab.run.folder import Run
    from dreamlab.run.ranks import Alone


@app.command()
def resume(
    run: RunPath,
    steps: Annotated[int | None, typer.Option(help="let the last stage have so many steps in all")] = None,
    device: Device = "cpu",
) -> None:
    """Continue a run where its newest checkpoint is; a finished run is exported again, or gets more steps."""
    from dreamlab import pipeline
    from dreamlab.run.folder import Run

    check_device(device)
    from dreamlab.run.joining import joined

    def longer(ranks: int) -> Run:
        opened = Run.open(run)
        if steps is not None:
            pipeline.extend(opened, steps)
        return opened

    with joined(device) as table:
        go(table.run(longer), table.device, table.ranks)


@app.command()
def branch(
    run: RunPath,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="recipe settings")] = None,
    step: Annotated[int | None, typer.Option(help="of a checkpoint that RUN keeps; none: the newest")] = None,
    prompt: Annotated[str | None, typer.Option(help="what to make from there on")] = None,
    negative: Annotated[str | None, typer.Option(help="what it must not look like")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the new run folder; none: beside RUN")] = None,
    device: Device = "cpu",
) -> None:
    """A new run that starts where RUN stands, or stood, with other words or settings (seed=N too) for the steps to
    come. The last line of stdout is its folder."""
    from dreamlab import pipeline
    from dreamlab.run.folder import Run
    from dreamlab.run.joining import joined

    check_device(device)

    def branched(ranks: int) -> Run:
        return pipeline.branch(Run.open(run), out, overrides or [], sys.argv, device, step, prompt, negative)

    with joined(device) as table:
        go(table.run(branched), table.device, table.ranks)


@app.command()
def render(run: RunPath, device: Device = "cpu") -> None:
    """Turntable and contact sheet of a run as it stands."""
    from dreamlab import pipeline
    from dreamlab.run.folder import Run

    check_device(device)
    for path in pipeline.render_again(Run.open(run), device):
        print(path)


@app.command()
def export(
    run: RunPath,
    formats: Annotated[str | None, typer.Option(help="comma-separated, or all; `dreamlab list formats`")] = None,
    preset: Annotated[str | None, typer.Option(help="a folder for blender, unity, unreal, godot or web")] = None,
    faces: Annotated[int | None, typer.Option(help="at most this many triangles")] = None,
    texture: Annotated[int | None, typer.Option(help="texels per side, a power of two; 0: colours of vertices")] = None,
    height: Annotated[float | None, typer.Option(help="metres in the file")] = None,
    origin: Annotated[str | None, typer.Option(help="centre, or bottom: it stands on the ground")] = None,
    levels: Annotated[bool | None, typer.Option(help="also with 1/2, 1/4 and 1/10 of the triangles")] = None,
    provenance: Annotated[bool | None, typer.Option(help="keep prompt, seed and recipe in the files")] = None,
    device: Device = "cpu",
) -> None:
    """Write the files of a run again, in other formats and sizes if asked; the run itself is not touched."""
    from dreamlab import pipeline
    from dreamlab.run.folder import Run

    check_device(device)
    said = {"preset": preset, "faces": faces, "texture": texture, "height": height, "origin": origin}
    said |= {"levels": levels, "provenance": provenance, "formats": formats}
    changes = [f"export.{key}={value}" for key, value in said.items() if value is not None]
    for path in pipeline.export_again(Run.open(run), device, changes):
        print(path)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="a run folder, or a file of a mesh, of Gaussians or a picture of ours")],
) -> None:
    """What is in a file or a run."""
    from dreamlab.cli.inspection import describe

    for line in describe(path):
        print(line)


def verdicts(run: Run) -> list[str]:
    """How near every exported file is to its scene, a line each; those below the floors have been warned of."""
    from dreamlab.export.check import line
    from dreamlab.export.report import REPORT, read_report

    found = [read_report(path.parent).get("check", {}) for path in sorted(run.export.rglob(REPORT))]
    return [line(check) for check in found if check and "below" not in check]


def go(run: Run, device: str, ranks: Alone | None = None) -> None:
    """Run a folder with a progress bar; print what was made, the run folder last. Of several processes one does."""
    from dreamlab import pipeline
    from dreamlab.python.bar import Bar

    if ranks is not None and ranks.rank:
        beside(run, device, ranks)
        return
    print(f"run folder: {run.path}", file=sys.stderr)
    try:
        with Bar() as bar:
            files = pipeline.execute(run, device, bar.update, ranks=ranks)
    except Interrupted as error:
        print(f"{error}. Resume: {shell('resume', run.path)}", file=sys.stderr)
        raise
    for line in verdicts(run):
        print(line, file=sys.stderr)
    print(f"other formats: {shell('export', run.path, '--formats', 'all')}", file=sys.stderr)
    for path in files:
        print(path)
    print(run.path)


def beside(run: Run, device: str, ranks: Alone) -> None:
    """The same for a process that writes nothing: it says only that it has lost the others."""
    from dreamlab import pipeline

    try:
        pipeline.execute(run, device, ranks=ranks)
    except RankLost as error:
        print(f"{error}. Resume: {shell('resume', run.path)}", file=sys.stderr)
        raise
