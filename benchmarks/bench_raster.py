# SPDX-License-Identifier: Apache-2.0
"""Benches of the raster family: a mesh rasterised and antialiased, forward and backward, against the torch twins."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.harness import copy_bandwidth, fitted_exponent, interleave, on_threads, ratio_check, time_once
from cuda_ext.antialias import antialias, edge_neighbours
from cuda_ext.raster import projection, raster
from dreamlab.core.cameras import turntable
from dreamlab.metrics.figures import Check

# What must move per pixel, read and written once: raster's outputs, its backward's inputs, antialias both ways.
BYTES_PER_PIXEL = 32 + 16 + (8 + 8) + (12 + 12 + 8) + (12 + 12 + 12 + 8)


@dataclass(frozen=True)
class Case:
    """A torus of about `count` triangles that fills most of the picture."""

    clip: Tensor  # [B, V, 4]
    triangles: Tensor  # [T, 3] int32
    neighbours: Tensor  # [T, 3] int32, built once as in training
    size: int
    cotangent: Tensor  # [B, S, S, 3]

    def forward(self, backend: str = "native") -> Tensor:
        shape = (self.size, self.size)
        seen = raster(self.clip, self.triangles, shape, backend=backend)
        color = torch.cat([seen.uv, seen.depth[..., None]], -1)
        return antialias(color, seen, self.clip, self.triangles, neighbours=self.neighbours, backend=backend)

    def both(self, backend: str = "native") -> Tensor:
        return torch.autograd.grad(self.forward(backend), self.clip, self.cotangent)[0]


def torus(count: int) -> tuple[Tensor, Tensor]:
    """[V, 3], [T, 3]: major radius 0.65, minor radius 0.3, square-ish quads cut in two."""
    rings = max(3, round(math.sqrt(count / 2 * 0.65 / 0.3)))
    sides = max(3, round(count / 2 / rings))
    i, j = torch.meshgrid(torch.arange(rings), torch.arange(sides), indexing="ij")
    a, b = i * (2 * math.pi / rings), j * (2 * math.pi / sides)
    out = 0.65 + 0.3 * torch.cos(b)
    vertices = torch.stack([out * torch.cos(a), out * torch.sin(a), 0.3 * torch.sin(b)], -1).reshape(-1, 3)
    corner = [((i + di) % rings * sides + (j + dj) % sides).flatten() for di, dj in ((0, 0), (1, 0), (1, 1), (0, 1))]
    first, second = (
        torch.stack([corner[0], corner[1], corner[2]], -1),
        torch.stack([corner[0], corner[2], corner[3]], -1),
    )
    return vertices, torch.stack([first, second], 1).reshape(-1, 3)


def make_case(count: int, size: int, views: int = 1) -> Case:
    vertices, triangles = torus(count)
    cameras = turntable(views, elevation_deg=20.0)
    matrix = projection(cameras.fovy_deg, 1.0, 0.1, 10.0) @ cameras.world_to_camera()
    clip = torch.cat([vertices, torch.ones_like(vertices[:, :1])], 1) @ matrix.transpose(1, 2)
    cotangent = torch.randn(views, size, size, 3, generator=torch.Generator().manual_seed(0))
    return Case(clip.requires_grad_(), triangles.int(), edge_neighbours(triangles), size, cotangent)


def entries() -> list[Check]:
    threads = torch.get_num_threads()
    case = make_case(50_000, 512)
    ours, twin = case.both(), case.both("torch")
    error = float((ours - twin).norm() / twin.norm())
    if not error < 1e-3:
        raise AssertionError(f"raster: gradients of native and twin differ by {error:.2e} (relative L2)")
    timing = interleave({"both": case.both, "twin": lambda: case.both("torch")})
    alone = interleave({"both": case.both, "one": on_threads(1, case.both), "forward": case.forward})
    seconds = BYTES_PER_PIXEL * case.size**2 / copy_bandwidth()
    details = {
        "triangles": len(case.triangles),
        "memory_bound_fraction": round(seconds / timing["both"].wall_median, 3),
        "forward_cpu_ms": round(1e3 * alone["forward"].cpu_median, 3),
        "one_thread_ms": round(1e3 * alone["one"].wall_median, 3),
        "gradient_error": error,
    }
    return [
        ratio_check(
            "raster_50k_512_vs_twin",
            timing["both"],
            timing["twin"],
            100.0,
            threads=threads,
            slow_threads=threads,
            **details,
        )
    ]


def scaling() -> list[Check]:
    """Fitted exponents of CPU time against triangles, pixels and views."""
    sweeps: dict[str, list[tuple[float, Case]]] = {
        "count": [(n, make_case(n, 256)) for n in (1_000, 4_000, 16_000, 64_000, 256_000, 500_000)],
        "pixels": [(s * s, make_case(20_000, s)) for s in (64, 128, 256, 512, 1024)],
        "views": [(v, make_case(20_000, 128, v)) for v in (1, 2, 4, 8, 16)],
    }
    checks = []
    for name, cases in sweeps.items():
        times = []
        for _, case in cases:
            case.both()
            times.append(min(time_once(case.both)[1] for _ in range(3)))
        sizes = [size for size, _ in cases]
        details = {"sizes": sizes, "cpu_ms": [round(1e3 * t, 2) for t in times]}
        value = round(fitted_exponent(sizes, times), 3)
        checks.append(Check(f"raster_time_exponent_{name}", value, "", 1.05, "lower", details=details))
    return checks
