# SPDX-License-Identifier: Apache-2.0
"""A second device on a machine without a GPU: tensors that hold real numbers, say that they are on `pretend:0`, and
keep CUDA's rules about what may meet what.

Torch's dispatch key for other people's backends carries the device, so `tensor.device`, factories, autograd and
generators go the way they go on a GPU; the CPU's kernels compute on the numbers inside. What CUDA refuses is refused:

- an op on the device and a plain tensor of one or more axes (a plain number [] may join arithmetic; plain indices may
  index; `copy_` and `to` cross over);
- `.numpy()`, a plain generator for numbers drawn on the device;
- pointers: nobody outside a kernel can read a device's memory.

What makes the host wait for the device (an item, a mask as an index, a copy to the host ...) is told to `watchers`.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from cuda_ext import backend
from dreamlab.core import streams
from dreamlab.run import particles, ranks
from tests.sync_counter import project_line

NAME = "pretend"
aten = torch.ops.aten
watchers: list[Callable[[str], None]] = []  # each is told the name of an op that waits

# Ops whose result the host must read, or whose size depends on numbers on the device.
WAITS = {
    aten._local_scalar_dense.default: "item",
    aten.equal.default: "equal",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.repeat_interleave.Tensor: "repeat_interleave",
    aten.bincount.default: "bincount",
    aten.multinomial.default: "multinomial",
    aten.linalg_eigh.default: "eigh",
    aten._linalg_eigh.default: "eigh",
    aten._linalg_svd.default: "svd",
}
INDEXED = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
CROSSING = {aten.copy_.default, aten._to_copy.default, aten._copy_from.default}


class Mixed(RuntimeError):
    """Tensors of two devices met in one op."""


class OnDevice(Tensor):
    """A tensor of the device; `inner` holds its numbers."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDevice({self.inner!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise Mixed("can't convert a tensor on the device to numpy; use .cpu() first")

    __array__ = numpy

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()  # an address that says which memory it is, as a GPU's would

    def data_ptr(self) -> int:
        raise Mixed("a pointer to the device's memory means nothing on the host")

    def __deepcopy__(self, memo: Any) -> OnDevice:
        return OnDevice(self.inner.detach().clone()).requires_grad_(self.requires_grad)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


def is_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """What an op was given or gives: tensors, lists of them, numbers."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return [mapped(change, each) for each in value] if value else value
    return value


def tensors_of(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_of(value)
    return found


def plain(kind: str) -> str:
    return "cpu" if kind == NAME else kind


def inside(value: Any) -> Any:
    return value.inner if isinstance(value, OnDevice) else value


def wrapped(value: Any) -> Any:
    return OnDevice(value) if isinstance(value, Tensor) and not isinstance(value, OnDevice) else value


def told(name: str) -> None:
    for watcher in watchers:
        watcher(name)


@contextmanager
def waits() -> Iterator[list[str]]:
    """What made the host wait for the device in the block: "unique at renderers/surface/tets.py:77"."""
    found: list[str] = []

    def watch(name: str) -> None:
        found.append(f"{name} at {project_line()}")

    watchers.append(watch)
    yield found
    watchers.remove(watch)


def dispatched(func: Any, args: Any, kwargs: Any) -> Any:
    """One op on tensors of which some are on the device."""
    if func in CROSSING:
        return crossed(func, args, kwargs)
    check_mixing(func, args, kwargs)
    check_generator(func, kwargs)
    if func in WAITS:
        told(WAITS[func])
    elif func in INDEXED and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
        told("mask")
    kwargs = {name: torch.device("cpu") if is_device_value(v) else v for name, v in kwargs.items()}
    if "pin_memory" in kwargs:
        kwargs["pin_memory"] = False
    out = func(*mapped(inside, args), **{name: mapped(inside, value) for name, value in kwargs.items()})
    return returned(func, args, kwargs, out)


def is_device_value(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type == NAME


def returned(func: Any, args: Any, kwargs: Any, out: Any) -> Any:
    """Results are on the device; what an op wrote to is returned as the tensor that was handed in."""
    written = [
        kwargs.get(a.name, args[i] if i < len(args) else None)
        for i, a in enumerate(func._schema.arguments)
        if a.alias_info is not None and a.alias_info.is_write
    ]
    if written and func._schema.returns:
        for each in written:
            if isinstance(each, OnDevice) and each.shape != each.inner.shape:
                each.data = OnDevice(each.inner)  # an op such as squeeze_
        return written[0] if len(func._schema.returns) == 1 else tuple(written)
    made = mapped(wrapped, out)
    return tuple(made) if isinstance(out, tuple) else made


def crossed(func: Any, args: Any, kwargs: Any) -> Any:
    """Copies between host and device."""
    if func is aten._to_copy.default:
        source, target = args[0], kwargs.get("device")
        to_device = isinstance(source, OnDevice) if target is None else is_device(target)
        if isinstance(source, OnDevice) and not to_device:
            told("to host")
        rest = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory")}
        made = func(inside(source), **rest)
        return OnDevice(made) if to_device else made
    target, source = args[:2]
    if not isinstance(target, OnDevice) and isinstance(source, OnDevice):
        told("to host")
    func(inside(target), inside(source), *args[2:], **kwargs)
    return target


def check_mixing(func: Any, args: Any, kwargs: Any) -> None:
    """CUDA's rule: all tensors on the device, but for plain numbers in arithmetic and plain indices."""
    loose = torch.Tag.pointwise in func.tags or func in (aten.fill.Tensor, aten.fill_.Tensor, aten.masked_fill.Tensor)
    flat: list[Any]
    if func in INDEXED:
        flat = [args[0], *(v for v in args[2:3] if not (isinstance(v, Tensor) and v.ndim == 0))]
        if not isinstance(args[0], OnDevice) and any(isinstance(i, OnDevice) for i in args[1]):
            raise Mixed(f"{func}: indices on the device, what they index on the host")
    else:
        flat = [*args, *kwargs.values()]
    tensors = tensors_of(flat)
    plain = [t for t in tensors if not isinstance(t, OnDevice) and not (loose and t.ndim == 0)]
    if plain and len(plain) < len(tensors):
        raise Mixed(f"{func}: tensors on the device and on the host, {[list(t.shape) for t in plain]} on the host")


_drawing: set[int] = set()  # the device's generators: torch hands ops another object of the same address


def check_generator(func: Any, kwargs: Any) -> None:
    generator = kwargs.get("generator")
    if generator is not None and generator._cdata not in _drawing:
        raise Mixed(f"{func}: numbers on the device, drawn from a generator of the host")


class Generator(torch.Generator):
    """`torch.Generator(device)` for the device as well: the CPU's, under another name."""

    _where: torch.device

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, "cpu" if is_device(device) else device)
        made._where = torch.device(NAME, 0) if is_device(device) else torch.device(device)
        if is_device(device):
            _drawing.add(address := made._cdata)
            weakref.finalize(made, _drawing.discard, address)
        return made

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._where


class Stream(Generator):
    """`ViewStream(device)` likewise."""

    part: streams.ViewShare | None = None


class Everywhere(TorchDispatchMode):
    """Sees factories too, which have no tensor to go by."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(is_device_value(v) for v in kwargs.values()) or any(
            isinstance(v, OnDevice) for v in tensors_of((*args, *kwargs.values()))
        ):
            return dispatched(func, args, kwargs)
        return func(*args, **kwargs)


@functools.cache
def registered() -> torch.library.Library:
    """The device, once per process."""
    _setup_privateuseone_for_python_backend(NAME)
    # torch's check of operators saves the state of every device's generator, once there is one; this one has none.
    module = getattr(torch, NAME)
    module.get_rng_state = torch.get_rng_state
    module.set_rng_state = lambda state: None
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda op, *args, **kwargs: dispatched(op, args, kwargs), "PrivateUse1")
    return library


@contextmanager
def the_device(kernels: bool = True) -> Iterator[str]:
    """Inside the block `torch.device("pretend")` can be used as any other; gives its name. Without `kernels` the torch
    twins of our ops run on it, as they do on a GPU for which nothing can be compiled."""
    registered()
    patch = pytest.MonkeyPatch()
    answers = backend.unavailable
    patch.setattr(torch, "Generator", Generator)
    for module in (streams, particles, ranks):
        patch.setattr(module, "ViewStream", Stream)
    if kernels:  # the CPU's: what the wrapper hands them is plain
        patch.setattr(backend, "unavailable", lambda op, dtype, kind, *more: answers(op, dtype, plain(kind), *more))
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor([...], device=...) is made here and carried over
    try:
        # One thread: autograd's threads are counted once, and may have been before this device was there.
        with torch.autograd.set_multithreading_enabled(False), Everywhere():
            yield NAME
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        patch.undo()


def left_behind(thing: Any, name: str, seen: set[int] | None = None) -> list[str]:
    """Names of the tensors within `thing` that are not on the device; what only this process's modules know is not
    looked into."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        return [] if isinstance(thing, OnDevice) else [f"{name} {list(thing.shape)}"]
    if isinstance(thing, Mapping):
        inner = [(f"{name}.{key}", value) for key, value in thing.items()]
    elif isinstance(thing, (list, tuple)):
        inner = [(f"{name}[{i}]", value) for i, value in enumerate(thing)]
    elif type(thing).__module__.split(".")[0] in ("renderers", "dreamlab", "systems", "guidance", "cuda_ext"):
        inner = [(f"{name}.{key}", value) for key, value in getattr(thing, "__dict__", {}).items()]
    else:
        return []
    return [each for key, value in inner for each in left_behind(value, key, seen)]
