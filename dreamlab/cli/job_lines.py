# SPDX-License-Identifier: Apache-2.0
"""Jobs as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreamlab.core.text import printable, short
from dreamlab.jobs.folders import located
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.standing import outline, standing
from dreamlab.jobs.states import ENDED, NORMAL, QUEUED, RUNNING, Job, JobChange

if TYPE_CHECKING:
    from dreamlab.jobs.views import JobView

MOST_WAITING_SHOWN = 500


def ordered(queue: Queue, states: Sequence[str], text: str, owner: str | None, trash: bool, limit: int) -> list[Job]:
    """What runs, then what waits in its order, then the newest of what has ended."""
    positions = queue.positions()
    found: list[Job] = []
    for group, most in (((RUNNING,), MOST_WAITING_SHOWN), ((QUEUED,), MOST_WAITING_SHOWN), (ENDED, limit)):
        wanted = tuple(state for state in group if not states or state in states)
        if wanted:
            page = queue.page(owner=owner, states=wanted, text=text, deleted=trash, limit=most)
            found += sorted(page.jobs, key=lambda job: positions.get(job.id, 0))
    unknown = set(states) - {RUNNING, QUEUED, *ENDED}
    if unknown:
        queue.page(states=sorted(unknown))  # which says what there is instead
    return found


def line(root: Path, job: Job, position: int | None) -> str:
    how = {QUEUED: f"{position or '-'} in the line", RUNNING: _progress(root, job)}.get(job.state, "")
    if job.error is not None and job.state != QUEUED:
        how = f"{job.error.code}: {short(printable(job.error.message), 80)}"
    where = "" if job.lane == NORMAL and not job.priority else f" [{job.lane} {job.priority:+d}]"
    told = short(printable(job.prompt), 60)
    return "  ".join(part for part in (job.id, f"{job.state:<11}", f"{job.kind:<8}", told + where, how) if part)


def _progress(root: Path, job: Job) -> str:
    folder = located(root, job.run)
    now, total = standing(folder), outline(folder).total
    rate = f", {now.it_per_s:.1f} it/s" if now.it_per_s else ""
    left = f", {max(total - now.step, 0) / now.it_per_s:.0f} s left" if now.it_per_s else ""
    return f"step {now.step} of {total}{rate}{left}"


def described(view: JobView, history: Sequence[JobChange]) -> Iterator[str]:
    """Everything of one job that a person may want."""
    said: dict[str, object] = {"job": view.id, "kind": view.kind, "state": view.state, "prompt": printable(view.prompt)}
    said |= {"recipe": view.recipe, "seed": view.seed, "run": view.folder, "parent": view.parent, "batch": view.batch}
    values = ", ".join(f"{name}={value}" for name, value in view.values.items())
    said |= {"values": printable(values), "lane": f"{view.lane}, priority {view.priority}"}
    said |= {"place": "" if view.position is None else f"{view.position} in the line"}
    said |= {"step": f"{view.step} of {view.total}", "attempt": view.attempt or ""}
    if view.error is not None:
        said |= {"error": printable(view.error.message), "so": view.error.hint}
    for name, value in said.items():
        if value != "":
            yield f"{name:<8} {value}"
    for each in view.artifacts:
        yield f"file     {each.name} ({each.bytes} bytes)"
    for change in history:
        yield f"{change.time[:19]}  {change.what}: {change.state}, attempt {change.attempt}"
