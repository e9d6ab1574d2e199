# SPDX-License-Identifier: Apache-2.0
"""REST as an ASGI application: finds the endpoint, knows the owner, binds query and body, and lets a thread do the
work, so that no look at a disk ever holds up the others."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs

from dreamlab.core.errors import DreamError, is_disk_error
from dreamlab.core.text import printable
from dreamlab.jobs.asking import FieldError, bind, shown
from dreamlab.studio.answers import JSON, Refusal, Reply, busy, invalid, refused
from dreamlab.studio.api.base import RAW, Call, Endpoint
from dreamlab.studio.guard import Message, Receive, Scope, Send, header, send_reply
from dreamlab.studio.schema import bound_texts
from dreamlab.studio.studio import Studio

THREADS, MOST_PENDING = 24, 400  # at once, and waiting for one
DEEPEST = 40  # of a body's JSON
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Route:
    pattern: re.Pattern[str]
    endpoint: Endpoint


def _pattern(path: str) -> re.Pattern[str]:
    """{name} is a part without a slash, {name*} the rest."""
    parts = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path))
    return re.compile(re.sub(r"\\{(\w+)\\\*\\}", r"(?P<\1>.+)", parts), re.DOTALL)


class Threads:
    """Where handlers run; refuses what would wait too long."""

    def __init__(self) -> None:
        self.pool, self.pending = ThreadPoolExecutor(THREADS, "studio"), 0

    async def run(self, work: Callable[[], Result]) -> Result:
        if self.pending >= MOST_PENDING:
            raise busy(503, "too many requests at once")
        self.pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, work)
        finally:
            self.pending -= 1


class Api:
    """The endpoints of a studio."""

    def __init__(self, studio: Studio, endpoints: Sequence[Endpoint]) -> None:
        self.studio, self.threads = studio, Threads()
        self.routes = [_Route(_pattern(each.path), each) for each in endpoints]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = await self._answer(scope, receive)
        except Refusal as refusal:
            reply = refusal.reply()
        except DreamError as error:  # of binding
            reply = refused(error).reply()
        await deliver(reply, scope, receive, send, self.threads)

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        endpoint, path = self._find(scope)
        owner = await self.owner(scope)
        if owner is None:
            if not endpoint.open:
                raise sign_in()
            owner = ""
        call = Call(self.studio, owner, path, _query(endpoint, scope), None, _headers(scope), address_of(scope))
        if endpoint.body is RAW:
            return await self._with_file(endpoint, call, receive)
        call = await self._with_body(endpoint, call, receive)
        return await self.threads.run(lambda: guarded(endpoint, call))

    def _find(self, scope: Scope) -> tuple[Endpoint, Mapping[str, str]]:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        found = [(route.endpoint, match) for route in self.routes if (match := route.pattern.fullmatch(scope["path"]))]
        for endpoint, match in found:
            if endpoint.method == method:
                return endpoint, match.groupdict()
        if not found:
            raise Refusal(404, "unknown", "nothing lies at this address", "GET /v1/openapi.json says what there is")
        allowed = ", ".join(sorted({endpoint.method for endpoint, _ in found}))
        raise Refusal(
            405,
            "method",
            f"{printable(method)[:20]} is not for this address",
            f"use {allowed}",
            headers={"Allow": allowed},
        )

    async def owner(self, scope: Scope) -> str | None:
        """Whoever the request proves to be of; None: nobody."""
        told, cookies = header(scope, b"authorization"), header(scope, b"cookie")
        door, address = self.studio.door, address_of(scope)
        if told[:6].lower() != "basic ":
            return door.who(told, cookies, address)
        return await self.threads.run(lambda: door.who(told, cookies, address))

    async def _with_body(self, endpoint: Endpoint, call: Call, receive: Receive) -> Call:
        if endpoint.body is None:
            return call
        data = b"".join([part async for part in parts_of(receive)])
        if endpoint.body is bytes:
            return replace(call, body=data)
        kind = call.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not data and endpoint.optional:
            data, kind = b"{}", JSON
        if kind != JSON:
            raise Refusal(415, "kind", "the body must be JSON", f"send Content-Type: {JSON}")
        given = parsed_json(data)
        if endpoint.body is not dict:
            assert isinstance(endpoint.body, type)
            return replace(call, body=bind(endpoint.body, given))
        if not isinstance(given, dict):
            raise invalid(FieldError("", "must be an object", shown(given), "a JSON object"))
        return replace(call, body=given)

    async def _with_file(self, endpoint: Endpoint, call: Call, receive: Receive) -> Reply:
        place: Path = await self.threads.run(self.studio.uploads.arriving)
        try:
            handle = await self.threads.run(lambda: place.open("xb"))
            try:
                async for part in parts_of(receive):
                    if part:
                        await self.threads.run(lambda part=part: disk(lambda: handle.write(part)))  # type: ignore[misc]
            finally:
                handle.close()
            return await self.threads.run(lambda: guarded(endpoint, replace(call, file=place)))
        finally:
            place.unlink(missing_ok=True)


def sign_in() -> Refusal:
    # No WWW-Authenticate: Basic, or the browser would ask in a window of its own and keep what it is told for ever.
    return Refusal(401, "sign_in", "this studio has users: say who you are", "POST /v1/login, or Authorization: Basic",
                   headers={"WWW-Authenticate": "Bearer"})  # fmt: skip


def guarded(endpoint: Endpoint, call: Call) -> Reply:
    """What a handler answers, whatever happens in it."""
    try:
        return endpoint.handler(call)
    except Refusal:
        raise
    except DreamError as error:
        raise _private(refused(error), call) from None
    except MemoryError:
        raise busy(503, "the server has no memory left for this", 30) from None
    except OSError as error:
        if is_disk_error(error):
            raise _full(error) from None
        raise defect(error) from None
    except Exception as error:
        raise defect(error) from None


def _private(refusal: Refusal, call: Call) -> Refusal:
    """Where the runs lie on the server's disk is not told to other machines."""
    if call.studio.options.open:
        for place in (str(call.studio.root.absolute()), str(call.studio.root)):
            refusal.message = refusal.message.replace(place, "runs")
            refusal.fields = tuple(replace(each, msg=each.msg.replace(place, "runs")) for each in refusal.fields)
    return refusal


def disk(work: Callable[[], Result]) -> Result:
    try:
        return work()
    except OSError as error:
        raise _full(error) from None


def _full(error: OSError) -> Refusal:
    said = (error.strerror or "the system refused it").lower()
    return Refusal(507, "disk", f"the server cannot write this: {said}", "free some space on the server's disk")


def defect(error: Exception) -> Refusal:
    """What nobody foresaw: where it happened is for the server's own terminal."""
    traceback.print_exception(error, file=sys.stderr)
    return Refusal(500, "defect", "an error that nobody foresaw", "the server's terminal says where; please report it")


async def parts_of(receive: Receive) -> AsyncIterator[bytes]:
    """A request's body; Refusal where the client leaves in the middle of it."""
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "cut_off", "the body ended early")
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


def parsed_json(data: bytes) -> object:
    """A body's value, of bounded depth, with numbers that JSON has."""

    def no_number(text: str) -> float:
        raise ValueError(f"{text} is no number of JSON")

    try:
        found: object = json.loads(data, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise Refusal(
            422, "json", f"the body is no JSON ({printable(str(error))[:120]})", "send one JSON object"
        ) from None
    check_tree(found)
    return found


def check_tree(value: object) -> None:
    """Its depth, and that its texts are some; without recursion, for a body may be as deep as it is long."""
    todo = [(value, 1)]
    while todo:
        each, level = todo.pop()
        if level > DEEPEST:
            raise Refusal(422, "json", f"the body is nested deeper than {DEEPEST} levels", "send a flatter one")
        if isinstance(each, str) and not each.isascii() and any("\ud800" <= char <= "\udfff" for char in each):
            raise Refusal(422, "json", "a text holds half a character, which no UTF-8 has", "send whole ones")
        children = [*each, *each.values()] if isinstance(each, dict) else each if isinstance(each, list) else ()
        todo += [(child, level + 1) for child in children]


def _query(endpoint: Endpoint, scope: Scope) -> object:
    try:
        given = parse_qs(scope["query_string"].decode("ascii"), True, False, "utf-8", "strict", 64)
    except ValueError:
        raise invalid(FieldError("query", "is no query in UTF-8 with at most 64 parameters")) from None
    return bound_texts(endpoint.query, given)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def address_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


async def deliver(reply: Reply, scope: Scope, receive: Receive, send: Send, threads: Threads) -> None:
    """Send a reply, part by part where it is a stream, until its end or until nobody listens."""
    try:
        if not reply.streams or scope["method"] == "HEAD":
            await _send_whole(reply, scope["method"] == "HEAD", send)
        else:
            await _send_parts(reply, receive, send, threads)
    finally:
        reply.close()


async def _send_whole(reply: Reply, bare: bool, send: Send) -> None:
    data = b"" if reply.streams else reply.data()
    length = {name.lower(): value for name, value in reply.headers.items()}.get("content-length", str(len(data)))
    headers = {**reply.headers, "content-length": length}
    await send_reply(Reply(b"" if bare else data, reply.status, headers, reply.kind), send)


async def _send_parts(reply: Reply, receive: Receive, send: Send, threads: Threads) -> None:
    told = {"content-type": reply.kind} | {name.lower(): value for name, value in reply.headers.items()}
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    gone = asyncio.create_task(_left(receive))
    try:
        while not gone.done():
            step = asyncio.create_task(_next(reply.body, threads))
            await asyncio.wait({gone, step}, return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)
                return
            if (part := step.result()) is None:
                return await send({"type": "http.response.body", "body": b""})
            await send({"type": "http.response.body", "body": part, "more_body": True})
    finally:
        gone.cancel()


async def _next(parts: object, threads: Threads) -> bytes | None:
    """The next part of a stream, or of a file, which a thread reads."""
    if isinstance(parts, AsyncIterator):
        return await anext(parts, None)
    assert isinstance(parts, Iterator)
    return await threads.run(lambda: next(parts, None))


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
