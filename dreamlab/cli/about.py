# SPDX-License-Identifier: Apache-2.0
"""Commands about the package and the machine: what there is, how fast it is, what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs import find
from dreamlab.cli.app import app
from dreamlab.core.errors import RecipeError

BENCHES = "export|gpu|index|kernels|prior|scale|scenes|soak|startup|step|studio|systems|workers"


@app.command("list")
def list_(what: Annotated[str, typer.Argument(metavar="systems|scenes|guidance|recipes|objects|formats")]) -> None:
    """What there is, one line each, rules with their papers."""
    from dreamlab.cli.inspection import listing

    for line in listing(what):
        print(line)


@app.command()
def show(what: Annotated[str, typer.Argument(metavar="recipe")], name: str) -> None:
    """Print a packaged recipe."""
    if what != "recipe":
        raise RecipeError(f"show {what!r}: only `show recipe NAME` exists")
    print(find(name).read_text("utf-8"), end="")


@app.command()
def bench(
    what: Annotated[str, typer.Argument(metavar=BENCHES)],
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
    scaling: Annotated[
        bool, typer.Option(help="kernels: cost against count, resolution and views, with exponents")
    ] = False,
    model: Annotated[
        bool, typer.Option(help="kernels: bytes, flops and launches on CUDA and what they would take on an H200")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="scale: draw it into this SVG")] = None,
) -> None:
    """Ratios measured side by side: a table on stdout, JSON in a file. Exit 1 when a floor is missed."""
    from dreamlab.cli.inspection import measure

    raise typer.Exit(0 if measure(what, json, scaling, model, plot) else 1)


@app.command()
def doctor(
    again: Annotated[
        bool, typer.Option("--again", help="try the kernels even if nothing of theirs has changed")
    ] = False,
) -> None:
    """Versions, devices, kernels, disk, ports, and what to do about each."""
    from dreamlab.cli.doctor import examine

    for line in examine(again):
        print(line, flush=True)
