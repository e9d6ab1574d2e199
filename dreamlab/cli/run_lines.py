# SPDX-License-Identifier: Apache-2.0
"""`inspect RUN`: how a run stands, which of its checkpoints are whole, and which step each exported file shows."""

from __future__ import annotations

from pathlib import Path

from dreamlab.core.files import Json
from dreamlab.core.text import shell
from dreamlab.export.report import REPORT, read_report, step_of
from dreamlab.run.checkpoint import committed, fault
from dreamlab.run.folder import Run


def describe_run(path: Path) -> list[str]:
    """A few lines; checkpoints are read and hashed."""
    run = Run.open(path)
    spec, state = run.spec(), run.state()
    lines = [f"{name:<8} {spec.get(key, 'unknown')}" for name, key in (("run", "id"), ("prompt", "prompt"))]
    lines += [f"created  {spec.get('created', 'unknown')}", f"state    {standing(run, state)}"]
    if state.get("error"):
        lines.append(f"error    {state['error']}")
    for found in committed(run.ckpt):
        wrong = fault(found)
        lines.append(f"ckpt     {found.name}{f' damaged: {wrong}' if wrong else ''}")
    lines += [f"ckpt     {found.name}: damaged, set aside" for found in sorted(run.ckpt.glob("*.corrupt"))]
    for found in sorted(found for found in run.export.rglob("*") if found.is_file()):
        step = step_of(read_report(found.parent), found.name)
        shown = "" if found.name == REPORT or step is None else f", step {step}"
        lines.append(f"export   {found.relative_to(run.export)} ({found.stat().st_size} bytes{shown})")
    return lines


def standing(run: Run, state: Json) -> str:
    """The state in words. A killed process cannot write that it was: it runs, and nobody holds the folder."""
    said, step = state.get("state", "unknown"), state.get("step", "unknown")
    if said == "running" and not run.busy():
        left = committed(run.ckpt)
        where = f"goes on from {left[-1].name}" if left else "has no checkpoint"
        return f"killed at step {step} or later, {where}: {shell('resume', run.path)}"
    return f"{said} at step {step}"
