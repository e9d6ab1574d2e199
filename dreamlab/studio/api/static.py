# SPDX-License-Identifier: Apache-2.0
"""The page's own scripts and styles, from this server alone; they hold nothing of anybody."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from dreamlab.studio.answers import Reply, unknown
from dreamlab.studio.api.base import Call, Endpoint
from dreamlab.studio.files import kind_of, sent

STATIC = Path(__file__).parents[1] / "static"


@lru_cache(maxsize=1)
def names() -> frozenset[str]:
    """What there is; nothing else is ever opened."""
    return frozenset(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file())


def static(call: Call) -> Reply:
    """One of the page's files, asked for anew each time and sent only when it changed."""
    name = call.path["name"]
    if name not in names():
        raise unknown(f"file {name[:80]!r}")
    found = sent(STATIC, name, call.headers, kind_of(name), "", Path(name).name, lasting=False)
    headers = {key: value for key, value in found.headers.items() if key != "Content-Disposition"}
    return Reply(found.body, found.status, headers, found.kind, found.close)


PAGES = (Endpoint("GET", "/static/{name*}", static, "A file of the page", kind="*/*", open=True),)
