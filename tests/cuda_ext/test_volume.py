# SPDX-License-Identifier: Apache-2.0
"""`volume` against its twin, a plain loop, closed forms and finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ext import build
from cuda_ext.reference import volume as reference
from cuda_ext.volume import volume

BACKENDS = ("native", "torch")
HOW: dict[str, Any] = {"samples": 14, "reach": 1.0, "shift": 2.0, "gain": 1.2}


@pytest.fixture(autouse=True)
def _native() -> None:
    if build.compiler() is None:
        pytest.skip("no host compiler")


def rays_of(views: int, count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Rays past the origin within 2: some miss the cube."""
    g = torch.Generator().manual_seed(seed)
    direction = F.normalize(torch.randn(views, count, 3, generator=g, dtype=torch.float64), dim=-1)
    beside = torch.randn(views, count, 3, generator=g, dtype=torch.float64)
    beside = F.normalize(beside - (beside * direction).sum(-1, keepdim=True) * direction, dim=-1)
    near = beside * 2.0 * torch.rand(views, count, 1, generator=g, dtype=torch.float64)
    return near.to(dtype), direction.to(dtype)


def grid_of(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_hand(
    grid: Tensor, near: Tensor, direction: Tensor, samples: int, reach: float, shift: float, gain: float
) -> list:
    """One ray through one grid [D, H, W, C] in plain Python."""
    sizes = grid.shape[:3]
    out, clear = [0.0] * (grid.shape[3] + 1), 1.0
    for k in range(samples):
        t = (k + 0.5) * 2 * reach / samples - reach
        point = [float(near[i] + t * direction[i]) / reach for i in (2, 1, 0)]  # z, y, x
        if max(abs(x) for x in point) >= 1:
            continue
        place = [((x + 1) * n - 1) / 2 for x, n in zip(point, sizes, strict=True)]
        found = [0.0] * grid.shape[3]
        for corner in range(8):
            cell = [math.floor(x) + (corner >> i & 1) for i, x in enumerate(place)]
            if all(0 <= c < n for c, n in zip(cell, sizes, strict=True)):
                weight = math.prod(1 - abs(x - c) for x, c in zip(place, cell, strict=True))
                found = [a + weight * float(b) for a, b in zip(found, grid[tuple(cell)], strict=True)]
        after = clear * math.exp(-gain * math.log1p(math.exp(found[0] - shift)))
        for c in range(1, grid.shape[3]):
            out[c - 1] += (clear - after) * found[c]
        out[-2] += clear - after
        out[-1] -= (clear - after) * t
        clear = after
    return out


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plain_loop_agrees(backend: str) -> None:
    grid, (near, direction) = grid_of(2, 5, 4, 6, 3), rays_of(2, 12)
    row = torch.tensor([1, 0])
    found = volume(grid, row, near, direction, **HOW, backend=backend)
    hand = [[by_hand(grid[row[b]], near[b, n], direction[b, n], **HOW) for n in range(12)] for b in range(2)]
    torch.testing.assert_close(found, torch.tensor(hand), atol=2e-5, rtol=2e-5)
    assert (found[..., -2] == 0).any() and (found[..., -2] > 0.5).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_even_fog_takes_what_beer_and_lambert_say(backend: str) -> None:
    """Through the middle of many cells of one density: 1 - exp(-gain x samples x softplus); borders fade."""
    grid = torch.full((1, 64, 64, 64, 2), 0.3)
    near, direction = torch.zeros(1, 1, 3), torch.tensor([[[0.0, 0.6, -0.8]]])
    seen = volume(grid, torch.tensor([0]), near, direction, samples=40, shift=2.0, gain=0.05, backend=backend)
    expected = 1 - math.exp(-0.05 * 40 * math.log1p(math.exp(0.3 - 2.0)))
    torch.testing.assert_close(seen[0, 0, 1], torch.tensor(expected), atol=0.01, rtol=0)
    torch.testing.assert_close(seen[0, 0, 0], 0.3 * seen[0, 0, 1], atol=0.005, rtol=0)


@pytest.mark.parametrize(
    "shape", [(24, 16, 16, 16, 20), (3, 7, 5, 9, 20), (2, 4, 4, 4, 1), (1, 1, 1, 1, 2), (5, 8, 8, 8, 7)]
)
@pytest.mark.parametrize("samples", [1, 14, 64])
def test_native_and_twin_agree(shape: tuple[int, ...], samples: int) -> None:
    """Values and gradients; views share grids, in no order, and one grid is looked through by nobody."""
    views = 2 * shape[0]
    near, direction = rays_of(views, 30, seed=samples)
    row = torch.randint(max(shape[0] - 1, 1), (views,), generator=torch.Generator().manual_seed(2))
    how, found = HOW | {"samples": samples, "reach": 0.8}, []
    for backend in BACKENDS:
        grid = grid_of(*shape).requires_grad_()
        value = volume(grid, row, near, direction, **how, backend=backend)
        probe = torch.randn(value.shape, generator=torch.Generator().manual_seed(3))
        found.append((value.detach(), torch.autograd.grad((value * probe).sum(), grid)[0]))
    torch.testing.assert_close(found[0][0], found[1][0], atol=5e-5, rtol=5e-5)
    torch.testing.assert_close(found[0][1], found[1][1], atol=2e-4, rtol=2e-4)


def test_the_twins_gradient_is_that_of_finite_differences() -> None:
    near, direction = rays_of(2, 6, dtype=torch.float64)
    row = torch.tensor([0, 1])
    grid = grid_of(2, 3, 4, 3, 3, dtype=torch.float64).requires_grad_()
    how = tuple(HOW.values())
    assert torch.autograd.gradcheck(lambda value: reference.volume(value, row, near, direction, *how), (grid,))


def test_odd_numbers_do_no_harm() -> None:
    """Densities far out, rays that are not finite: no crash, and what is finite stays so."""
    near, direction = rays_of(1, 8)
    grid = grid_of(1, 4, 4, 4, 3)
    grid[..., 0] = torch.where(grid[..., 0] > 0, 1e6, -1e6)
    value = volume(grid, torch.tensor([0]), near, direction, **HOW, backend="native")
    torch.testing.assert_close(value, volume(grid, torch.tensor([0]), near, direction, **HOW, backend="torch"))
    near[0, 0, 0], direction[0, 1, 1] = torch.nan, torch.inf
    grid = grid.requires_grad_()
    value = volume(grid, torch.tensor([0]), near, direction, **HOW, backend="native")
    assert value[0, 2:].isfinite().all() and not value[0, :2].any()
    assert torch.autograd.grad(value[0, 2:].sum(), grid)[0].isfinite().all()


def test_same_bits_for_any_number_of_threads() -> None:
    before, found = torch.get_num_threads(), []
    near, direction = rays_of(6, 50)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            grid = grid_of(3, 6, 6, 6, 20).requires_grad_()
            value = volume(grid, torch.tensor([0, 1, 2, 1, 0, 1]), near, direction, **HOW, backend="native")
            found.append((value.detach(), torch.autograd.grad(value.square().sum(), grid)[0]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_wrong_inputs_are_named() -> None:
    grid, (near, direction), row = grid_of(2, 3, 3, 3, 2), rays_of(1, 4), torch.tensor([0])
    for change, words in (
        ({"row": torch.tensor([2])}, "names grids 2..2, there are 2"),
        ({"row": torch.tensor([0], dtype=torch.int32)}, "row is torch.int32"),
        ({"samples": 65}, "samples is 1 to 64, got 65"),
        ({"reach": 0.0}, "reach must be positive"),
        ({"grid": grid[0]}, "grid must be"),
        ({"near": near.double()}, "same dtype"),
    ):
        given = {"grid": grid, "row": row, "near": near, "direction": direction, **HOW} | change
        with pytest.raises(ValueError, match=words):
            volume(given.pop("grid"), given.pop("row"), given.pop("near"), given.pop("direction"), **given)


def test_registered_ops_are_sound() -> None:
    near, direction = rays_of(2, 5)
    grid = grid_of(2, 3, 3, 3, 4).requires_grad_()
    torch.library.opcheck(torch.ops.dreamlab.volume, (grid, torch.tensor([0, 1]), near, direction, *HOW.values()))
