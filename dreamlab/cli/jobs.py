# SPDX-License-Identifier: Apache-2.0
"""`dreamlab jobs`: the queue, looked at and changed; with or without a server, for they all read one file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dreamlab.cli.app import jobs
from dreamlab.core.errors import InputError, RecipeError

if TYPE_CHECKING:
    from dreamlab.jobs.queue import Queue

Root = Annotated[Path, typer.Option(help="the folder of runs whose queue it is")]
Id = Annotated[str, typer.Argument(metavar="JOB", help="id of a job, as `jobs ls` shows it")]
Ids = Annotated[list[str], typer.Argument(metavar="JOB...", help="ids of jobs, as `jobs ls` shows them")]
AsJson = Annotated[bool, typer.Option("--json", help="all that is known, as JSON")]
RUNS = Path("runs")
EVERY_S = 0.5


def opened(root: Path) -> Queue:
    """The queue that is there; looking at a folder makes none."""
    from dreamlab.jobs.database import Station
    from dreamlab.jobs.queue import Queue

    if not Station(root).file.exists():
        raise InputError(f"{root}: has no queue yet; `dreamlab jobs add` makes one, or name another folder by --root")
    return Queue(root)


@jobs.command("ls")
def ls(
    state: Annotated[list[str] | None, typer.Option(help="only these; may be said several times")] = None,
    text: Annotated[str, typer.Option(help="a part of the prompt")] = "",
    owner: Annotated[str | None, typer.Option(help="only this one's")] = None,
    trash: Annotated[bool, typer.Option("--trash", help="those in the trash instead")] = False,
    limit: Annotated[int, typer.Option(help="so many of those that ended")] = 20,
    json: AsJson = False,
    root: Root = RUNS,
) -> None:
    """What runs, what waits in its order, and what came of the newest others; a line each."""
    from dreamlab.cli.job_lines import line, ordered

    with opened(root) as queue:
        found = ordered(queue, state or (), text, owner, trash, limit)
        if json:
            from json import dumps

            from dreamlab.jobs.views import job_views

            print(dumps([view.plain() for view in job_views(queue, found)], indent=1, ensure_ascii=False))
            return
        positions = queue.positions()
        for job in found:
            print(line(root, job, positions.get(job.id)))
        if queue.paused:
            print("the queue is paused; go on with: dreamlab jobs resume")


@jobs.command()
def show(job: Id, json: AsJson = False, root: Root = RUNS) -> None:
    """One job: how it stands, what it has made, what happened to it."""
    from dreamlab.cli.job_lines import described
    from dreamlab.jobs.views import job_view

    with opened(root) as queue:
        found = queue.job(job)
        view = job_view(queue, found)
        if json:
            from json import dumps

            print(dumps(view.plain(), indent=1, ensure_ascii=False))
            return
        for text in described(view, queue.history(job)):
            print(text)


@jobs.command()
def logs(
    job: Id,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on until the job has ended")] = False,
    root: Root = RUNS,
) -> None:
    """What a job's run has written to its log."""
    from dreamlab.jobs.folders import located

    with opened(root) as queue:
        at = 0
        while True:
            found = queue.job(job)  # before the log is read: what it ended with is in there
            path = located(root, found.run) / "log.txt"
            if path.is_file():
                with path.open("rb") as handle:
                    handle.seek(at)
                    data = handle.read()
                at += len(data)
                print(data.decode("utf-8", "replace"), end="", flush=True)
            if not follow or found.ended:
                return
            time.sleep(EVERY_S)


@jobs.command()
def cancel(
    job: Ids,
    keep: Annotated[bool, typer.Option("--keep", help="stop, and export what there is")] = False,
    root: Root = RUNS,
) -> None:
    """Stop jobs: one that runs saves a checkpoint first, and can be retried from there."""
    with opened(root) as queue:
        for each in job:
            found = queue.cancel(each, keep)
            print(f"{each}: {'asked to stop' if found.cancel else found.state}")


@jobs.command()
def retry(
    job: Ids,
    anew: Annotated[bool, typer.Option("--anew", help="as jobs of their own, from the beginning")] = False,
    root: Root = RUNS,
) -> None:
    """Let jobs that failed, were cancelled or interrupted wait again; they go on from their checkpoints."""
    with opened(root) as queue:
        for each in job:
            if anew:
                each = begun_anew(queue, each)
            else:
                queue.retry(each)
            print(f"{each}: queued, {queue.position(each)} in the line")


def begun_anew(queue: Queue, id: str) -> str:
    """The id of a new job that asks for the same."""
    from dreamlab.jobs.making import again

    old = queue.job(id)
    return again(queue, old, trusted=True, parent=queue.job(old.parent) if old.parent else None).id


@jobs.command()
def move(
    job: Id,
    before: Annotated[str | None, typer.Option(metavar="JOB", help="right before this one")] = None,
    after: Annotated[str | None, typer.Option(metavar="JOB", help="right after this one")] = None,
    lane: Annotated[str | None, typer.Option(help="normal, or background: when nothing else waits")] = None,
    priority: Annotated[int | None, typer.Option(help="larger ones first")] = None,
    root: Root = RUNS,
) -> None:
    """Another place in the line."""
    with opened(root) as queue:
        queue.move(job, before=before, after=after, lane=lane, priority=priority)
        print(f"{job}: {queue.position(job)} in the line")


@jobs.command()
def pause(root: Root = RUNS) -> None:
    """No job is begun from now on; those that run go on."""
    with opened(root) as queue:
        queue.pause()
    print("paused")


@jobs.command()
def resume(root: Root = RUNS) -> None:
    """Begin jobs again."""
    with opened(root) as queue:
        queue.resume()
    print("resumed")


@jobs.command()
def rm(job: Ids, root: Root = RUNS) -> None:
    """Put jobs and their runs into the trash; `jobs restore` brings them back, `jobs prune` empties it."""
    with opened(root) as queue:
        for each in job:
            queue.delete(each)
            print(f"{each}: in the trash")


@jobs.command()
def restore(job: Ids, root: Root = RUNS) -> None:
    """Bring jobs and their runs back out of the trash."""
    with opened(root) as queue:
        for each in job:
            print(f"{each}: {queue.restore(each).state}")


@jobs.command()
def prune(
    trash_days: Annotated[float, typer.Option(min=0, help="in the trash, before it is gone for good")] = 7.0,
    days: Annotated[float | None, typer.Option(min=0, help="since a job ended, before it goes to the trash")] = None,
    quota_mib: Annotated[float | None, typer.Option(min=0, help="of all folders; above it the oldest are gone")] = None,
    owner_quota_mib: Annotated[
        float | None, typer.Option(min=0, help="of the folders of each owner; above it their oldest are gone")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="do it; else it is only said")] = False,
    schedule: Annotated[
        bool, typer.Option("--schedule", help="do it from now on, every hour that workers run")
    ] = False,
    unschedule: Annotated[bool, typer.Option("--unschedule", help="remove nothing by itself any more")] = False,
    root: Root = RUNS,
) -> None:
    """What retention would remove, and why; favourites, and what waits or runs, stay."""
    from dreamlab.jobs import retention
    from dreamlab.jobs.tidying import set_policy

    if schedule and unschedule:
        raise RecipeError("--schedule and --unschedule: give one of them")
    policy = retention.Policy(trash_days, days, quota_mib, owner_quota_mib)
    with opened(root) as queue:
        if schedule or unschedule:
            set_policy(root, policy if schedule else None)
        if unschedule:
            print("nothing is removed by itself")
            return
        planned = retention.plan(queue, policy)
        going = retention.carry_out(queue, planned) if apply else planned.going
    for each in going:
        print(
            f"{each.job.id}  {each.what}  {each.bytes / 2**20:.1f} MiB  {each.why}  {' '.join(each.job.prompt.split())}"
        )
    freed = sum(each.bytes for each in going if each.what == retention.PURGED) / 2**20
    told = f"{len(going)} jobs, {freed:.1f} MiB of {planned.used / 2**20:.1f} MiB"
    later = "it is done every hour while workers run" if schedule else "do it with --apply"
    print(f"removed: {told}" if apply else f"would remove: {told}; {later}")
