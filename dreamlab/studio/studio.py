# SPDX-License-Identifier: Apache-2.0
"""What a running studio is made of; handlers get it with every call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dreamlab.jobs.index import RunIndex
from dreamlab.jobs.queue import Queue
from dreamlab.studio.auth import Porter
from dreamlab.studio.guard import Names
from dreamlab.studio.sse import OpenStreams
from dreamlab.studio.uploads import Uploads


@dataclass(frozen=True)
class Options:
    """As `dreamlab studio` was asked."""

    root: Path = Path("runs")
    address: str = "127.0.0.1"
    port: int = 7860
    users: Mapping[str, str] = field(default_factory=dict)  # name -> hash; none: everybody is one owner
    names: frozenset[str] = frozenset()  # under which it may be asked for, besides this machine's
    devices: tuple[str, ...] = ("cpu",)
    page: bool = True
    mcp: bool = False
    work: bool = True  # keeps a supervisor

    @property
    def open(self) -> bool:
        """Whether other machines can reach it."""
        return self.address not in ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Studio:
    """The queue and what belongs to it, for as many threads as like."""

    options: Options
    queue: Queue
    index: RunIndex
    uploads: Uploads
    door: Porter
    streams: OpenStreams = field(default_factory=OpenStreams)

    @property
    def root(self) -> Path:
        return self.options.root

    @property
    def names(self) -> Names:
        return Names(self.options.open, self.options.names)
