# SPDX-License-Identifier: Apache-2.0
"""Benches of `splat`: against a plain C loop on one thread, the torch twin, and itself on one thread."""

from __future__ import annotations

import ctypes
import math
import resource
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.harness import fitted_exponent, interleave, on_threads, ratio_check, time_once, two_threads_check
from cuda_ext import build, splat_ops
from cuda_ext.splat import splat
from dreamlab.core.cameras import turntable
from dreamlab.metrics.figures import Check

NAMES = ("means", "quats", "scales", "opacities", "colors")


@dataclass(frozen=True)
class Case:
    """A seeded ball of splats: log-normal scales, sizes that keep the coverage of the picture about constant."""

    tensors: dict[str, Tensor]
    poses: Tensor
    focal: Tensor
    size: int
    cotangent: Tensor  # [B, S, S, 3]

    def forward(self, backend: str = "native") -> Tensor:
        first = (self.tensors[name] for name in NAMES)
        return splat(*first, self.poses, self.focal, (self.size, self.size), backend=backend).rgb  # type: ignore

    def both(self, backend: str = "native") -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.forward(backend), list(self.tensors.values()), self.cotangent)


def make_case(count: int, size: int, views: int = 1, seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    direction = torch.nn.functional.normalize(normal(count, 3), dim=-1)
    radius = 0.8 * torch.rand(count, 1, generator=generator) ** (1 / 3)
    tensors = {
        "means": direction * radius,
        "quats": normal(count, 4),
        "scales": (0.5 * normal(count, 3)).exp() * 0.02 * math.sqrt(4096 / count),
        "opacities": 0.1 + 0.8 * torch.rand(count, generator=generator),
        "colors": torch.rand(count, 3, generator=generator),
    }
    cameras = turntable(views)
    return Case(
        {name: tensor.requires_grad_() for name, tensor in tensors.items()},
        cameras.camera_to_world,
        cameras.focal_px(size),
        size,
        normal(views, size, size, 3),
    )


class ScalarLoop:
    """The plain loop of csrc/splat_scalar_cpu.cpp on a case."""

    def __init__(self, case: Case, tight: bool = False) -> None:
        lib = build.library("splat_scalar")
        assert lib is not None
        self.lib, self.case, self.tight = lib, case, tight
        self.scene = {name: tensor.detach() for name, tensor in case.tensors.items()}
        scene = {
            **self.scene,
            "sh": None,
            "extra": None,
            "background": None,
            "cameras": case.poses,
            "focal": case.focal,
        }
        size = (case.size, case.size)
        self.params = splat_ops.make_params(scene, size, 0.3, False, 0.05)
        means, views = self.scene["means"], len(case.poses)
        self.pictures = splat_ops.empty_pictures(means, views, *size, 0)
        self.records = means.new_empty(views, len(means), 16)
        self.grads = {f"d_{name}": torch.zeros_like(tensor) for name, tensor in self.scene.items()}
        self.params.point(**self.pictures, records=self.records, g_rgb=case.cotangent, **self.grads)

    def forward(self) -> Tensor:
        self.lib.dl_scalar_forward(ctypes.byref(self.params), int(self.tight))
        return self.pictures["rgb"]

    def both(self) -> tuple[Tensor, ...]:
        self.forward()
        for tensor in self.grads.values():
            tensor.zero_()
        self.lib.dl_scalar_backward(ctypes.byref(self.params), int(self.tight))
        return tuple(self.grads.values())


def assert_agree(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], where: str) -> None:
    """Benches compare like with like: relative L2 error of every gradient below 1e-3."""
    for name, a, b in zip(NAMES, ours, theirs, strict=True):
        error = float((a - b).norm() / b.norm())
        if not error < 1e-3:
            raise AssertionError(f"{where}: gradients of {name} differ by {error:.2e} (relative L2)")


def entries() -> list[Check]:
    """The scalar loop visits the square around the radius, as published rasterisers do; `_tight`: the least box."""
    threads = torch.get_num_threads()
    large, small = make_case(50_000, 512), make_case(10_000, 256)
    loop, tight = ScalarLoop(large), ScalarLoop(large, tight=True)
    for baseline, where in ((loop, "scalar loop"), (tight, "tight scalar loop")):
        assert_agree(large.both(), baseline.both(), where)
    assert_agree(small.both(), small.both("torch"), "twin")
    one = on_threads(1, large.both)
    both = interleave({"ours": large.both, "loop": loop.both, "tight": tight.both, "one": one})
    with torch.no_grad():
        forward = interleave({"ours": large.forward, "loop": loop.forward, "tight": tight.forward})
    twin = interleave({"ours": small.both, "twin": lambda: small.both("torch")})
    return [
        ratio_check("splat_50k_512_vs_scalar_loop", both["ours"], both["loop"], 15.0, threads=threads),
        ratio_check("splat_50k_512_vs_scalar_loop_tight", both["ours"], both["tight"], None, threads=threads),
        ratio_check("splat_forward_vs_scalar_loop", forward["ours"], forward["loop"], 25.0, threads=threads),
        ratio_check("splat_forward_vs_scalar_loop_tight", forward["ours"], forward["tight"], None, threads=threads),
        ratio_check("splat_10k_256_vs_twin", twin["ours"], twin["twin"], 100.0, threads=threads, slow_threads=threads),
        two_threads_check("splat", both["ours"], both["one"], threads),
    ]


def scaling() -> list[Check]:
    """Fitted exponents of time (and of the growth of peak memory) against count, resolution and views."""
    sweeps: dict[str, list[tuple[int, Case]]] = {
        "count": [(n, make_case(n, 256)) for n in (1_000, 4_000, 16_000, 64_000, 256_000, 500_000)],
        "pixels": [(s * s, make_case(20_000, s)) for s in (64, 128, 256, 512, 1024)],
        "views": [(v, make_case(20_000, 128, v)) for v in (1, 2, 4, 8, 16)],
    }
    checks = []
    for name, cases in sweeps.items():
        times, memory = [], []
        for _, case in cases:
            case.both()
            times.append(min(time_once(case.both)[1] for _ in range(3)))
            memory.append(saved_bytes(case.forward))
        sizes = [float(size) for size, _ in cases]
        details = {
            "sizes": sizes,
            "cpu_ms": [round(1e3 * t, 2) for t in times],
            "saved_mb": [round(m / 1e6, 2) for m in memory],
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        }
        for kind, costs in (("time", times), ("memory", memory)):
            value = round(fitted_exponent(sizes, [float(cost) for cost in costs]), 3)
            checks.append(Check(f"splat_{kind}_exponent_{name}", value, "", 1.05, "lower", details=details))
    return checks


def saved_bytes(forward: Callable[[], object]) -> int:
    """Bytes the forward pass keeps for backward, pictures included."""
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(held.values())
