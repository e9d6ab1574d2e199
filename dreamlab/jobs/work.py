# SPDX-License-Identifier: Apache-2.0
"""What a job of each kind does in its folder: what the command line does, in this process."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from dreamlab import pipeline
from dreamlab.core.errors import Interrupted
from dreamlab.jobs.engines.remote import RAY, REMOTE_KINDS, made_remotely
from dreamlab.jobs.requests import export_changes
from dreamlab.jobs.states import KEEP, Job
from dreamlab.jobs.wishes import Wish
from dreamlab.run.assemble import Lender
from dreamlab.run.checkpoint import committed
from dreamlab.run.folder import Run
from dreamlab.run.watching import WATCHED

PATIENCE_S = 15.0  # for the folder: whoever had it may be dying


def perform(
    job: Job, root: Path, device: str, wish: Wish, shelf: Lender, leaving: threading.Event | None = None
) -> int | None:
    """Do it; the step at which it was stopped and kept, None: it went to its end. Raises what ended it. `leaving`: set
    when this process is to end; what is made on a cluster goes on then."""
    run = Run.open(root / job.run)
    wait_for(run)
    remote = device == RAY and job.kind in REMOTE_KINDS
    device = "cpu" if device == RAY else device
    if job.kind == "export":
        pipeline.export_again(run, device, export_changes(job.request), shelf)
        return None
    stopped_at = None
    if job.cancel == KEEP and committed(run.ckpt):  # an earlier attempt was asked, and did not come to it
        stopped_at = kept(run, device, shelf)
    else:
        try:
            if remote:
                made_remotely(job, run, wish, leaving or threading.Event())
            else:
                pipeline.execute(run, device, asked=wish, shelf=shelf, watch=WATCHED)
        except Interrupted:
            if not wish.keep or wish.signalled:
                raise
            stopped_at = kept(run, device, shelf)
    if job.kind == "texture":
        from dreamlab.intake.painting import MAPS

        wanted = job.request.get("maps") or ["all"]
        pipeline.painted(run, device, MAPS if "all" in wanted else wanted, shelf=shelf)
    return stopped_at


def kept(run: Run, device: str, shelf: Lender) -> int | None:
    """Export what there is; the step, unless that was the last."""
    step = pipeline.conclude(run, device, shelf)
    return step if step < sum(stage.steps for stage in pipeline.load_recipe(run).stages) else None


def wait_for(run: Run) -> None:
    """A while, for an earlier attempt of ours that is being ended; a person's own command is another matter, and is
    named by the one who takes the lock."""
    until = time.monotonic() + PATIENCE_S
    while run.busy() and time.monotonic() < until:
        time.sleep(0.05)
