# SPDX-License-Identifier: Apache-2.0
"""The two command groups, and what every file of commands needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Text or image to 3D and 4D assets by optimisation.",
)
toybox = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The procedural world.")
app.add_typer(toybox, name="toybox")

Device = Annotated[str, typer.Option(help="cpu or cuda")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from dreamlab import __version__

        print(f"dreamlab {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Text or image to 3D and 4D assets by optimisation."""


def check_device(device: str) -> None:
    """Said before anything is built."""
    from dreamlab.core.device import known_device

    known_device(device)
