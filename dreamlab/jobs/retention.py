# SPDX-License-Identifier: Apache-2.0
"""What is kept of jobs, and for how long. First a plan, that says of each job what would go and why; then, if asked,
the same plan is carried out. Favourites, what waits or runs, and runs that the queue does not know stay."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dreamlab.core.errors import RecipeError
from dreamlab.core.settings import setting
from dreamlab.jobs import folders
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import Conflict, Job, JobUnknown

TRASHED, PURGED = "trash", "purge"


@dataclass(frozen=True)
class Policy:
    """Days and sizes; None: without end."""

    trash_days: float = setting(7.0, low=0, help="in the trash, before it is gone for good")
    days: float | None = setting(None, low=0, help="since a job ended, before it goes to the trash")
    quota_mib: float | None = setting(
        None, low=0, help="of all folders; above it the oldest go, first those in the trash"
    )
    owner_quota_mib: float | None = setting(None, low=0, help="of the folders of each owner; above it their oldest go")
    history_days: float = setting(30.0, low=0, help="that changes are remembered, for those who follow them")


@dataclass(frozen=True)
class Going:
    """One job, and what becomes of it."""

    job: Job
    what: str  # trash or purge
    why: str
    bytes: int


@dataclass(frozen=True)
class Pruning:
    """A plan."""

    going: tuple[Going, ...]
    used: int  # bytes of all folders of jobs
    before: str  # changes of then and earlier are forgotten
    of_owner: Mapping[str, int] = field(default_factory=dict)  # of `used`

    @property
    def freed(self) -> int:
        return sum(each.bytes for each in self.going if each.what == PURGED)


def plan(queue: Queue, policy: Policy, now: datetime | None = None) -> Pruning:
    """What would go; nothing is changed."""
    moment = now or datetime.now(UTC)
    gone_by, ended_by = _ago(moment, policy.trash_days), _ago(moment, policy.days)
    sizes: dict[str, int] = {}
    going: dict[str, Going] = {}
    candidates = sorted(_candidates(queue), key=lambda job: (not job.deleted, job.deleted or job.finished))
    for job in candidates:
        size = size_of(queue.root, job)
        sizes[job.id] = size
        if job.deleted and job.deleted <= gone_by:
            going[job.id] = Going(job, PURGED, f"in the trash since {_day(job.deleted)}", size)
        elif not job.deleted and ended_by and job.finished <= ended_by:
            going[job.id] = Going(job, TRASHED, f"ended on {_day(job.finished)}", size)
    of_owner: Counter[str] = Counter()
    for job in candidates:
        of_owner[job.owner] += sizes[job.id]
    for job in _staying(queue):
        of_owner[job.owner] += size_of(queue.root, job)
    if policy.owner_quota_mib is not None:
        for owner, used in of_owner.items():
            theirs = [job for job in candidates if job.owner == owner]
            _above(policy.owner_quota_mib, used, theirs, sizes, going, "of one owner")
    if policy.quota_mib is not None:
        _above(policy.quota_mib, of_owner.total(), candidates, sizes, going, "of all")
    return Pruning(tuple(going.values()), of_owner.total(), _ago(moment, policy.history_days), dict(of_owner))


def _above(
    quota: float, used: int, oldest: Sequence[Job], sizes: Mapping[str, int], going: dict[str, Going], whose: str
) -> None:
    """Those that go for good so that what is left fits, beside those that go anyway."""
    theirs = {job.id for job in oldest}
    left = used - sum(each.bytes for each in going.values() if each.what == PURGED and each.job.id in theirs)
    for job in oldest:
        if left <= quota * (1 << 20):
            return
        if sizes[job.id] and (job.id not in going or going[job.id].what != PURGED):
            going[job.id] = Going(job, PURGED, f"above {quota:g} MiB {whose}, the oldest", sizes[job.id])
            left -= sizes[job.id]


def carry_out(queue: Queue, planned: Pruning) -> list[Going]:
    """Do it; what has changed since the plan, or is in use, is left alone. Returns what went."""
    done = []
    for each in planned.going:
        try:
            if queue.job(each.job.id).seq != each.job.seq:
                continue
            queue.delete(each.job.id)
            if each.what == PURGED:
                queue.purge(each.job.id)
        except (Conflict, JobUnknown):
            continue
        done.append(each)
    queue.forget(planned.before)
    return done


def size_of(root: Path, job: Job) -> int:
    """Bytes of a job's own folder."""
    return sum(_sizes(folders.located(root, job.run))) if job.owns_run and job.run else 0


def _sizes(folder: Path) -> Iterator[int]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _sizes(Path(entry.path))
        else:
            yield entry.stat(follow_symlinks=False).st_size


def _candidates(queue: Queue) -> Iterator[Job]:
    """Whatever has ended and is nobody's favourite."""
    return (job for job in _every(queue) if job.ended and not job.favourite)


def _staying(queue: Queue) -> Iterator[Job]:
    return (job for job in _every(queue) if not job.ended or job.favourite)


def _every(queue: Queue) -> Iterator[Job]:
    for deleted in (False, True):
        cursor = None
        while True:
            page = queue.page(deleted=deleted, limit=500, cursor=cursor)
            yield from page.jobs
            if (cursor := page.next) is None:
                break


def _ago(moment: datetime, days: float | None) -> str:
    if days is None:
        return ""
    try:
        return (moment - timedelta(days=days)).isoformat(timespec="milliseconds")
    except OverflowError:
        raise RecipeError(f"days: {days:g} are more than a calendar has") from None


def _day(time: str) -> str:
    return time[:10]
