# SPDX-License-Identifier: Apache-2.0
"""A run that forms in a notebook: one block of HTML, put anew a few times a second."""

from __future__ import annotations

import base64
import html
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Protocol

from dreamlab.core.files import Json
from dreamlab.python.bar import Tempo, Ticking
from dreamlab.run.folder import Run

EVERY_S = 0.25
MOST_PICTURE = 1 << 20  # bytes of a strip
STYLE = "font:13px/1.5 system-ui,sans-serif;max-width:560px;font-variant-numeric:tabular-nums"


class Displayed(Protocol):
    """What IPython gives back for what it displays."""

    def update(self, shown: object) -> None: ...


def in_notebook() -> bool:
    """Whether a kernel runs us; IPython in a terminal draws no HTML. Nothing is imported that is not there already."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


class NotebookProgress:
    """Feed it `Tick`s."""

    def __init__(self, run: Run) -> None:
        self.run, self.pace = run, Tempo()
        self.tick: Ticking | None = None
        self.notes: list[str] = []
        self.began, self.drawn = time.monotonic(), 0.0
        self.shown: Displayed | None = None

    def __enter__(self) -> NotebookProgress:
        from IPython.display import HTML, display

        self.shown = display(HTML(block("starting")), display_id=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took = f"{time.monotonic() - self.began:.0f} s"
        self._draw(f"finished in {took}" if error is None else f"stopped after {took}", done=True)

    def update(self, tick: Ticking) -> None:
        left = self.pace.at(tick)
        self.tick = tick
        self.notes += [tick.note] if tick.note else []
        if time.monotonic() - self.drawn < EVERY_S and tick.done < tick.total:
            return
        pace = f"{self.pace.rate:.1f} it/s, {clock(left)} left" if self.pace.rate else "starting"
        self._draw(f"{tick.stage} {tick.step}/{tick.steps}, {pace}, loss {tick.metrics['loss']:.4g}")

    def _draw(self, line: str, done: bool = False) -> None:
        from IPython.display import HTML

        share = 0.0 if self.tick is None else self.tick.done / max(self.tick.total, 1)
        if self.shown is not None:
            self.shown.update(HTML(block(line, share, "" if done else strip(self.run), self.notes)))
        self.drawn = time.monotonic()


class JobBlock:
    """A job of a studio while somebody waits for it."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self.shown: Displayed = display(HTML(block("queued")), display_id=True)

    def update(self, info: Json) -> None:
        from IPython.display import HTML

        line = str(info["state"])
        if line == "queued" and info.get("position"):
            line += f", number {info['position']} in the queue"
        if line == "running" and info.get("total"):
            line += f", {info.get('stage') or 'step'} {info.get('step')}/{info['total']}"
            line += f", {info['it_per_s']:.1f} it/s, {clock(info['eta_s'])} left" if info.get("eta_s") else ""
        self.shown.update(HTML(block(line, float(info.get("progress") or 0.0))))


def clock(seconds: float) -> str:
    """As people say it."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600}:{whole // 60 % 60:02d} h"


def block(line: str, share: float = 0.0, picture: str = "", notes: list[str] | None = None) -> str:
    """The line in words, how far it is, and the newest four views."""
    bar = (
        f'<div role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{100 * share:.0f}" '
        'style="height:4px;border-radius:2px;background:#8884;margin:4px 0 8px">'
        f'<div style="height:4px;border-radius:2px;background:#4f7cff;width:{100 * share:.1f}%"></div></div>'
    )
    shown = f'<img alt="four views of the scene as it forms" style="width:100%" src="{picture}">' if picture else ""
    said = "".join(f"<div>{html.escape(note)}</div>" for note in notes or ())
    return f'<div style="{STYLE}"><div>{html.escape(line)}</div>{bar}{said}{shown}</div>'


def strip(run: Run) -> str:
    """The newest picture of the scene as it forms, as a data: address; "" while there is none."""
    found = [path for path in run.previews.glob("step_*.png") if path.stem[5:].isdecimal()]
    return picture_address(max(found, key=lambda path: int(path.stem[5:]))) if found else ""


def picture_address(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError:  # pruned meanwhile
        return ""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}" if len(data) <= MOST_PICTURE else ""
