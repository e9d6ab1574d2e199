# SPDX-License-Identifier: Apache-2.0
"""`dreamlab batch`: many prompts, on this machine, a Ray cluster or Slurm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dreamlab.cli.app import app
from dreamlab.core.errors import Interrupted, RecipeError
from dreamlab.core.text import did_you_mean

ENGINES = ("local", "ray", "slurm")
VERBS = ("status", "retry-failed", "report")


@app.command()
def batch(
    what: Annotated[str, typer.Argument(metavar="FILE|status|retry-failed|report", help=".jsonl, .csv or .yaml")],
    store: Annotated[str | None, typer.Argument(metavar="[URL]", help="of status, retry-failed and report")] = None,
    out: Annotated[str | None, typer.Option(help="a folder, s3://, gs://, az://; none: batches/<FILE's name>")] = None,
    engine: Annotated[str, typer.Option(help="local, ray or slurm")] = "local",
    workers: Annotated[int, typer.Option(min=1, max=10_000, help="at one time")] = 1,
    gpus_per_run: Annotated[float, typer.Option(min=0, help="a fraction where runs share a GPU; 0: the CPU")] = 0,
    address: Annotated[str, typer.Option(help="of a Ray cluster, or auto; none: one of this process")] = "",
    partition: Annotated[str, typer.Option(help="of Slurm")] = "",
    minutes: Annotated[int, typer.Option(min=1, help="of a Slurm job, after which it is queued again")] = 240,
    lease: Annotated[float, typer.Option(min=1, help="seconds of silence after which a worker counts as dead")] = 90.0,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="a setting of every job; may be repeated")
    ] = None,
    to: Annotated[Path, typer.Option(help="where `report` writes its page")] = Path("report.html"),
) -> None:
    """Make everything in FILE. Run again it goes on; what is done is left. The last line of stdout is the store."""
    if engine not in ENGINES:
        raise RecipeError(f"--engine {engine!r} is none of them{did_you_mean(engine, ENGINES)}")
    from dreamlab.jobs.engines.bucket import ObjectStore
    from dreamlab.jobs.engines.report import page, retry_failed, standing

    if what in VERBS:
        url = store or out
        if url is None:
            raise RecipeError(f"batch {what}: of which store? dreamlab batch {what} URL")
        bucket = ObjectStore(url)
        if what == "retry-failed":
            print(f"{retry_failed(bucket)} jobs are open again; the same `dreamlab batch FILE --out {url}` makes them")
        elif what == "report":
            to.write_text(page(bucket, url), "utf-8")
            print(to)
        else:
            print("\n".join(standing(bucket).lines()))
        return
    from dreamlab.jobs.engines.manifest import wanted, write_manifest

    url = out or str(Path("batches") / Path(what).stem)
    bucket = ObjectStore(url)
    write_manifest(bucket, wanted(Path(what), change or []))
    try:
        if engine == "local":
            from dreamlab.jobs.engines import local

            local.run(url, ["cuda" if gpus_per_run else "cpu"] * workers, lease)
        elif engine == "ray":
            from dreamlab.jobs.engines import ray

            ray.run(url, workers, gpus_per_run, lease, address)
        else:
            from dreamlab.jobs.engines import slurm

            slurm.run(url, workers, gpus_per_run, lease, minutes, partition, Path("batches") / "slurm")
    except Interrupted as error:
        print(error, file=sys.stderr)  # of a run, its log says it; of a batch, nobody else
        raise
    now = standing(bucket)
    print("\n".join(now.lines()))
    print(url)
    if now.open:
        print(f"{now.open} jobs are open; the same command goes on", file=sys.stderr)
        raise typer.Exit(Interrupted("").exit_code)
