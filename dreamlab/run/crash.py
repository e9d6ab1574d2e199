# SPDX-License-Identifier: Apache-2.0
"""Named crash points, so that tests can kill the process exactly where it hurts.

`DREAMLAB_CRASH_AT=ckpt.before_rename:3` makes the third passage of that point kill the process with SIGKILL: nothing is
flushed, nothing is cleaned up, as when the power fails or the out-of-memory killer comes.
"""

from __future__ import annotations

import os
import signal

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
_passed: dict[str, int] = {}


def point(name: str) -> None:
    """Die here if the environment says so."""
    wanted = os.environ.get("DREAMLAB_CRASH_AT")
    if not wanted:
        return
    where, _, count = wanted.partition(":")
    if where == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] >= int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
