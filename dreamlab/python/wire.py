# SPDX-License-Identifier: Apache-2.0
"""Requests to a studio: the standard library alone; every refusal an exception that says what to do; patience with a
server that is busy or starts again. Every request may be sent twice: what makes something has an idempotency key."""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import json
import random
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import quote, urlencode, urljoin, urlsplit

from dreamlab.core.errors import DiskError, DreamError, InputError
from dreamlab.core.files import Json, disk_errors
from dreamlab.core.redirects import StayHere
from dreamlab.core.text import printable

MOST_ANSWER = 64 << 20  # bytes of JSON
FIRST_S, MOST_S = 0.5, 15.0  # between tries
AGAIN = {429, 502, 503, 504}
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class StudioError(DreamError):
    """What a studio answers when it does not do what was asked."""

    def __init__(self, message: str, status: int = 0, code: str = "", hint: str = "", fields: list[Json] | None = None):
        said = [printable(message), *([printable(hint)] if hint else [])]
        super().__init__("; ".join(said))
        self.status, self.code, self.hint, self.fields = status, code, hint, fields or []


class StudioUnreachable(StudioError):
    """Nobody answers there."""

    exit_code = 75


class StudioBusy(StudioError):
    """The queue is full, or too much was asked; later it may not be."""

    exit_code = 75


class StudioForbids(StudioError):
    """The token is missing, wrong, or not for this."""

    exit_code = 3


class StudioUnknown(StudioError):
    """There is no such thing, or it is somebody else's."""

    exit_code = 3


class StudioConflict(StudioError):
    """It does not go with the state the thing is in."""

    exit_code = 3


class StudioRejects(StudioError):
    """What was sent cannot be meant; `fields` say which of it."""

    exit_code = 2


class StudioDisk(StudioError):
    """The studio's disk is full."""

    exit_code = 7


_KINDS: Mapping[int, type[StudioError]] = {
    401: StudioForbids,
    403: StudioForbids,
    404: StudioUnknown,
    409: StudioConflict,
    400: StudioRejects,
    413: StudioRejects,
    415: StudioRejects,
    422: StudioRejects,
    429: StudioBusy,
    503: StudioBusy,
    507: StudioDisk,
}


class StudioWire:
    """One studio, and how patient one is with it: `patience` seconds of trying again in all, for each request."""

    def __init__(self, url: str, token: str | None, timeout: float, patience: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise InputError(f"{printable(url)}: is no address of a studio; e.g. http://127.0.0.1:7860")
        self.url, self.token, self.timeout, self.patience = url.rstrip("/") + "/", token, timeout, patience
        self._origin = (parts.scheme, parts.netloc)
        direct = [urllib.request.ProxyHandler({})] if parts.hostname in LOOPBACK else []
        self._opener = urllib.request.build_opener(StayHere, *direct)

    def get(self, path: str, **query: object) -> Json:
        """The answer; what is None is not asked."""
        asked = {key: _word(value) for key, value in query.items() if value is not None}
        return self._json("GET", path + (f"?{urlencode(asked)}" if asked else ""), None, {})

    def post(self, path: str, body: object | None = None) -> Json:
        """The same key at every try: what was made the first time is what the second gives back."""
        data = json.dumps({} if body is None else body, default=_simple).encode()
        return self._json("POST", path, data, {"Idempotency-Key": secrets.token_hex(16)})

    def delete(self, path: str) -> Json:
        return self._json("DELETE", path, None, {})

    def upload(self, path: str, file: Path) -> Json:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror})") from None
        headers = {"X-Filename": quote(file.name), "Content-Type": "application/octet-stream"}
        return self._json("POST", path, data, headers | {"Idempotency-Key": secrets.token_hex(16)})

    def fetch(self, url: str, to: Path, digest: str = "") -> Path:
        """A file of the studio's; what arrives broken is asked for again, and nothing half of it is left."""
        part = to.with_name(f".{to.name}.part")
        with disk_errors("keeping a download", to):
            to.parent.mkdir(parents=True, exist_ok=True)
            try:
                for _ in self._tries():
                    if self._copied(url, part, digest):
                        part.replace(to)
                        return to
            finally:
                part.unlink(missing_ok=True)
        raise StudioUnreachable(f"{to.name}: arrives broken every time", hint="ask for it again later")

    def _copied(self, url: str, part: Path, digest: str) -> bool:
        sums = hashlib.sha256()
        with self._answer("GET", url, None, {}) as answer, part.open("wb") as handle:
            try:
                while block := answer.read(1 << 20):
                    sums.update(block)
                    handle.write(block)
            except (http.client.HTTPException, ConnectionError, TimeoutError):
                return False
            return not answer.length and digest in ("", sums.hexdigest())

    def _json(self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]) -> Json:
        for _ in self._tries():
            with self._answer(method, path, data, headers) as answer:
                try:
                    text = answer.read(MOST_ANSWER + 1)
                except (http.client.HTTPException, ConnectionError, TimeoutError):
                    continue
                if len(text) <= MOST_ANSWER and answer.length:  # it broke off on the way, which `read` does not say
                    continue
            return _object(text, path)
        raise StudioUnreachable(f"{self.url}: its answer breaks off every time", hint="is there a proxy between?")

    @contextmanager
    def _answer(self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]) -> Iterator[HTTPResponse]:
        """An answer that is one, after as many tries as patience allows."""
        until, tries = time.monotonic() + self.patience, self._waits()
        while True:
            try:
                answer = self._opener.open(self._request(method, path, data, headers), timeout=self.timeout)
                break
            except urllib.error.HTTPError as error:
                with error:
                    failure, wait = _failure(error), max(next(tries), _retry_after(error))
                    if error.code not in AGAIN or time.monotonic() + wait > until:
                        raise failure from None
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                wait = next(tries)
                if time.monotonic() + wait > until:
                    why = error.reason if isinstance(error, urllib.error.URLError) else error
                    hint = "is it running? dreamlab studio starts one"
                    raise StudioUnreachable(f"{self.url}: nobody answers ({why})", hint=hint) from None
            time.sleep(wait)
        with answer:
            yield answer

    def _request(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> urllib.request.Request:
        url = urljoin(self.url, path)
        if urlsplit(url)[:2] != self._origin:
            raise StudioError(f"{printable(url)}: is not of this studio, and is not asked for")
        own = {"Accept": "application/json, */*", "User-Agent": "dreamlab-python"}
        own |= {"Content-Type": "application/json"} if data is not None else {}
        own |= {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return urllib.request.Request(url, data, own | dict(headers), method=method)  # noqa: S310  # http or https

    def _tries(self) -> Iterator[None]:
        """As often as patience allows, and once at least."""
        until = time.monotonic() + self.patience
        for wait in self._waits():
            yield
            if time.monotonic() + wait > until:
                return
            time.sleep(wait)

    def _waits(self) -> Iterator[float]:
        """Twice as long each time, not all clients at once."""
        wait = FIRST_S
        for _ in range(64):
            yield wait * random.uniform(0.5, 1.0)  # noqa: S311
            wait = min(2 * wait, MOST_S)


def _retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds, or until a date; 0 where nothing is said."""
    said = error.headers.get("Retry-After", "") if error.headers else ""
    if said.strip().isdecimal():
        return float(said)
    try:
        return max(email.utils.parsedate_to_datetime(said).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return 0.0


def _failure(error: urllib.error.HTTPError) -> StudioError:
    """What the studio says is wrong; of another server, its status."""
    kind = _KINDS.get(error.code, StudioError)
    try:
        told = json.loads(error.read(1 << 20))["error"]
        fields = [field for field in told.get("fields") or [] if isinstance(field, dict)]
        message = str(told["message"])
        message += "".join(f"; {field.get('loc')}: {field.get('msg')}" for field in fields[1:5])
        return kind(message, error.code, str(told.get("code", "")), str(told.get("hint") or ""), fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError, http.client.HTTPException):
        return kind(f"status {error.code} ({error.reason})", error.code, hint="is this a studio of DreamLab?")


def _object(text: bytes, path: str) -> Json:
    try:
        found = json.loads(text) if len(text) <= MOST_ANSWER else None
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list):
        return {"items": found}
    if not isinstance(found, dict):
        raise StudioError(f"{path}: the answer is no JSON", hint="is this a studio of DreamLab?")
    return found


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _simple(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy
        return value.tolist()
    raise InputError(f"a {type(value).__name__} is no value of a recipe")


def safe_place(folder: Path, name: str) -> Path:
    """Where a file that a server names may lie: below the folder, whatever the name says."""
    parts = name.split("/")
    bad = any(part in ("", ".", "..") or set(part) & set('\\:\0<>|?*"') for part in parts)
    if bad or len(name) > 400 or not name.isprintable():
        raise DiskError(f"{printable(name)!r}: is no name that a studio may give a file here; nothing is written")
    return folder.joinpath(*parts)
