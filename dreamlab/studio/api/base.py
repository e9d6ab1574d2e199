# SPDX-License-Identifier: Apache-2.0
"""What an endpoint is: where it lies, what it takes, what it answers. The router, the binding of requests and the
OpenAPI document all read the same rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dreamlab.jobs.asking import FieldError
from dreamlab.jobs.states import Job, JobUnknown
from dreamlab.studio.answers import Reply, invalid, unknown
from dreamlab.studio.studio import Studio

ID = re.compile(r"[a-z0-9]{12,64}")
KEY = re.compile(r"[\x21-\x7e]{1,255}")
Form = TypeVar("Form")


@dataclass(frozen=True)
class Nothing:
    """No parameters."""


@dataclass(frozen=True)
class Call:
    """A request, checked and bound."""

    studio: Studio
    owner: str
    path: Mapping[str, str] = field(default_factory=dict)
    query: object = Nothing()
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    file: Path | None = None  # where a raw body has been put

    def asked(self, form: type[Form]) -> Form:
        """The query's parameters."""
        assert isinstance(self.query, form)
        return self.query

    def given(self, form: type[Form]) -> Form:
        """The body."""
        assert isinstance(self.body, form)
        return self.body

    def job(self) -> Job:
        """The job that the path names; of another owner there is none, as of an id that nobody has."""
        return owned(self.studio, self.owner, self.path["id"])

    def key(self) -> str:
        """The Idempotency-Key, empty where there is none."""
        key = self.headers.get("idempotency-key", "")
        if key and not KEY.fullmatch(key):
            raise invalid(FieldError("Idempotency-Key", "must be 1 to 255 visible ASCII characters", key[:80]))
        return key


def owned(studio: Studio, owner: str, identity: str) -> Job:
    """A job of the owner's; Refusal 404 for any other id."""
    if not ID.fullmatch(identity):
        raise unknown(f"job {identity[:64]!r}")
    try:
        job = studio.queue.job(identity)
    except JobUnknown:
        raise unknown(f"job {identity!r}") from None
    if job.owner != owner:
        raise unknown(f"job {identity!r}")
    return job


Handler = Callable[[Call], Reply]
RAW = object()  # as a body: bytes, put into a file as they come


@dataclass(frozen=True)
class Endpoint:
    """One row of the interface."""

    method: str
    path: str  # {name} is a part of one segment
    handler: Handler
    about: str
    query: type = Nothing
    body: object = None  # a request's class; dict: an object that the handler binds, one of `forms`; RAW; or none
    forms: tuple[type, ...] = ()
    answer: object = None  # a dataclass, a schema, or None: an object
    status: int = 200
    refuses: tuple[int, ...] = ()
    kind: str = "application/json"
    open: bool = False  # may be asked without signing in
    optional: bool = False  # the body may be left out

    @property
    def name(self) -> str:
        """Its operation's id in the document."""
        return self.handler.__name__
