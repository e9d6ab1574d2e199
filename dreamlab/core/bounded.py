# SPDX-License-Identifier: Apache-2.0
"""A piece of work in a process of its own, with a bound on time and memory: a hang, a crash or a bomb there loses
nothing here, and the caller takes a simpler way.

The child is a fork of this process, so it starts in milliseconds and sees what the caller sees; tensors on the host
come back in a file of memory that both have open, of which the caller maps the pages. It runs on one thread (the pools
of a parent do not survive a fork) and never touches a GPU: what it works on lies on the host. Where there is no fork
(Windows), the work is done here, without bounds.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import mmap
import os
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from dreamlab.core import ahead
from dreamlab.core.files import Json

GIB = 1 << 30
PAGE = 64  # bytes that every tensor of an answer begins at a multiple of
_FAILED = b"!"
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
_KINDS = {str(kind): kind for kind in (*_FLOATS, *_WHOLE)}


class Done(NamedTuple):
    """What came back."""

    tensors: Mapping[str, Tensor]
    facts: Json
    seconds: float  # of this machine's CPUs


class Unbounded(Exception):
    """It did not come to an end as agreed; the words say why in one line."""


Work = Callable[[], tuple[Mapping[str, Tensor], Json]]


def bounded(work: Work, name: str, seconds: float = 60.0, memory: int = 4 * GIB) -> Done:
    """What `work` returns, from a child that may take so long (of wall time) and so many bytes more than it starts
    with. `Unbounded` for a child that does not end well, whatever the reason: the exception's words, a signal, time."""
    if not hasattr(os, "fork"):
        began = time.process_time()
        try:
            tensors, facts = work()
        except Exception as error:
            raise Unbounded(f"{name}: {_words(error)}") from error
        return Done(tensors, facts, time.process_time() - began)
    ahead.settled()
    sys.stdout.flush()
    sys.stderr.flush()
    read, write = os.pipe()
    answers = _shared()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: the child starts none
        child = os.fork()
    if child == 0:
        os.close(read)
        _answer(work, name, write, answers, seconds, memory)
    os.close(write)
    try:
        answer = _gathered(read, seconds)
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # it has answered, or it never will
        _, status, usage = os.wait4(child, 0)
    with answers:
        if answer is None:
            raise Unbounded(f"{name}: not done after {seconds:g} s")
        if not answer:
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            raise Unbounded(f"{name}: its process died{f' by {signal.Signals(number).name}' if number else ''}")
        if answer[:1] == _FAILED:
            raise Unbounded(f"{name}: {answer[1:].decode('utf-8', 'replace')}")
        told = json.loads(answer[1:])
        return Done(_taken(answers, told["tensors"]), told["facts"], usage.ru_utime + usage.ru_stime)


def _shared() -> BinaryIO:
    """An empty file that has no name, in memory where the system has such files."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("answers"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _left(answers: BinaryIO, tensors: Mapping[str, Tensor]) -> list[Json]:
    """Write them, and say where they lie."""
    table, at = [], 0
    for name, value in tensors.items():
        flat = value.detach().cpu().contiguous().reshape(-1)
        if str(flat.dtype) not in _KINDS:
            raise TypeError(f"{name} is {flat.dtype}, which no answer holds")
        table.append({"name": name, "kind": str(flat.dtype), "shape": list(value.shape), "at": at})
        answers.seek(at)
        view = memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]  # an array has a buffer
        while view:
            view = view[answers.write(view) :]
        at += -(-flat.nbytes // PAGE) * PAGE
    return table


def _taken(answers: BinaryIO, table: Sequence[Json]) -> dict[str, Tensor]:
    """Tensors over the pages of the file, which are this process's own as soon as it writes to them."""
    found = {row["name"]: torch.empty(row["shape"], dtype=_KINDS[row["kind"]]) for row in table if 0 in row["shape"]}
    if len(found) == len(table):
        return found
    pages = mmap.mmap(answers.fileno(), 0, access=mmap.ACCESS_COPY)
    for row in table:
        if row["name"] not in found:
            count = math.prod(row["shape"])
            flat = torch.frombuffer(pages, dtype=_KINDS[row["kind"]], count=count, offset=row["at"])
            found[row["name"]] = flat.reshape(row["shape"])
    return {row["name"]: found[row["name"]] for row in table}


def _answer(work: Work, name: str, write: int, answers: BinaryIO, seconds: float, memory: int) -> None:
    """The child's whole life."""
    code = 1
    gc.freeze()  # a look through all that the parent has would copy the pages it lies on
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        torch.set_num_threads(1)
        _limit(seconds, memory)
        _fault(name)
        tensors, facts = work()
        told = json.dumps({"facts": facts, "tensors": _left(answers, tensors)})
        _send(write, b"=" + told.encode())
        code = 0
    except BaseException as error:  # the parent says it; nothing of the parent's may run on in here
        with contextlib.suppress(BaseException):
            _send(write, _FAILED + _words(error).encode())
            if os.environ.get("DREAMLAB_DEBUG"):
                traceback.print_exc()
    finally:
        os._exit(code)


def _fault(name: str) -> None:
    """`DREAMLAB_FAULT=unwrap:hang` (or crash, memory, error) makes the work of that name end so, for tests."""
    where, _, what = os.environ.get("DREAMLAB_FAULT", "").partition(":")
    if where != name:
        return
    if what == "hang":
        time.sleep(1e6)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "memory":
        torch.ones(1 << 50)
    raise RuntimeError("a fault was asked for")


def _limit(seconds: float, memory: int) -> None:
    import resource

    limits = [(resource.RLIMIT_CPU, int(seconds) + 1), (resource.RLIMIT_CORE, 0)]
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
        limits.append((resource.RLIMIT_AS, pages * resource.getpagesize() + memory))
    for kind, most in limits:
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _send(write: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(write, view[: 1 << 20]) :]


def _gathered(read: int, seconds: float) -> bytearray | None:
    """All that the child says; nothing when it has not said it in time."""
    until, said = time.monotonic() + seconds, bytearray()
    while (left := until - time.monotonic()) > 0:
        if not select.select([read], [], [], left)[0]:
            return None
        part = os.read(read, 1 << 20)
        if not part:
            return said
        said += part
    return None


def _words(error: BaseException) -> str:
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "can't allocate" in str(error):
        return "more memory than agreed"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
