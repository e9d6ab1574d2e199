# SPDX-License-Identifier: Apache-2.0
"""The store that workers share: a folder, `s3://`, `gs://`, `az://` or memory, all by obstore, with patience.

A call may fail, be slow, or fail after it took effect. Reads and plain writes are simply done again; where a create
finds something, it looks whose data that is, so its data must be the caller's alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from dreamlab.core.errors import DiskError, InputError
from dreamlab.core.files import disk_errors, write_atomic

TRIES, FIRST_WAIT_S = 6, 0.2  # 0.2, 0.4, ... 3.2 seconds, each up to twice as long
# Beneath that each request is sent again at once, so that one lost piece of a large file is not the whole file's loss.
AT_ONCE: Any = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1), "base": 2},
}
PIECE = 8 << 20  # bytes of a large file that come in one request: each has half a minute
Answer = TypeVar("Answer")


class Bucket(Protocol):
    """What is asked of a store."""

    def create(self, key: str, data: bytes) -> bool:
        """False: something is there already, and stays."""

    def put(self, key: str, data: bytes) -> None: ...

    def get(self, key: str) -> bytes | None: ...

    def names(self, prefix: str) -> list[str]:
        """Keys that begin with `prefix`, which ends with a slash, in any order."""

    def marks(self, prefix: str) -> dict[str, object]:
        """The same, each with a mark that is another one when something else is written there."""

    def delete(self, key: str) -> None: ...


class ObjectStore:
    """A place by its address. Transient failures are waited out; what stays is a DiskError."""

    def __init__(self, url: str, pause: Callable[[float], None] = time.sleep) -> None:
        self.url, self.pause = url, pause
        self.requests = 0
        self._store = opened(url)

    def create(self, key: str, data: bytes) -> bool:
        from obstore import exceptions

        try:
            self._write(key, data, "create")
            return True
        except exceptions.AlreadyExistsError:
            return self.get(key) == data  # it may be ours: an answer was lost, not the deed

    def put(self, key: str, data: bytes | Path) -> None:
        """A file is read piece by piece."""
        self._write(key, data, "overwrite")

    def _write(self, key: str, data: bytes | Path, mode: Literal["create", "overwrite"]) -> None:
        import obstore

        try:
            self._again(key, lambda: obstore.put(self._store, key, data, mode=mode))
        except FileNotFoundError:
            raise InputError(f"{self.url}: no such place; make the bucket first") from None

    def get(self, key: str) -> bytes | None:
        import obstore

        try:
            return self._again(key, lambda: bytes(obstore.get(self._store, key).bytes()))
        except FileNotFoundError:
            return None

    def names(self, prefix: str) -> list[str]:
        return sorted(entry["path"] for entry in self._listed(prefix))

    def marks(self, prefix: str) -> dict[str, object]:
        return {entry["path"]: entry["e_tag"] or entry["last_modified"] for entry in self._listed(prefix)}

    def _listed(self, prefix: str) -> list[Any]:
        import obstore

        found = self._again(prefix, lambda: obstore.list(self._store, prefix.rstrip("/")).collect())
        return [entry for entry in found if entry["path"].startswith(prefix)]

    def delete(self, key: str) -> None:
        import obstore

        with suppress(FileNotFoundError):
            self._again(key, lambda: obstore.delete(self._store, key))

    def upload(self, folder: Path, prefix: str) -> None:
        """Every file of a folder."""
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            self.put(prefix + path.relative_to(folder).as_posix(), path)

    def download(self, prefix: str, folder: Path) -> None:
        with disk_errors("fetching from the store", folder):
            for entry in self._listed(prefix):
                name, size = entry["path"], entry["size"]
                path = folder / name.removeprefix(prefix)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, b"".join(self._piece(name, at, size) for at in range(0, size, PIECE)))

    def _piece(self, key: str, start: int, size: int) -> bytes:
        import obstore

        end = min(start + PIECE, size)
        return self._again(key, lambda: bytes(obstore.get_range(self._store, key, start=start, end=end)))

    def _again(self, key: str, call: Callable[[], Answer]) -> Answer:
        from obstore import exceptions

        for _ in self._patience(key):
            try:
                return call()
            except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
                raise DiskError(f"{self.url}: {key}: the store does not let us; see its credentials") from None
            except exceptions.GenericError:
                continue
        raise DiskError(f"{self.url}: {key}: failed {TRIES} times in a row; see that the store is there and writable")

    def _patience(self, key: str) -> Iterator[int]:
        for i in range(TRIES):
            if i:
                self.pause(FIRST_WAIT_S * 2 ** (i - 1) * (1 + random.random()))  # noqa: S311 - all at once is worse
            self.requests += 1
            yield i


def opened(url: str) -> Any:  # one of obstore's six
    """The store of an address; a path without a scheme is a folder."""
    try:
        from obstore.store import LocalStore, MemoryStore, from_url
    except ModuleNotFoundError:
        raise InputError("a batch's store needs obstore: pip install 'dreamlab[clusters]'") from None
    scheme, _, _ = url.partition("://")
    if scheme == "memory":
        return MemoryStore()
    if scheme == url or scheme == "file":
        return LocalStore(prefix=Path(url.removeprefix("file://")).absolute(), mkdir=True)
    if scheme not in ("s3", "gs", "az"):
        raise InputError(f"--out {url}: a folder, s3://, gs:// or az://")
    return from_url(url, retry_config=AT_ONCE)
