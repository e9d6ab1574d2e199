# SPDX-License-Identifier: Apache-2.0
"""A job of a studio elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from dreamlab.core.errors import InputError
from dreamlab.core.files import Json
from dreamlab.jobs.states import ENDED, FAILED, INTERRUPTED, SUCCEEDED
from dreamlab.python.wire import StudioError, StudioWire, safe_place

if TYPE_CHECKING:
    from dreamlab.python.bar import Bar

FIRST_S, MOST_S = 0.3, 3.0  # between two questions while one waits
Told = bool | Callable[["RemoteJob"], None] | None  # None: in a notebook or a terminal; or whether; or who is told


class RemoteFailed(StudioError):
    """The job ended without what it was for; `job` is it."""

    def __init__(self, job: RemoteJob) -> None:
        told = job.info.get("error") or {}
        message = f"job {job.id} {job.info['state']}: {told.get('message') or 'no more is known'}"
        super().__init__(message, code=str(told.get("code", "")), hint=str(told.get("hint") or ""))
        self.job = job


@dataclass(frozen=True)
class _Moment:
    """What a bar is told of a job."""

    stage: str
    step: int
    steps: int
    done: int
    total: int
    metrics: Mapping[str, float]
    note: str = ""


@dataclass
class _Watch:
    """Draws a job on a bar as it goes on."""

    bar: Bar
    seen: int = field(default=-1)

    def update(self, job: RemoteJob) -> None:
        step, total = int(job.info.get("step") or 0), int(job.info.get("total") or 0)
        if job.info["state"] != "running" or not total or step == self.seen:
            return
        self.seen = step
        loss = float((job.metrics(after=max(step - 100, -1)) or [{}])[-1].get("loss") or 0.0)
        self.bar.update(_Moment(str(job.info.get("stage") or "run"), step, total, step, total, {"loss": loss}))


class RemoteJob:
    """What the studio said of it last is `info`; asking makes it new."""

    def __init__(self, wire: StudioWire, info: Json) -> None:
        self.wire, self.info = wire, info
        self.id = str(info["id"])

    def refresh(self) -> Self:
        """Ask how it stands."""
        self.info = self.wire.get(self._path())
        return self

    @property
    def state(self) -> str:
        """queued, running, succeeded, failed, cancelled or interrupted, asked now unless it has ended."""
        return str(self.info["state"] if self.info["state"] in ENDED else self.refresh().info["state"])

    @property
    def prompt(self) -> str:
        return str(self.info.get("prompt") or "")

    def wait(self, progress: Told = None, timeout: float | None = None, check: bool = True) -> Self:
        """Until it has ended. Asks again and again, so that a studio that starts again meanwhile does not matter; when
        it is gone for longer than the client's patience, it says so. `check`: RemoteFailed where the job failed or
        waits for somebody; cancelled is an end like any other."""
        until, pause = None if timeout is None else time.monotonic() + timeout, FIRST_S
        with ExitStack() as stack:
            tell = self._teller(progress, stack)
            while True:
                before, state = self.info, self.refresh().info["state"]
                if tell is not None:
                    tell(self)
                if state in ENDED:
                    break
                if until is not None and time.monotonic() + pause > until:
                    raise TimeoutError(f"job {self.id}: still {state} after {timeout:g} s; it goes on without you")
                time.sleep(pause)
                moved = before.get("seq") != self.info.get("seq")
                pause = FIRST_S if moved else min(1.3 * pause, MOST_S)
        if check and self.info["state"] in (FAILED, INTERRUPTED):
            raise RemoteFailed(self)
        return self

    def _teller(self, progress: Told, stack: ExitStack) -> Callable[[RemoteJob], None] | None:
        if progress is not None and not isinstance(progress, bool):
            return progress
        if progress is not False and "IPython" in sys.modules:
            from dreamlab.python.notebook import JobBlock, in_notebook

            if in_notebook():
                shown = JobBlock()
                return lambda job: shown.update(job.info)
        if progress or (progress is None and sys.stderr.isatty()):
            from dreamlab.python.bar import Bar

            return _Watch(stack.enter_context(Bar())).update
        return None

    def download(self, folder: str | Path, names: Sequence[str] | None = None) -> list[Path]:
        """What it has exported into a folder, each file held against its SHA-256; `names`: only those."""
        found = self.refresh().info.get("artifacts") or []
        known = {str(each["name"]).removeprefix("export/"): each for each in found}
        for name in names or ():
            if name not in known:
                raise InputError(f"job {self.id}: has no file {name!r}; it has {', '.join(known) or 'none yet'}")
        made = []
        for name in known if names is None else names:
            place = safe_place(Path(folder), name)
            made.append(self.wire.fetch(str(known[name]["url"]), place, str(known[name].get("sha256") or "")))
        return made

    def cancel(self, keep: bool = False) -> Self:
        """Stop it, with a checkpoint; `keep`: what it has made is exported as it stands."""
        return self._told("cancel", {"keep": keep})

    def retry(self) -> Self:
        """Let one that failed, was cancelled or interrupted go on."""
        return self._told("retry")

    def favourite(self, on: bool = True) -> Self:
        return self._told("favourite", {"on": on})

    def move(
        self, before: str | None = None, after: str | None = None, lane: str | None = None, priority: int | None = None
    ) -> Self:
        """Another place in the queue: before or after another job, in a lane, with a priority."""
        return self._told("move", _given(before=before, after=after, lane=lane, priority=priority))

    def delete(self) -> None:
        """Into the trash, with its run."""
        self.wire.delete(self._path())

    def restore(self) -> Self:
        return self._told("restore")

    def continue_(self, steps: int) -> RemoteJob:
        """A job of its own that makes so many more steps; this one stays as it is."""
        return self._made("continue", {"steps": steps})

    def branch(
        self,
        *,
        step: int | None = None,
        prompt: str | None = None,
        negative: str | None = None,
        seed: int | None = None,
        steps: int | None = None,
        **settings: object,
    ) -> RemoteJob:
        """A job of its own that starts where this one stood, at a kept checkpoint, with other words, rules or seed."""
        body = _given(step=step, prompt=prompt, negative=negative, seed=seed, steps=steps, settings=settings or None)
        return self._made("branch", body)

    def export(
        self,
        formats: str | Sequence[str] | None = None,
        preset: str | None = None,
        faces: int | None = None,
        texture: int | None = None,
        height: float | None = None,
        origin: str | None = None,
    ) -> RemoteJob:
        """A job that writes the files again, in other formats and sizes."""
        names = formats.split(",") if isinstance(formats, str) else None if formats is None else list(formats)
        asked = _given(formats=names, preset=preset, faces=faces, texture=texture, height=height, origin=origin)
        return self._made("export", asked)

    def metrics(self, after: int = -1) -> list[Json]:
        """Its curves, from a step on."""
        return list(self.wire.get(f"{self._path()}/metrics", after=after)["points"])

    def log(self) -> str:
        """What its run has written down."""
        text, after = "", 0
        while True:
            found = self.wire.get(f"{self._path()}/log", after=after)
            text, further = text + str(found.get("text") or ""), int(found.get("next") or after)
            if further <= after:
                return text
            after = further

    @property
    def succeeded(self) -> bool:
        return self.state == SUCCEEDED

    def _path(self) -> str:
        return f"v1/jobs/{quote(self.id, safe='')}"

    def _told(self, verb: str, body: Json | None = None) -> Self:
        self.info = self.wire.post(f"{self._path()}/{verb}", body)
        return self

    def _made(self, verb: str, body: Json) -> RemoteJob:
        return RemoteJob(self.wire, self.wire.post(f"{self._path()}/{verb}", body))

    def __repr__(self) -> str:
        return f"<dreamlab.RemoteJob {self.id} {self.prompt!r}, {self.info['state']}>"


def _given(**values: object) -> Json:
    return {key: value for key, value in values.items() if value is not None}
