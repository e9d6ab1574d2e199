# SPDX-License-Identifier: Apache-2.0
"""Benches of march and composite: a picture of a closed-form field, pruned by occupancy, against 512 dense samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.harness import fitted_exponent, interleave, ratio_check, time_once
from cuda_ext.march import Bounds, Composited, cell_points, composite, march, occupied_cells
from dreamlab.core.cameras import turntable
from dreamlab.metrics.figures import Check

BOX: Bounds = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
DENSE = 512


def field(points: Tensor) -> tuple[Tensor, Tensor]:
    """[M, 3] -> density [M], colour [M, 3]: a soft striped torus around +Y with a ball in its middle."""
    x, y, z = points.unbind(-1)
    flat = (x * x + z * z).sqrt()
    torus = 0.16 - ((flat - 0.55).square() + y * y).sqrt()
    ball = 0.2 - points.norm(dim=-1)
    density = 80 * torch.sigmoid(60 * torch.maximum(torus, ball))
    stripes = 0.5 + 0.5 * torch.sin(8 * torch.atan2(z, x))
    return density, torch.stack([0.9 - 0.5 * stripes, 0.3 + 0.5 * stripes, 0.5 + y], -1)


@dataclass(frozen=True)
class Picture:
    """One view of the field on a white background."""

    size: int = 128
    resolution: int = 64  # of the occupancy grid

    def rays(self) -> tuple[Tensor, Tensor]:
        origin, directions = turntable(1, elevation_deg=30.0).rays(self.size, self.size)
        flat = directions.reshape(-1, 3)
        return origin.expand_as(flat).contiguous(), flat.contiguous()

    def occupancy(self) -> Tensor:
        """Cells, and their neighbours, where a step at the centre would stop a hundredth of the light."""
        n = self.resolution
        density = field(cell_points((n, n, n), BOX))[0].reshape(1, n, n, n)
        threshold = 0.01 * DENSE / math.dist(*BOX)
        return occupied_cells(torch.nn.functional.max_pool3d(density, 3, 1, 1)[0], threshold)

    def render(self, occupied: Tensor, backend: str = "native") -> tuple[Tensor, int]:
        """Picture [S, S, 3] and the number of samples."""
        origins, directions = self.rays()
        step = math.dist(*BOX) / DENSE
        samples = march(origins, directions, occupied, BOX, step=step, backend=backend)
        density, colour = field(samples.points(origins, directions))
        got: Composited = composite(density, colour, samples, backend=backend)
        rgb = got.rgb + (1 - got.alpha)
        return rgb.reshape(self.size, self.size, 3), len(density)


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(float((a - b).square().mean()))


def entries() -> list[Check]:
    picture, threads = Picture(), torch.get_num_threads()
    sparse, full = picture.occupancy(), torch.ones(1, 1, 1, dtype=torch.bool)
    with torch.no_grad():
        (ours, few), (dense, many) = picture.render(sparse), picture.render(full)
        agreement = psnr(ours, dense)
        if agreement < 40:
            raise AssertionError(f"the pruned picture agrees with the dense one to {agreement:.1f} dB only")
        timing = interleave({"pruned": lambda: picture.render(sparse), "dense": lambda: picture.render(full)})
        kernels = kernel_checks(picture, sparse, threads)
    check = ratio_check(
        "march_vs_dense512", timing["pruned"], timing["dense"], 6.0, threads=threads, slow_threads=threads,
        psnr_db=round(agreement, 1), samples=few, dense_samples=many, occupied=round(float(sparse.float().mean()), 4),
    )  # fmt: skip
    return [check, *kernels]


def kernel_checks(picture: Picture, occupied: Tensor, threads: int) -> list[Check]:
    """The two ops alone against their twins, on the same picture."""
    origins, directions = picture.rays()
    step = math.dist(*BOX) / DENSE
    samples = march(origins, directions, occupied, BOX, step=step)
    density, colour = inputs = [t.requires_grad_() for t in field(samples.points(origins, directions))]

    def composite_both(backend: str) -> None:
        with torch.enable_grad():
            got = composite(density, colour, samples, backend=backend)
            torch.autograd.grad(got.rgb.sum() + got.depth.sum() + got.distortion.sum(), inputs)

    checks = []
    for name, call in (
        ("march_vs_twin", lambda b: march(origins, directions, occupied, BOX, step=step, backend=b)),
        ("composite_vs_twin", composite_both),
    ):
        timing = interleave({"native": lambda: call("native"), "twin": lambda: call("torch")})  # noqa: B023
        native, twin = timing["native"], timing["twin"]
        checks.append(ratio_check(name, native, twin, None, threads=threads, slow_threads=threads))
    return checks


def scaling() -> list[Check]:
    """Fitted exponent of the time of march and composite against rays."""
    sizes, times = [64, 128, 256, 512], []
    for size in sizes:
        picture = Picture(size)
        occupied = picture.occupancy()
        with torch.no_grad():
            picture.render(occupied)
            times.append(min(time_once(lambda: picture.render(occupied))[1] for _ in range(3)))  # noqa: B023
    value = round(fitted_exponent([size * size for size in sizes], times), 3)
    details = {"sizes": sizes, "cpu_ms": [round(1e3 * t, 2) for t in times]}
    return [Check("march_time_exponent_rays", value, "", 1.05, "lower", details=details)]
