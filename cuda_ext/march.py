# SPDX-License-Identifier: Apache-2.0
"""`march` and `composite`: volume rendering with samples only where an occupancy grid says there is something."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build, march_nerfacc, nvrtc, room
from cuda_ext.check import check_alike, check_shape, require
from cuda_ext.context import Context, Inputs
from cuda_ext.reference import march as reference
from cuda_ext.reference.march import (
    Bounds,
    Composited,
    Samples,
    cell_points,
    occupied_cells,
    ray_box,
    refresh_density,
    steps_bound,
)

__all__ = [
    "Bounds",
    "Composited",
    "Samples",
    "cell_points",
    "composite",
    "march",
    "occupied_cells",
    "ray_box",
    "refresh_density",
]
MAX_STEPS = 1 << 16
HOST_READS = 1  # of a march on CUDA without a capacity; with one, and of `composite` both ways, none


def march(
    origins: Tensor,  # [R, 3]
    directions: Tensor,  # [R, 3]
    occupied: Tensor,  # [X, Y, Z] bool
    bounds: Bounds,
    *,
    step: float,
    near: float = 0.0,
    far: float = math.inf,
    cone: float = 0.0,
    jitter: Tensor | None = None,  # [R]
    capacity: int | None = None,
    backend: str = "auto",
) -> Samples:
    """Cut rays into intervals and keep those whose middle lies in an occupied cell.

    origins, directions  in the world (metres); directions of length 1
    occupied             cell (i, j, k) covers that part of the box along x, y, z
    bounds               the box: lowest corner, highest corner
    step                 interval length in metres; with `cone` the smallest one
    near, far            rays are also clipped to this range of t
    cone                 interval length grows as cone * t
    jitter               in [0, 1), shifts the ray's first interval by that part of it; None is 0
    capacity             None: as many intervals as there are, which waits for the GPU once. A number: always that many;
                         the tail is padding that belongs to no ray, and what exceeds it is dropped from the last rays,
                         which a warning says
    backend              auto, native, torch or nerfacc

    Nothing is differentiable. Rays that miss, or hold a number that is not finite, get no interval.
    """
    check_shape("march", "origins", origins, ("R", 3))
    check_shape("march", "directions", directions, (origins.shape[0], 3))
    check_shape("march", "occupied", occupied, ("X", "Y", "Z"))
    check_alike("march", origins=origins, directions=directions, jitter=jitter)
    require(occupied.dtype == torch.bool, f"march: occupied must be bool, got {occupied.dtype}")
    require(occupied.device == origins.device, f"march: occupied is on {occupied.device}, origins on {origins.device}")
    require(min(occupied.shape) >= 1, f"march: occupied must have at least one cell per axis, got {occupied.shape}")
    require(all(a < b for a, b in zip(*bounds, strict=True)), f"march: bounds must be (lowest, highest), got {bounds}")
    require(step > 0 and cone >= 0 and near >= 0, f"march: need step > 0, cone >= 0, near >= 0: {step}, {cone}, {near}")
    require(near < far, f"march: need near < far, got {near} and {far}")
    require(capacity is None or capacity >= 0, f"march: capacity must be at least 0 or None, got {capacity}")
    steps = steps_bound(bounds, step)
    require(steps <= MAX_STEPS, f"march: step {step} cuts the box into {steps} intervals, at most {MAX_STEPS}")
    if jitter is not None:
        check_shape("march", "jitter", jitter, (origins.shape[0],))
    chosen = backends.choose("march", backend, origins)
    if chosen != "native":
        other = reference.march if chosen == "torch" else march_nerfacc.march
        with torch.no_grad():
            return other(
                origins, directions, occupied, bounds,
                step=step, near=near, far=far, cone=cone, jitter=jitter, capacity=capacity,
            )  # fmt: skip
    parts = torch.ops.dreamlab.march(
        origins.detach().contiguous(), directions.detach().contiguous(), occupied.contiguous(),
        None if jitter is None else jitter.detach().contiguous(),
        [*bounds[0], *bounds[1]], step, near, far, cone, steps, capacity,
    )  # fmt: skip
    return Samples(*parts)


def composite(
    sigma: Tensor,  # [M]
    rgb: Tensor,  # [M, C]
    samples: Samples,
    *,
    stop: float = 1e-4,
    backend: str = "auto",
) -> Composited:
    """Volume-render packed samples: colour, alpha, expected depth, distortion and the weights themselves.

    sigma    density per metre; negative counts as 0 and receives no gradient
    rgb      C channels: colours, normals, features
    samples  from `march`
    stop     intervals that are reached by less than this part of the light are skipped
    backend  auto, native, torch or nerfacc

    Differentiable in sigma and rgb from every output, once. Not differentiable: the interval ends, the stopping.
    All outputs are premultiplied sums: put a background behind with `rgb + (1 - alpha) * background`, and divide the
    depth by alpha (clamped) for a mean depth. A ray without samples gives zeros.
    """
    check_shape("composite", "sigma", sigma, (samples.t_start.shape[0],))
    check_shape("composite", "rgb", rgb, (sigma.shape[0], "C"))
    check_shape("composite", "samples.t_end", samples.t_end, tuple(samples.t_start.shape))
    offsets = samples.offsets
    require(
        offsets.dtype == torch.int64 and offsets.ndim == 1 and offsets.shape[0] >= 1 and offsets.device == sigma.device,
        f"composite: samples.offsets must be int64 [R + 1] on {sigma.device}, "
        f"got {offsets.dtype} {list(offsets.shape)} on {offsets.device}",
    )
    check_alike("composite", sigma=sigma, rgb=rgb, t_start=samples.t_start, t_end=samples.t_end)
    chosen = backends.choose("march", backend, sigma)
    if chosen != "native":
        other = reference.composite if chosen == "torch" else march_nerfacc.composite
        return other(sigma, rgb, samples, stop=stop)
    ends = (samples.t_start.contiguous(), samples.t_end.contiguous(), samples.offsets.contiguous())
    out, sums, weights = torch.ops.dreamlab.composite(sigma.contiguous(), rgb.contiguous(), *ends, stop)
    return Composited(out, sums[:, 0:1], sums[:, 1:2], sums[:, 2:3], weights)


class _MarchParams(ctypes.Structure):
    """`MarchParams` of csrc/march.h, field by field."""

    _fields_ = [
        ("origins", ctypes.c_void_p),
        ("directions", ctypes.c_void_p),
        ("jitter", ctypes.c_void_p),
        ("occupied", ctypes.c_void_p),
        ("coarse", ctypes.c_void_p * 2),
        ("kept", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("t_start", ctypes.c_void_p),
        ("t_end", ctypes.c_void_p),
        ("ray", ctypes.c_void_p),
        ("rays", ctypes.c_int64),
        ("capacity", ctypes.c_int64),
        ("size", ctypes.c_int32 * 3),
        ("steps", ctypes.c_int32),
        ("words", ctypes.c_int32),
        ("low", ctypes.c_float * 3),
        ("high", ctypes.c_float * 3),
        ("step", ctypes.c_float),
        ("near", ctypes.c_float),
        ("far", ctypes.c_float),
        ("cone", ctypes.c_float),
    ]


class _CompositeParams(ctypes.Structure):
    """`CompositeParams` of csrc/march.h, field by field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("sigma", "rgb", "t_start", "t_end", "offsets")),
        *((name, ctypes.c_void_p) for name in ("out", "sums", "weights")),
        *((name, ctypes.c_void_p) for name in ("grad_out", "grad_sums", "grad_weights")),
        *((name, ctypes.c_void_p) for name in ("grad_sigma", "grad_rgb", "light")),
        ("rays", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("channels", ctypes.c_int32),
        ("stop", ctypes.c_float),
    ]


def _call(kernel: str, params: ctypes.Structure, device: torch.device, items: int) -> None:
    """Run a launcher on the CPU, or its kernel with one thread (march_mark) or a warp per item."""
    if device.type == "cuda":
        threads = items * (1 if kernel == "march_mark" else 32)
        nvrtc.launch("march", f"dl_{kernel}", device, ((threads + 127) // 128, 1, 1), (128, 1, 1), [params])
        return
    lib = build.library("march")
    assert lib is not None
    getattr(lib, f"dl_{kernel}")(ctypes.byref(params), build.threads())


def _march(
    origins: Tensor,
    directions: Tensor,
    occupied: Tensor,
    jitter: Tensor | None,
    bounds: list[float],
    step: float,
    near: float,
    far: float,
    cone: float,
    steps: int,
    capacity: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rays, words, device = len(origins), (steps + 63) // 64, origins.device
    offsets = torch.zeros(rays + 1, dtype=torch.int64, device=device)
    kept = torch.empty(rays, words, dtype=torch.int64, device=device)
    coarse = _coarse(occupied)
    p = build.pointer
    params = _MarchParams(
        p(origins), p(directions), p(jitter), p(occupied), (ctypes.c_void_p * 2)(*map(p, coarse)), p(kept), p(offsets),
        None, None, None, rays, 0, (ctypes.c_int32 * 3)(*occupied.shape), steps, words,
        (ctypes.c_float * 3)(*bounds[:3]), (ctypes.c_float * 3)(*bounds[3:]), step, near, far, cone,
    )  # fmt: skip
    _call("march_mark", params, device, rays)
    if device.type == "cuda":
        offsets = offsets.cumsum(0)
        params.offsets = p(offsets)
    if capacity is not None:
        room.note("march", offsets[-1], capacity)
    count = int(offsets[-1]) if capacity is None else capacity
    new = origins.new_empty if capacity is None else origins.new_zeros
    t_start, t_end = new(count), new(count)
    ray = torch.full((count,), max(rays - 1, 0), dtype=torch.int64, device=device)
    params.t_start, params.t_end, params.ray, params.capacity = p(t_start), p(t_end), p(ray), count
    _call("march_write", params, device, rays)
    return offsets if capacity is None else offsets.clamp(max=count), t_start, t_end, ray


def _coarse(occupied: Tensor) -> list[Tensor]:
    """Masks of the 4^3 and 16^3 blocks; on the CPU only room for them, which the launcher fills."""
    masks, fine = [], occupied
    for _ in range(2):
        if occupied.is_cuda:
            fine = _any_in_blocks(fine)
        else:
            fine = torch.empty([-(-n // 4) for n in fine.shape], dtype=torch.uint8)
        masks.append(fine)
    return masks


def _any_in_blocks(mask: Tensor) -> Tensor:
    """[ceil(X / 4), ceil(Y / 4), ceil(Z / 4)] uint8: 1 where a block of 4^3 cells holds one that is not 0."""
    padding = [side for n in reversed(mask.shape) for side in (0, -n % 4)]
    padded = torch.nn.functional.pad(mask.to(torch.uint8), padding)
    x, y, z = (n // 4 for n in padded.shape)
    return padded.reshape(x, 4, y, 4, z, 4).amax((1, 3, 5)).contiguous()


def _march_fake(
    origins: Tensor, directions: Tensor, occupied: Tensor, jitter: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    capacity = rest[-1]
    count = torch.library.get_ctx().new_dynamic_size() if capacity is None else capacity
    whole = torch.int64
    offsets, ray = origins.new_empty(origins.shape[0] + 1, dtype=whole), origins.new_empty(count, dtype=whole)
    return offsets, origins.new_empty(count), origins.new_empty(count), ray


def _composite_params(
    sigma: Tensor, rgb: Tensor, t_start: Tensor, t_end: Tensor, offsets: Tensor, stop: float, **outputs: Tensor | None
) -> _CompositeParams:
    inputs = {"sigma": sigma, "rgb": rgb, "t_start": t_start, "t_end": t_end, "offsets": offsets}
    pointers = {name: build.pointer(tensor) for name, tensor in {**inputs, **outputs}.items()}
    return _CompositeParams(rays=len(offsets) - 1, count=len(sigma), channels=rgb.shape[1], stop=stop, **pointers)


def _composite(
    sigma: Tensor, rgb: Tensor, t_start: Tensor, t_end: Tensor, offsets: Tensor, stop: float
) -> tuple[Tensor, Tensor, Tensor]:
    out, sums, weights = _composite_fake(sigma, rgb, t_start, t_end, offsets, stop)
    inputs = (sigma, rgb, t_start, t_end, offsets, stop)
    params = _composite_params(*inputs, out=out, sums=sums, weights=weights)
    _call("composite", params, sigma.device, len(offsets) - 1)
    return out, sums, weights


def _for_kernels(rays: int) -> Callable[[Tensor], Tensor]:
    """Room that the kernels of rays fill, padding too; without rays all is padding and nothing runs."""
    return torch.empty_like if rays else torch.zeros_like


def _composite_fake(
    sigma: Tensor, rgb: Tensor, t_start: Tensor, t_end: Tensor, offsets: Tensor, stop: float
) -> tuple[Tensor, Tensor, Tensor]:
    rays = offsets.shape[0] - 1
    return sigma.new_empty(rays, rgb.shape[1]), sigma.new_empty(rays, 4), _for_kernels(rays)(sigma)


def _composite_backward(
    grad_out: Tensor | None,
    grad_sums: Tensor | None,
    grad_weights: Tensor | None,
    sigma: Tensor,
    rgb: Tensor,
    t_start: Tensor,
    t_end: Tensor,
    offsets: Tensor,
    sums: Tensor,
    weights: Tensor,
    stop: float,
) -> tuple[Tensor, Tensor]:
    new = _for_kernels(len(offsets) - 1)
    grad_sigma, grad_rgb, light = new(sigma), new(rgb), torch.empty_like(sigma)
    params = _composite_params(
        sigma, rgb, t_start, t_end, offsets, stop,
        sums=sums, weights=weights, grad_out=grad_out, grad_sums=grad_sums, grad_weights=grad_weights,
        grad_sigma=grad_sigma, grad_rgb=grad_rgb, light=light,
    )  # fmt: skip
    _call("composite_backward", params, sigma.device, len(offsets) - 1)
    return grad_sigma, grad_rgb


def _composite_setup(ctx: Context, inputs: Inputs, output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # a gradient nobody asked for arrives as None
    *tensors, ctx.stop = inputs
    ctx.save_for_backward(*tensors, output[1], output[2])


def _composite_autograd(ctx: Context, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    if all(grad is None for grad in grads):
        return (None,) * 6
    given = [None if grad is None else grad.contiguous() for grad in grads]
    sigma, rgb = torch.ops.dreamlab.composite_backward(*given, *ctx.saved_tensors, ctx.stop)
    return sigma, rgb, None, None, None, None


_INTERVALS = "Tensor sigma, Tensor rgb, Tensor t_start, Tensor t_end, Tensor offsets"
torch.library.define(
    "dreamlab::march",
    "(Tensor origins, Tensor directions, Tensor occupied, Tensor? jitter, float[] bounds, float step, float near, "
    "float far, float cone, int steps, SymInt? capacity) -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define("dreamlab::composite", f"({_INTERVALS}, float stop) -> (Tensor, Tensor, Tensor)")
torch.library.define(
    "dreamlab::composite_backward",
    f"(Tensor? grad_out, Tensor? grad_sums, Tensor? grad_weights, {_INTERVALS}, Tensor sums, Tensor weights, "
    "float stop) -> (Tensor, Tensor)",
)
for _device in ("CPU", "CUDA"):
    torch.library.impl("dreamlab::march", _device, _march)
    torch.library.impl("dreamlab::composite", _device, _composite)
    torch.library.impl("dreamlab::composite_backward", _device, _composite_backward)
torch.library.register_fake("dreamlab::march", _march_fake)
torch.library.register_fake("dreamlab::composite", _composite_fake)
torch.library.register_fake(
    "dreamlab::composite_backward", lambda *inputs: (torch.empty_like(inputs[3]), torch.empty_like(inputs[4]))
)
torch.library.register_autograd("dreamlab::composite", _composite_autograd, setup_context=_composite_setup)
