# SPDX-License-Identifier: Apache-2.0
"""Who asks. Without `--auth` there is one owner, `local`, and the server listens to this machine alone.

the file   a line per user: `name:scrypt$N$r$p$salt$key`, made by `dreamlab studio --auth FILE --add-user NAME`
programs   Authorization: Basic, or Bearer with a token that POST /v1/login gives
the page   the same token in a cookie that scripts cannot read
a token    name, end and an HMAC-SHA-256 over both and the user's key: a new password ends all of them
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path

from dreamlab.core.errors import InputError
from dreamlab.core.files import disk_errors, write_atomic
from dreamlab.core.foreign.files import read_bytes
from dreamlab.studio.answers import busy

LOCAL = "local"
COST, BLOCK, LANES, BYTES = 1 << 15, 8, 1, 32  # scrypt (RFC 7914) as OWASP advises for 2^15: 32 MiB, 50 ms
LASTS_S = 14 * 24 * 3600
MOST_FILE, MOST_USERS, SHORTEST = 1 << 20, 1000, 8
NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
TRIES, WITHIN_S = 8, 60.0  # wrong passwords of an address, after which it waits
_MEMORY = 2 * 128 * COST * BLOCK


def hashed(password: str, salt: bytes | None = None) -> str:
    """`scrypt$N$r$p$salt$key` of a password."""
    salt = secrets.token_bytes(16) if salt is None else salt
    key = _scrypt(password, salt, COST, BLOCK, LANES)
    return f"scrypt${COST}${BLOCK}${LANES}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def _scrypt(password: str, salt: bytes, cost: int, block: int, lanes: int) -> bytes:
    data = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(data, salt=salt, n=cost, r=block, p=lanes, maxmem=_MEMORY, dklen=BYTES)


def matches(password: str, stored: str) -> bool:
    """In a time that does not tell how much of it was right."""
    _, cost, block, lanes, salt, key = stored.split("$")
    made = _scrypt(password, base64.b64decode(salt), int(cost), int(block), int(lanes))
    return hmac.compare_digest(made, base64.b64decode(key))


_STORED = re.compile(r"scrypt\$(\d{4,6})\$(\d{1,2})\$(\d)\$[A-Za-z0-9+/]{22}==\$[A-Za-z0-9+/]{43}=")


def read_users(given: str) -> dict[str, str]:
    """Of `--auth`: a file of hashes, or `user:password`, whose password is in memory alone as its hash."""
    if not Path(given).is_file() and ":" in given:
        name, _, password = given.partition(":")
        _check_user(name, password, "--auth")
        return {name: hashed(password)}
    users = {}
    for number, line in enumerate(
        read_bytes(Path(given), "--auth", MOST_FILE).decode("utf-8", "replace").splitlines(), 1
    ):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, stored = line.strip().partition(":")
        found = _STORED.fullmatch(stored)
        if not NAME.fullmatch(name) or found is None or 256 * int(found[1]) * int(found[2]) > _MEMORY:
            way = f"make it with: dreamlab studio --auth {given} --add-user NAME"
            raise InputError(f"--auth {given}:{number}: is no line `name:scrypt$...`; {way}")
        users[name] = stored
    if not users or len(users) > MOST_USERS:
        raise InputError(f"--auth {given}: has {len(users)} users; add one with --add-user NAME (at most {MOST_USERS})")
    return users


def add_user(file: Path, name: str, password: str) -> None:
    """Write a user into the file, or a new password of one."""
    _check_user(name, password, "--add-user")
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    kept = [line for line in lines if line.partition(":")[0] != name]
    with disk_errors("writing the users", file):
        write_atomic(file, "\n".join([*kept, f"{name}:{hashed(password)}", ""]).encode())
        file.chmod(0o600)


def _check_user(name: str, password: str, where: str) -> None:
    if not NAME.fullmatch(name):
        raise InputError(f"{where}: {name[:80]!r} is no user's name; letters, digits and . _ @ - are, at most 64")
    if len(password) < SHORTEST or len(password) > 1024:
        raise InputError(f"{where}: the password must have {SHORTEST} to 1024 characters")


def secret_of(file: Path) -> bytes:
    """What tokens are signed with; made once, so that they outlive the server."""
    with disk_errors("keeping the secret of sessions", file):
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, secrets.token_bytes(32))
            file.chmod(0o600)
        return file.read_bytes()


@dataclass
class Porter:
    """Knows who may come in."""

    users: Mapping[str, str]  # none: everybody is LOCAL
    secret: bytes
    cookie: str = "dreamlab"
    now: Callable[[], float] = time.time
    _seen: OrderedDict[bytes, str] = field(default_factory=OrderedDict)  # right passwords, as digests
    _wrong: dict[str, deque[float]] = field(default_factory=dict)  # by address: when
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def token(self, name: str) -> str:
        """For LASTS_S from now."""
        told = f"{base64.urlsafe_b64encode(name.encode()).decode().rstrip('=')}.{int(self.now()) + LASTS_S}"
        return f"{told}.{self._signed(told, name)}"

    def _signed(self, told: str, name: str) -> str:
        return hmac.new(self.secret, f"{told}|{self.users[name]}".encode(), hashlib.sha256).hexdigest()

    def owner_of(self, token: str) -> str | None:
        """Whose token it is, while it lasts."""
        try:
            coded, end, mac = token.split(".")
            name = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode()
            lasts = int(end) if end.isascii() and end.isdecimal() else 0
        except (ValueError, binascii.Error):
            return None
        if name not in self.users or lasts < self.now():
            return None
        return name if hmac.compare_digest(self._signed(f"{coded}.{end}", name), mac) else None

    def right(self, name: str, password: str, address: str) -> bool:
        """Whether it is the user's password; Refusal 429 after too many wrong ones from an address."""
        digest = hmac.new(self.secret, f"{name}\0{password}".encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
        with self._lock:
            if digest in self._seen:
                return True
            wrong = self._wrong.get(address, deque())
            while wrong and wrong[0] < time.monotonic() - WITHIN_S:
                wrong.popleft()
            if len(wrong) >= TRIES:
                raise busy(429, "too many wrong passwords", int(WITHIN_S))
            # A name that nobody has takes as long as one that somebody has.
            good = matches(password, self.users.get(name) or _NOBODY) and name in self.users
            if good:
                self._seen[digest] = name
                while len(self._seen) > 256:
                    self._seen.popitem(last=False)
            else:
                self._wrong.setdefault(address, wrong).append(time.monotonic())
            if len(self._wrong) > 4096:
                self._wrong.clear()
        return good

    def who(self, authorization: str, cookies: str, address: str) -> str | None:
        """The owner that a request's headers prove; None: nobody's."""
        if not self.users:
            return LOCAL
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return self.owner_of(value.strip())
        if scheme.lower() == "basic":
            name, password = _pair(value)
            return name if name and self.right(name, password, address) else None
        try:
            found = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            return None
        return self.owner_of(found.value) if found else None


def _pair(value: str) -> tuple[str, str]:
    """User and password of a Basic header (RFC 7617)."""
    try:
        name, _, password = base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
    except (ValueError, binascii.Error):
        return "", ""
    return name, password


_NOBODY = (
    f"scrypt${COST}${BLOCK}${LANES}${base64.b64encode(bytes(16)).decode()}${base64.b64encode(bytes(BYTES)).decode()}"
)
