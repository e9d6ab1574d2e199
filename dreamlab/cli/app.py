# SPDX-License-Identifier: Apache-2.0
"""The command groups, and what every file of commands needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dreamlab.core.errors import OutOfMemory

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Text or image to 3D and 4D assets by optimisation.",
)
toybox = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The procedural world.")
app.add_typer(toybox, name="toybox")
models = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Models of others: which, where, whether whole.")
app.add_typer(models, name="models")
jobs = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The queue: what waits, runs, and came of it.")
app.add_typer(jobs, name="jobs")

Device = Annotated[str, typer.Option(help="cpu or cuda")]
ROOM = 1_900_000_000  # bytes of address space that the default recipe was seen to need, and a little more
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

    check_room()
    known_device(device)


def check_room() -> None:
    """Below it libraries fail in ways of their own, or wait for threads that could not be made."""
    if sys.platform == "win32":
        return
    import resource

    room, _ = resource.getrlimit(resource.RLIMIT_AS)
    if room != resource.RLIM_INFINITY and room < ROOM:
        raise OutOfMemory(
            f"this shell allows {room / 1e9:.1f} GB of address space (ulimit -v); at least {ROOM / 1e9:.1f} GB are "
            "needed: ulimit -v unlimited"
        )
