# SPDX-License-Identifier: Apache-2.0
"""A second device on a machine without one: tensors that say `cuda:0`, keep their numbers on the CPU, and do not mix.

    with second_device():
        x = torch.ones(3, device="cuda")
        x + torch.ones(3)        # raises Mixed, as CUDA would
        x.numpy()                # raises TypeError, as CUDA does
        torch.ops.dreamlab.splat(...)    # the op's CUDA path, its kernels run on the host

Inside, `torch.cuda.is_available()` is true, `.to`, `.cpu`, factories with `device=` and generators know the device.
A CPU tensor without dimensions may join, as with CUDA. What an index by a list or a CPU mask does silently on CUDA
(a copy that waits) is refused here.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from cuda_ext import nvrtc, room
from dreamlab.core import streams
from dreamlab.run import particles, ranks
from tests import cuda_on_host

DEVICE = torch.device("cuda", 0)
FACTORIES = (
    "arange", "as_tensor", "empty", "empty_like", "empty_strided", "eye", "full", "full_like", "linspace", "logspace",
    "ones", "ones_like", "rand", "rand_like", "randint", "randn", "randn_like", "randperm", "tensor", "zeros",
    "zeros_like",
)  # fmt: skip
METHODS = ("new_empty", "new_full", "new_ones", "new_zeros")
MOVES = (torch.ops.aten.copy_.default, torch.ops.aten._copy_from.default)
_live: weakref.WeakValueDictionary[int, OnDevice] = weakref.WeakValueDictionary()


class Mixed(AssertionError):
    """An operation got tensors of both devices."""


class OnDevice(torch.Tensor):
    """`inner` is the CPU tensor with the numbers."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device="cpu", requires_grad=False,
        )  # fmt: skip

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner
        _live[id(self)] = self

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __repr__(self) -> str:
        return f"OnDevice({self.inner!r})"

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise AssertionError("a tensor of the second device is written or copied whole; move it to the CPU first")

    def __deepcopy__(self, memo: Any) -> OnDevice:
        return OnDevice(self.inner.detach().clone()).requires_grad_(self.requires_grad)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        if func not in MOVES:
            strangers = [t for t in tensors if not isinstance(t, OnDevice) and t.ndim]
            if strangers:
                raise Mixed(f"{func}: {[(type(t).__name__, tuple(t.shape)) for t in tensors]} are not all on {DEVICE}")
        if func.namespace == "dreamlab":
            return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), *args, **kwargs)
        known = {id(t.inner): t for t in tensors if isinstance(t, OnDevice)}
        given, named = tree_map_only(OnDevice, lambda t: t.inner, (args, kwargs))
        _check_generator(named.get("generator"))
        found = func(*given, **named)
        if func is torch.ops.aten.copy_.default and not isinstance(args[0], OnDevice):
            return args[0]  # the one way down
        return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else OnDevice(t), found)


class _EngineZeros(TorchDispatchMode):
    """The zeros that autograd makes by itself, which the disguise would put on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(isinstance(a, Tensor) for a in tree_flatten(args)[0]) or not isinstance(found, Tensor):
            return found
        return OnDevice(found) if _asker().endswith("torch/autograd/graph.py") else found


def _asker() -> str:
    """The file that made torch call a dispatch mode."""
    frame = sys._getframe(2)
    while frame.f_back is not None and ("/_dynamo/" in (file := frame.f_code.co_filename) or "_compile" in file):
        frame = frame.f_back
    return frame.f_code.co_filename


def _backward(original: Callable[..., Any]) -> Callable[..., Any]:
    def run(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        with _EngineZeros() if any(isinstance(t, OnDevice) for t in outputs) else nullcontext():
            return original(outputs, *args, **kwargs)

    return run


class OnDeviceGenerator(torch.Generator):
    """Draws on the second device."""

    def __new__(cls) -> OnDeviceGenerator:
        return super().__new__(cls, device="cpu")

    device = property(lambda self: DEVICE)


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return OnDevice(tensor.detach().clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.inner if isinstance(grad, OnDevice) else grad


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: OnDevice) -> Tensor:
        return tensor.inner.detach().clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return OnDevice(grad)


def _check_generator(generator: torch.Generator | None) -> None:
    if generator is not None and not isinstance(generator, OnDeviceGenerator):
        raise Mixed("a generator of the CPU draws on the second device")


def _kind(device: Any) -> str:
    """cuda, cpu, or nothing for no device."""
    if isinstance(device, Tensor):
        return device.device.type
    if isinstance(device, int) and not isinstance(device, bool):
        return "cuda"
    if isinstance(device, torch.device | str) and not isinstance(device, torch.dtype):
        return torch.device(device).type
    return ""


def move(tensor: Tensor, kind: str) -> Tensor:
    if kind == "cuda" and not isinstance(tensor, OnDevice):
        return _Up.apply(tensor)
    if kind == "cpu" and isinstance(tensor, OnDevice):
        return _Down.apply(tensor)
    return tensor


def _to(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kind, dtype = "", None
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, Tensor):
                kind, dtype = _kind(value), value.dtype
            elif isinstance(value, torch.device | str):
                kind = _kind(value)
        moved = move(self, kind)
        return moved if dtype is None else original(moved, dtype)

    return to


def _factory(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def make(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        like = next((a for a in args if isinstance(a, OnDevice)), None)
        kind = _kind(device)
        if kind == "cuda":
            _check_generator(kwargs.get("generator"))
            return move(original(*args, device="cpu", **kwargs), "cuda")
        if kind == "cpu" and like is not None:
            args = tuple(a.inner if isinstance(a, OnDevice) else a for a in args)
        return original(*args, **({} if device is None else {"device": device}), **kwargs)

    return make


def _new_tensor(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def new_tensor(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not isinstance(self, OnDevice):
            return original(self, *args, **kwargs)
        kwargs.pop("device", None)
        return move(original(self.inner, *args, **kwargs), "cuda")

    return new_tensor


def _refused(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    def refuse(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self, OnDevice):
            raise TypeError(f"can't convert cuda:0 device type tensor to numpy ({name}). Use Tensor.cpu() first")
        return original(self, *args, **kwargs)

    return refuse


class _Generators(type):
    def __instancecheck__(cls, found: object) -> bool:
        return isinstance(found, _Generator)

    def __call__(cls, device: Any = None) -> torch.Generator:
        return OnDeviceGenerator() if _kind(device) == "cuda" else _Generator()


_Generator = torch.Generator


class _AnyGenerator(metaclass=_Generators):
    """Stands for `torch.Generator`, also in the annotations of what torch imports meanwhile."""


class _OnDeviceStream(OnDeviceGenerator):
    """A `ViewStream` there."""

    part = None


class _Streams(type):
    def __instancecheck__(cls, found: object) -> bool:
        return isinstance(found, _ViewStream | _OnDeviceStream)

    def __call__(cls, device: Any = None) -> torch.Generator:
        return _OnDeviceStream() if _kind(device) == "cuda" else _ViewStream()


_ViewStream = streams.ViewStream


class _AnyStream(metaclass=_Streams):
    """Stands for `ViewStream`, which is a kind of generator."""


class _Later:
    """What the host asked for has always arrived."""

    def __init__(self, numbers: OnDevice) -> None:
        self.numbers = numbers.inner.tolist()

    def values(self) -> list[float]:
        return self.numbers


def _listed(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: original(self.inner if isinstance(self, OnDevice) else self)


def addresses(value: Any) -> Iterator[int]:
    """Every pointer in an argument of a kernel."""
    if isinstance(value, ctypes.c_void_p):
        yield value.value or 0
    elif isinstance(value, ctypes.Structure):
        for name, kind, *_ in value._fields_:
            held = getattr(value, name)
            yield from [held or 0] if kind is ctypes.c_void_p else addresses(held)
    elif isinstance(value, ctypes.Array) and value._type_ is ctypes.c_void_p:
        yield from (held or 0 for held in value)


def memory() -> list[tuple[int, int]]:
    """Where the device's memory is: [first, end) of every tensor that lives."""
    storages = [t.inner.untyped_storage() for t in _live.values()]
    return [(s.data_ptr(), s.data_ptr() + s.nbytes()) for s in storages if s.nbytes()]


def _launch(op: str, kernel: str, device: torch.device, grid: Any, block: Any, arguments: list[Any]) -> None:
    ranges = memory()
    for value in arguments:
        for address in addresses(value):
            if address and not any(low <= address < high for low, high in ranges):
                raise Mixed(f"{kernel} gets memory that is not on the device")
    assert device == DEVICE
    cuda_on_host.launch(op, kernel, device, grid, block, arguments)


@contextmanager
def second_device() -> Iterator[None]:
    """While it lasts there is a CUDA device, made of the host."""
    with ExitStack() as stack:

        def put(target: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(target, name, value))

        for name in FACTORIES:
            put(torch, name, _factory(getattr(torch, name)))
        for name in METHODS:
            put(Tensor, name, _factory(getattr(Tensor, name)))
        for name in ("numpy", "__array__"):
            put(Tensor, name, _refused(getattr(Tensor, name), name))
        put(Tensor, "new_tensor", _new_tensor(Tensor.new_tensor))
        put(Tensor, "to", _to(Tensor.to))
        put(Tensor, "cpu", lambda self: move(self, "cpu"))
        put(Tensor, "cuda", lambda self, *_: move(self, "cuda"))
        put(Tensor, "tolist", _listed(Tensor.tolist))
        put(torch, "Generator", _AnyGenerator)
        for module in (streams, particles, ranks):
            put(module, "ViewStream", _AnyStream)
        for module in (torch.autograd, torch.autograd.graph):
            put(module, "_engine_run_backward", _backward(module._engine_run_backward))
        put(torch.cuda, "is_available", lambda: True)
        put(torch.cuda, "current_device", lambda: 0)
        put(torch.cuda, "is_current_stream_capturing", lambda: False)
        put(nvrtc, "_failure", lambda op, index: "")
        put(nvrtc, "launch", _launch)
        put(room, "Later", _Later)
        put(room, "_kinds", {})
        yield
