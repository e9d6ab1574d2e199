# SPDX-License-Identifier: Apache-2.0
"""`dreamlab jobs work`: the queue's workers, without any server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dreamlab.cli.app import check_device, check_room, jobs


@jobs.command()
def work(
    root: Annotated[Path, typer.Option(help="the folder of runs whose queue it is")] = Path("runs"),
    device: Annotated[
        list[str] | None, typer.Option(help="cpu, cuda, cuda:N or ray, a worker for each; may be said several times")
    ] = None,
) -> None:
    """Run what waits in the queue, a worker for each device, until Ctrl-C: jobs are saved then, and go on when this is
    run again. Killed, it leaves its workers at their jobs, and the next one adopts them."""
    for name in device or ["cpu"]:
        if name in ("cpu", "ray"):
            check_room()  # for that alone a process of many weeks loads no torch
        else:
            check_device(name)
    if "ray" in (device or []):
        from dreamlab.jobs.engines.remote import ClusterPlace

        ClusterPlace.announced()
    from dreamlab.jobs.supervisor import supervise

    raise typer.Exit(supervise(root, device or ["cpu"]))
