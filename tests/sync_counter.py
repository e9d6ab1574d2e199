# SPDX-License-Identifier: Apache-2.0
"""Counts what would make the host wait for a GPU.

    with syncs() as found:
        train.step(...)
    assert len(found) <= ALLOWANCE, found.report()

Every entry is (what, where): the operation and the line of this repository that asked for it. On the CPU everything is
counted, because nobody can tell what would lie on a GPU; with `only_on_device`, inside `second_device()`, only what
touches its tensors. Custom ops are looked into: on the second device their CUDA path is what is counted.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

ROOT = Path(__file__).parents[1]
TESTS = (str(ROOT / "tests"), str(ROOT / ".venv"))
WAITS = {  # what reads the device, by the name of the aten operation
    "item": "item",
    "_local_scalar_dense": "item",
    "nonzero": "nonzero",
    "argwhere": "nonzero",
    "masked_select": "masked_select",
    "_unique": "unique",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "unique_dim_consecutive": "unique",
    "bincount": "bincount",
    "equal": "equal",
    "linalg_inv_ex": "linalg",
    "_linalg_eigh": "linalg",
    "linalg_cholesky_ex": "linalg",
    "_linalg_solve_ex": "linalg",
}
HOST = ("tolist", "numpy", "__array__")


class Found(list[tuple[str, str]]):
    def report(self) -> str:
        return "\n".join(f"{n} x {what} at {where}" for (what, where), n in Counter(self).most_common())


def project_line() -> str:
    """The innermost line of the project, and not of a test, on the way here."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(str(ROOT)) and not file.startswith(TESTS):
            return f"{Path(file).relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "a test"


def _masks(indices: Any) -> bool:
    return any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in indices)


class _Mode(TorchDispatchMode):
    def __init__(self, found: Found, counts: Callable[[list[Tensor]], bool]) -> None:
        super().__init__()
        self.found, self.counts = found, counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        if func.namespace == "dreamlab":
            key = torch._C.DispatchKey.CUDA if tensors[0].is_cuda else torch._C.DispatchKey.CPU
            with self:
                return func.redispatch(torch._C.DispatchKeySet(key), *args, **kwargs)
        name = func._opname if func.namespace == "aten" else ""
        what = WAITS.get(name, "")
        if name in ("index", "index_put", "index_put_", "_index_put_impl_") and _masks(args[1]):
            what = "index by a mask"
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            what = "repeat_interleave without output_size"
        if name == "copy_" and tensors[1].is_cuda and not tensors[0].is_cuda and args[2:] != (True,):
            what = "copy to the CPU"
        if what and self.counts(tensors):
            self.found.append((what, project_line()))
        return func(*args, **kwargs)


@contextmanager
def syncs(only_on_device: bool = False) -> Iterator[Found]:
    found = Found()

    def counts(tensors: list[Tensor]) -> bool:
        return not only_on_device or any(t.is_cuda for t in tensors)

    def noted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            if counts([self]):
                found.append((name, project_line()))
            return original(self, *args, **kwargs)

        return read

    with ExitStack() as stack:
        for name in HOST:
            stack.enter_context(mock.patch.object(Tensor, name, noted(name, getattr(Tensor, name))))
        for name in ("cpu", "to"):
            stack.enter_context(mock.patch.object(Tensor, name, _moved(found, getattr(Tensor, name))))
        stack.enter_context(_Mode(found, counts))
        yield found


def _moved(found: Found, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def move(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        there = original(self, *args, **kwargs)
        if self.is_cuda and not there.is_cuda:
            found.append(("copy to the CPU", project_line()))
        return there

    return move
