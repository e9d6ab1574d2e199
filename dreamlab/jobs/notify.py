# SPDX-License-Identifier: Apache-2.0
"""Webhooks: whoever submits a job may name an https address that hears of each of its states.

A delivery is a POST of a few lines of JSON, signed, at least once and in any order (`seq` grows: what it has heard, a
receiver drops). Nobody waits for it: a thread of the supervisor reads the queue's changes. The address is the word of a
stranger, so it is resolved and looked at first: what is not a public address is not spoken to, and what was looked at
is what is connected to, whatever the name means a moment later.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import json
import secrets
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from dreamlab import __version__
from dreamlab.core.errors import DreamError, InputError
from dreamlab.core.files import write_atomic, write_json
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import CANCELLED, JobChange, JobUnknown
from dreamlab.jobs.workplace import Workplace

MOST_OF_AN_OWNER = 5  # deliveries under way
MOST = 16  # of all
MOST_URL = 2000
TIMEOUT_S = 10.0
DELAYS_S = (2.0, 10.0, 60.0, 300.0, 1800.0)  # after the first try, the second, ...; then it is given up
EVERY_S = 1.0
NOTE_S = 60.0  # between notes of changes that nobody wants to hear of
SIGNATURE = "Dreamlab-Signature"
STATED = ("claimed", "finished", "superseded", "retried")  # changes that give a job another state
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Undeliverable(Exception):
    """It will not be delivered however often it is tried."""


# ---- where to ----------------------------------------------------------------------------------------------------


def check_url(url: str) -> SplitResult:
    """An address that may be spoken to, as far as that can be said without asking what its name means."""
    if len(url) > MOST_URL or not url.isprintable() or " " in url:
        raise InputError(f"webhook: at most {MOST_URL} printable characters without spaces")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InputError("webhook: is no address; give one such as https://example.org/hook") from None
    if parts.scheme != "https" or not host or port == 0:
        raise InputError("webhook: must be an https address, such as https://example.org/hook")
    if parts.username is not None or parts.password is not None:
        raise InputError("webhook: leave out name and password; deliveries are signed")
    with contextlib.suppress(ValueError):
        if not public(ipaddress.ip_address(host)):
            raise InputError(f"webhook: {host} is no public address")
    return parts


def public(address: Address) -> bool:
    """Whether anybody on the internet may be meant: not this machine or its network, however they are written."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo is not None or (inner is not None and not public(inner)):
            return False
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast


def resolved(host: str, port: int) -> list[str]:
    """All addresses of a name."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@dataclass(frozen=True)
class Wire:
    """How others are reached; tests have a net of their own."""

    context: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    resolve: Callable[[str, int], Sequence[str]] = resolved
    permitted: Callable[[Address], bool] = public

    def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        """The answer's status. Redirections are not followed: they would lead anywhere."""
        parts = check_url(url)
        assert parts.hostname is not None
        port = parts.port or 443
        addresses = self.resolve(parts.hostname, port)
        for address in addresses:
            if not self.permitted(ipaddress.ip_address(address.partition("%")[0])):
                raise Undeliverable(f"{parts.hostname} is {address}, which is no public address")
        if not addresses:
            raise OSError(f"{parts.hostname}: has no address")
        connection = _Pinned(parts.hostname, port, addresses[0], self.context)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", path, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()


class _Pinned(http.client.HTTPSConnection):
    """To an address that was looked at, with the certificate of the name."""

    def __init__(self, host: str, port: int, address: str, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=TIMEOUT_S, context=context)
        self._address, self._tls = address, context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), TIMEOUT_S)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


# ---- what -----------------------------------------------------------------------------------------------------------


def secret_of(root: Path) -> bytes:
    """The key of all signatures of a folder of runs, made when it is first asked for."""
    path = Workplace(root).folder / "webhook.key"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, secrets.token_hex(32).encode())
        path.chmod(0o600)
    return path.read_bytes().strip()


def signature(secret: bytes, body: bytes, when: int) -> str:
    """`t=SECONDS,v1=HMAC-SHA256 of "SECONDS.BODY"`: with its time, so that nobody can say it again later."""
    return f"t={when},v1={hmac.new(secret, str(when).encode() + b'.' + body, hashlib.sha256).hexdigest()}"


def body_of(change: JobChange) -> bytes:
    said = {"job": change.job, "state": change.state, "attempt": change.attempt, "seq": change.seq, "time": change.time}
    return json.dumps(said).encode()


@dataclass
class Delivery:
    """One change on its way."""

    seq: int
    owner: str
    url: str
    body: bytes
    tries: int = 0
    due: float = 0.0  # monotonic
    under_way: Future[str] | None = None


class Notifier(threading.Thread):
    """Beside the supervisor; it may end at any moment, and goes on at what had not arrived."""

    def __init__(self, root: Path, say: Callable[[str], None], wire: Wire | None = None) -> None:
        super().__init__(name="webhooks", daemon=True)
        self.root, self.say, self.wire = root, say, wire or Wire()
        self.kept = Workplace(root).folder / "webhooks.json"
        self.secret = b""
        self.waiting: list[Delivery] = []
        self.seen = -1  # changes up to here are delivered or waiting
        self._done, self._noted = -1, 0.0  # what the file says, and since when

    def run(self) -> None:
        with Queue(self.root) as queue:
            while True:
                with contextlib.suppress(DreamError, OSError):  # a full disk, say: in a moment again
                    self.round(queue, time.monotonic())
                threading.Event().wait(EVERY_S)

    def round(self, queue: Queue, now: float) -> None:
        """Hear what is new, send what is due, note how far all has arrived."""
        if self.seen < 0:
            self.secret = secret_of(self.root)  # before there are threads that could make two
            self.seen = self._done = self._begin(queue)
        for change in queue.changes(self.seen):
            self.seen = change.seq
            self._take(queue, change)
        flying = Counter(each.owner for each in self.waiting if each.under_way is not None)
        for each in self.waiting:
            if each.under_way is not None or each.due > now:
                continue
            if flying[each.owner] < MOST_OF_AN_OWNER and flying.total() < MOST:
                flying[each.owner] += 1
                each.under_way = self._under_way(each)
        before = len(self.waiting)
        self.waiting = [each for each in self.waiting if not self._arrived(each, now)]
        done = min([each.seq - 1 for each in self.waiting], default=self.seen)
        if done != self._done and (len(self.waiting) < before or now - self._noted > NOTE_S):
            write_json(self.kept, {"seq": done})
            self._done, self._noted = done, now

    def _begin(self, queue: Queue) -> int:
        """Where the last one stopped; the first one ever begins with what happens from now on."""
        try:
            return int(json.loads(self.kept.read_text("ascii"))["seq"])
        except (OSError, ValueError, KeyError, TypeError):
            newest = queue.newest()
            write_json(self.kept, {"seq": newest})
            return newest

    def _take(self, queue: Queue, change: JobChange) -> None:
        if not change.job or not (change.what in STATED or (change.what == "cancel" and change.state == CANCELLED)):
            return
        with contextlib.suppress(JobUnknown):  # purged since
            job = queue.job(change.job)
            if job.webhook:
                self.waiting.append(Delivery(change.seq, job.owner, job.webhook, body_of(change)))

    def _under_way(self, each: Delivery) -> Future[str]:
        """In a thread that the process does not wait for when it ends."""
        future: Future[str] = Future()

        def send() -> None:
            try:
                future.set_result(self._send(each))
            except Exception as error:
                future.set_exception(error)

        threading.Thread(target=send, name="webhook", daemon=True).start()
        return future

    def _send(self, each: Delivery) -> str:
        """What went wrong, or nothing."""
        when = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"dreamlab/{__version__}",
            SIGNATURE: signature(self.secret, each.body, when),
        }
        status = self.wire.post(each.url, each.body, headers)
        if status == 410:
            raise Undeliverable("its receiver is gone (410)")
        return "" if 200 <= status < 300 else f"answered {status}"

    def _arrived(self, each: Delivery, now: float) -> bool:
        """Whether nothing is left to do for it."""
        if each.under_way is None or not each.under_way.done():
            return False
        try:
            wrong = each.under_way.result()
        except (Undeliverable, DreamError) as error:
            self.say(f"webhook of change {each.seq}: {error}; given up")
            return True
        except (OSError, http.client.HTTPException, ValueError) as error:
            wrong = f"{type(error).__name__}: {error}"
        each.under_way = None
        if not wrong:
            return True
        if each.tries == len(DELAYS_S):
            self.say(f"webhook of change {each.seq}: {wrong}; given up after {each.tries + 1} tries")
            return True
        each.due = now + DELAYS_S[each.tries]
        each.tries += 1
        return False
