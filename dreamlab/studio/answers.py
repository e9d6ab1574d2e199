# SPDX-License-Identifier: Apache-2.0
"""What the server says: a reply of a handler, and every way to refuse, with its status and one typed body."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dreamlab.core.errors import DiskError, DreamError, InputError, ModelError, OutOfMemory, RecipeError
from dreamlab.jobs.asking import BadRequest, FieldError
from dreamlab.jobs.states import Conflict, JobUnknown, QueueBusy, QueueFull

JSON = "application/json"
RETRY_S = 5  # seconds that a client is asked to wait
MOST_NAME = 80  # characters of a field's name


class Refusal(Exception):
    """A request that gets no for an answer."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str = "",
        fields: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint
        self.fields, self.headers = tuple(fields), dict(headers or {})

    def reply(self) -> Reply:
        told: dict[str, object] = {"code": self.code, "message": self.message, "hint": self.hint}
        told["fields"] = [each.plain() for each in self.fields]
        return Reply({"error": told}, self.status, self.headers)


def nothing() -> None:
    """There is nothing to close."""


@dataclass(frozen=True)
class Reply:
    """What a handler answers: data that becomes JSON, bytes, or parts that are sent as they come."""

    body: object | bytes | Iterator[bytes] | AsyncIterator[bytes]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = JSON
    close: Callable[[], None] = nothing  # called once, however the sending of it ends

    def data(self) -> bytes:
        """The whole body; only of replies that are no stream."""
        if isinstance(self.body, bytes):
            return self.body
        # A prompt may hold a surrogate half that no UTF-8 has; ASCII escapes carry it.
        return (json.dumps(self.body, ensure_ascii=True, allow_nan=False) + "\n").encode()

    @property
    def streams(self) -> bool:
        return isinstance(self.body, Iterator | AsyncIterator)


def invalid(*fields: FieldError) -> Refusal:
    """422: nothing is queued; the fields say what to change."""
    first = fields[0]
    return Refusal(422, "invalid", first.line(), "change the fields named and send it again", fields)


def unknown(what: str) -> Refusal:
    """404: also of what another owner has; whether it exists is nobody's business."""
    return Refusal(404, "unknown", f"{what}: there is none", "look at the list for what there is")


def busy(status: int, message: str, seconds: int = RETRY_S) -> Refusal:
    """429 or 503, with the time after which to try again."""
    code = "too_many" if status == 429 else "unavailable"
    return Refusal(status, code, message, f"try again in {seconds} s", headers={"Retry-After": str(seconds)})


# What an engine's error means to a client; the first class that fits decides.
_MEANINGS: tuple[tuple[type[DreamError], int, str, str], ...] = (
    (JobUnknown, 404, "unknown", "look at the list for what there is"),
    (Conflict, 409, "conflict", "ask for the job's state, then for what goes with it"),
    (DiskError, 507, "disk", "free some space on the server's disk"),
    (ModelError, 409, "model", "take a recipe whose models are on this machine"),
    (OutOfMemory, 503, "memory", "ask for less, or wait until other jobs are done"),
    (RecipeError, 422, "recipe", "change the settings"),
    (InputError, 422, "input", "change what was given"),
)


def refused(error: DreamError) -> Refusal:
    """The engine's complaint as a reply: the message is its own, one line."""
    message = " ".join(str(error).split())
    if isinstance(error, BadRequest):
        return invalid(*error.fields)
    if isinstance(error, QueueFull):
        return busy(429 if error.own else 503, message, error.retry_after)
    if isinstance(error, QueueBusy):
        return busy(503, message)
    for kind, status, code, hint in _MEANINGS:
        if isinstance(error, kind):
            fields = [FieldError(_place(message), message)] if status == 422 else []
            return Refusal(status, code, message, hint, fields)
    return Refusal(500, "defect", message, "look at the server's log")


def _place(message: str) -> str:
    """The field that a message begins with: `prompt: ...`, `stages.0.steps must be ...`."""
    word = message.split(maxsplit=1)[0].rstrip(":") if message else ""
    return word if word.replace(".", "").replace("_", "").isalnum() and len(word) <= MOST_NAME else ""
