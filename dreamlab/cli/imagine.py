# SPDX-License-Identifier: Apache-2.0
"""`dreamlab imagine`: a look at what the embedded prior takes a prompt for, before a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from dreamlab.cli.app import app
from dreamlab.core.errors import RecipeError


@app.command()
def imagine(
    prompt: Annotated[str, typer.Argument(help="what to imagine ('-': from stdin)")],
    out: Annotated[Path, typer.Option(help="the .png to write")] = Path("imagined.png"),
    calls: Annotated[int, typer.Option(help="of the network: 1, 2 or 4; more is crisper")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="another one imagines another")] = 0,
) -> None:
    """What the embedded prior imagines of a prompt, from four sides; takes seconds, and makes no run."""
    from dreamlab.cli.prompt import read_prompt

    if out.suffix.lower() != ".png":
        raise RecipeError(f"--out {out}: is no .png")
    text = read_prompt(prompt, None, None) or ""
    from dreamlab.core.files import disk_errors, write_atomic
    from dreamlab.export.png import png_bytes
    from dreamlab.imagined import imagined, notes
    from guidance.toybox.student import ROUTES

    if calls not in ROUTES:
        raise RecipeError(f"--calls {calls}: it draws in {', '.join(map(str, ROUTES))} calls")
    picture = png_bytes(imagined(text, seed, calls))
    for line in notes(text):
        warnings.warn(f"prompt: {line}", stacklevel=2)
    with disk_errors("writing what was imagined", out):
        write_atomic(out, picture)
    print(out)
