# SPDX-License-Identifier: Apache-2.0
"""Named crash points, so that tests can kill the process exactly where it hurts.

`DREAMLAB_CRASH_AT=ckpt.before_rename:3` makes the third passage of that point kill the process with SIGKILL: nothing is
flushed, nothing is cleaned up, as when the power fails or the out-of-memory killer comes. `...:3:stop` freezes it there
(SIGSTOP) until somebody lets it go on. With `DREAMLAB_CRASH_ONCE=FILE` only the process that makes FILE dies.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

POINTS = (
    "ckpt.begin",
    "ckpt.half_written",
    "ckpt.before_fsync",
    "ckpt.before_manifest",
    "ckpt.before_rename",
    "ckpt.after_rename",
    "ckpt.after_prune",
)
# Passed only where a checkpoint takes the place of one of the same step, after a roll-back.
REWRITING = ("ckpt.rewrite_begin", "ckpt.rewrite_aside", "ckpt.rewrite_placed")
EXPORTING = ("export.staged", "export.before_journal", "export.after_journal", "export.moved")
SUBMITTING = ("jobs.folders_made", "jobs.rows_written")
# Of a batch's worker, in the order of an attempt.
BATCH = ("batch.claimed", "batch.sending", "batch.results", "batch.ended")
_passed: dict[str, int] = {}


def point(name: str, of: str = "") -> None:
    """Die here if the environment says so; `NAME@OF` says it of one job's passages alone."""
    wanted = os.environ.get("DREAMLAB_CRASH_AT")
    if not wanted:
        return
    where, count, how = [*wanted.split(":"), "", ""][:3]
    if where in (name, f"{name}@{of}"):
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] == int(count or 1) and _first():
            os.kill(os.getpid(), signal.SIGSTOP if how == "stop" else signal.SIGKILL)


def _first() -> bool:
    once = os.environ.get("DREAMLAB_CRASH_ONCE")
    try:
        return once is None or bool(Path(once).open("x"))
    except FileExistsError:
        return False
