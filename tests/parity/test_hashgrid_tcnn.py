# SPDX-License-Identifier: Apache-2.0
"""Layout tcnn against tiny-cuda-nn's published formulas (its documentation, encodings/grid.h and common_device.h of
2026), written out a corner at a time: levels in float32 with the C library's exp2f and log2f, as their host has them,
indices in Python integers, the rest in float64.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import itertools
import math

import numpy as np
import pytest
import torch

from cuda_ext import build, hashgrid_tcnn
from cuda_ext.hashgrid import HashGrid, encode, position_gradient
from cuda_ext.hashgrid_tcnn import config, params_of, table_of, unsettled

F = np.float32
LIBM = ctypes.CDLL(ctypes.util.find_library("m"))
for _name in ("exp2f", "log2f"):
    getattr(LIBM, _name).argtypes, getattr(LIBM, _name).restype = [ctypes.c_float], ctypes.c_float
BACKENDS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(build.compiler() is None, reason="needs a C++ compiler")),
]
GRIDS = {
    "the paper's": HashGrid(layout="tcnn"),
    "a given growth": HashGrid(levels=7, layout="tcnn", growth=1.3819128800000001, log2_entries=12),
    "whole numbers": HashGrid(levels=5, layout="tcnn", growth=2.0, base_resolution=4, log2_entries=15),
    "dense and padded": HashGrid(levels=4, features=4, layout="tcnn", base_resolution=3, finest_resolution=13),
    "one cell": HashGrid(levels=6, features=1, layout="tcnn", base_resolution=1, finest_resolution=40, log2_entries=8),
    "smooth": HashGrid(levels=5, layout="tcnn", base_resolution=5, finest_resolution=90, smoothstep=True),
}


def level_shapes(grid: HashGrid) -> list[tuple[np.float32, int, int]]:
    """(scale, vertices per axis, rows) of each level, by the constructor of theirs."""
    octaves = F(LIBM.log2f(grid.per_level_scale))
    shapes = []
    for level in range(grid.levels):
        scale = F(LIBM.exp2f(F(level) * octaves)) * F(grid.base_resolution) - F(1)
        side = int(np.ceil(scale)) + 1
        rows = min(-(-(side**3) // 8) * 8, 2**grid.log2_entries)
        shapes.append((scale, side, rows))
    return shapes


def row_of(corner: tuple[int, ...], side: int, rows: int) -> int:
    """`grid_index` in integers: strides until they no longer fit, the hash if they are more than there are rows."""
    index, stride = 0, 1
    if side <= 1625:  # side^3 fits into 32 bits
        for c in corner:
            index, stride = index + c * stride, stride * side
    else:
        stride = 2**32 - 1
    if rows < stride:
        index = 0
        for c, prime in zip(corner, (1, 2654435761, 805459861), strict=True):
            index ^= c * prime % 2**32
    return index % rows


def theirs(x: np.ndarray, grid: HashGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows [N, L, 8], weights [N, L, 8] and their derivatives in the position [N, L, 8, 3]."""
    rows = np.zeros((len(x), grid.levels, 8), np.int64)
    weights, slopes = np.zeros(rows.shape), np.zeros((*rows.shape, 3))
    first = 0
    for level, (scale, side, count) in enumerate(level_shapes(grid)):
        for n, point in enumerate(x.tolist()):
            place = [p * float(scale) + 0.5 for p in point]  # fmaf, but for its rounding
            cell = [math.floor(p) for p in place]
            f = [p - c for p, c in zip(place, cell, strict=True)]
            ease = [t * t * (3 - 2 * t) if grid.smoothstep else t for t in f]
            rise = [float(scale) * (6 * t * (1 - t) if grid.smoothstep else 1.0) for t in f]
            for corner, bits in enumerate(itertools.product((0, 1), repeat=3)):
                at = tuple(c + b for c, b in zip(cell, bits, strict=True))
                rows[n, level, corner] = first + row_of(at, side, count)
                sides = [e if b else 1 - e for e, b in zip(ease, bits, strict=True)]
                weights[n, level, corner] = math.prod(sides)
                for a in range(3):
                    others = math.prod(s for i, s in enumerate(sides) if i != a)
                    slopes[n, level, corner, a] = (1 if bits[a] else -1) * rise[a] * others
        first += count
    return rows, weights, slopes


@pytest.mark.parametrize("name", GRIDS)
def test_levels_and_rows_are_theirs(name: str) -> None:
    grid = GRIDS[name]
    shapes = level_shapes(grid)
    assert grid.offsets == list(itertools.accumulate((rows for *_, rows in shapes), initial=0))
    assert grid.sides == [side for _, side, _ in shapes]
    assert grid.scales == [float(scale) for scale, *_ in shapes]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", GRIDS)
def test_features_and_gradients_are_theirs(name: str, backend: str) -> None:
    grid = GRIDS[name]
    g = torch.Generator().manual_seed(4)
    x = torch.rand(60, 3, generator=g)
    x[:8] = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
    x[8:20, 1] = 1 - 1e-3 * torch.rand(12, generator=g)  # between the last vertex and the border
    table = torch.randn(grid.rows, grid.features, generator=g)
    grad = torch.randn(len(x), grid.width, generator=g)
    rows, weights, slopes = theirs(x.double().numpy(), grid)
    values, pull = table.double().numpy()[rows], grad.double().numpy().reshape(len(x), grid.levels, 1, grid.features)
    expected = (weights[..., None] * values).sum(2).reshape(len(x), -1)
    to_table = np.zeros(table.shape)
    np.add.at(to_table, rows, weights[..., None] * pull)
    to_x = (slopes * (values * pull).sum(-1)[..., None]).sum((1, 2))

    p, t = x.clone().requires_grad_(), table.clone().requires_grad_()
    y = encode(p, t, grid, backend=backend)
    ours = torch.autograd.grad(y, (p, t), grad)
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=2e-6)
    np.testing.assert_allclose(ours[1].numpy(), to_table, atol=2e-6 * np.abs(to_table).max())
    inside = slice(8, None)  # at the very border the slope is that of either side
    np.testing.assert_allclose(ours[0][inside].numpy(), to_x[inside], atol=2e-6 * np.abs(to_x).max())
    direct = position_gradient(x, table, grad, grid, backend=backend)
    np.testing.assert_allclose(direct[inside].detach().numpy(), to_x[inside], atol=2e-6 * np.abs(to_x).max())


def test_corners_past_the_end_are_the_first_rows() -> None:
    """Of a dense level of 8^3 rows, whose scale is 7: x = 1 lies half a cell beyond the last vertex."""
    grid = HashGrid(levels=1, features=1, layout="tcnn", base_resolution=8, finest_resolution=8)
    assert grid.rows == 512 and grid.scales == [7.0]
    table = torch.arange(512.0)[:, None]
    found = [encode(torch.tensor([p]), table, grid).item() for p in ([0.0] * 3, [1.0] * 3, [1.0, 0.5, 0.5])]
    # x = 0 and 1 are at 0.5 and 7.5, x = 1/2 at 4, a vertex; 7 + 8 * 8 + 64 * 8 and 8 + 8 * 8 + 64 * 8 are 71 and 72
    assert found == [(1 + 8 + 64) / 2, (511 + 0 + 7 + 8 + 63 + 64 + 71 + 72) / 8, (7 + 8) / 2 + 8 * 4 + 64 * 4]


def test_the_table_is_their_parameters_in_their_order() -> None:
    grid = GRIDS["dense and padded"]
    table = torch.randn(grid.rows, grid.features, generator=torch.Generator().manual_seed(1))
    params = params_of(table)
    shapes = level_shapes(grid)
    first = sum(rows for *_, rows in shapes[:2]) * grid.features  # where their third level begins
    row = row_of((2, 1, 3), shapes[2][1], shapes[2][2])
    assert torch.equal(params[first + 4 * row : first + 4 * row + 4], table[grid.offsets[2] + row])
    assert torch.equal(table_of(params, grid), table)
    half = table_of(params.half(), grid)  # theirs by default
    assert half.dtype == torch.float32 and torch.equal(half, table.half().float())
    network = torch.cat([torch.zeros(640), params])  # a NetworkWithInputEncoding has its network's weights before
    assert torch.equal(table_of(network, grid, skip=640), table)
    with pytest.raises(ValueError, match=r"hashgrid: .* parameters"):
        table_of(params[:-1], grid)


def test_their_configuration() -> None:
    assert config(GRIDS["smooth"]) == {
        "otype": "HashGrid",
        "n_levels": 5,
        "n_features_per_level": 2,
        "log2_hashmap_size": 19,
        "base_resolution": 5,
        "per_level_scale": float(F(18 ** (1 / 4))),
        "interpolation": "Smoothstep",
    }
    with pytest.raises(ValueError, match="layout: tcnn"):
        config(HashGrid())


class Transcribed(torch.nn.Module):
    """What `tinycudann.Encoding` says it does, by the formulas above: flat parameters, all levels, no clamping."""

    def __init__(self, grid: HashGrid) -> None:
        super().__init__()
        self.grid, self.params = grid, torch.nn.Parameter(torch.empty(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, _, _ = theirs(x.detach().double().numpy(), self.grid)
        scales = torch.tensor([float(scale) for scale, *_ in level_shapes(self.grid)], dtype=x.dtype)
        place = x[:, None] * scales[:, None] + 0.5
        far = place - place.detach().floor()
        far = far * far * (3 - 2 * far) if self.grid.smoothstep else far
        bits = torch.tensor(list(itertools.product((0, 1), repeat=3)))
        weights = torch.where(bits == 1, far[:, :, None], 1 - far[:, :, None]).prod(-1)
        values = self.params.reshape(-1, self.grid.features)[torch.from_numpy(rows)]
        return (weights[..., None] * values).sum(2).flatten(1)


@pytest.mark.parametrize("name", ["a given growth", "smooth"])
def test_the_adapter_asks_for_the_same_function(name: str) -> None:
    """To second order, with levels left out and a position outside, in float64 against the twin."""
    grid = GRIDS[name]
    g = torch.Generator().manual_seed(2)
    x = 1.2 * torch.rand(20, 3, generator=g, dtype=torch.float64) - 0.1
    table = torch.randn(grid.rows, grid.features, generator=g, dtype=torch.float64)
    grad, turn = torch.randn(20, grid.width, generator=g).double(), torch.randn(20, 3, generator=g).double()

    def results(features, gradient):
        p, t, w = (value.clone().requires_grad_() for value in (x, table, grad))
        y, slope = features(p, t), gradient(p, t, w)
        return [y, slope, *torch.autograd.grad((y * grad).sum() + (slope * turn).sum(), (p, t, w))]

    module = Transcribed(grid)
    theirs_by_adapter = results(
        lambda p, t: hashgrid_tcnn.encode(p, t, grid, 4, module),
        lambda p, t, w: hashgrid_tcnn.position_gradient(p, t, w, grid, 4, module),
    )
    twin = results(
        lambda p, t: encode(p, t, grid, active_levels=4, backend="torch"),
        lambda p, t, w: position_gradient(p, t, w, grid, active_levels=4, backend="torch"),
    )
    for mine, ours in zip(theirs_by_adapter, twin, strict=True):
        torch.testing.assert_close(mine, ours, rtol=1e-9, atol=1e-9)


def test_whole_numbers_that_hinge_on_rounding_are_found() -> None:
    assert unsettled(HashGrid(levels=4, layout="tcnn", growth=1.5, base_resolution=16)) == [1, 2, 3]
    assert unsettled(HashGrid(levels=4, layout="tcnn", growth=1.5, base_resolution=16, log2_entries=14)) == [1]
    assert unsettled(GRIDS["whole numbers"]) == [] == unsettled(GRIDS["the paper's"])


def test_what_cannot_be_is_one_line() -> None:
    own, theirs_too = HashGrid(levels=2), HashGrid(levels=2, layout="tcnn")
    x = torch.rand(3, 3)
    with pytest.raises(ValueError, match=r"tinycudann has another table .* layout: tcnn"):
        encode(x, own.init_table(), own, backend="tinycudann")
    with pytest.raises(ValueError, match=r"tinycudann.*(not installed.*BSD-3-Clause|CUDA only)"):
        encode(x, theirs_too.init_table(), theirs_too, backend="tinycudann")
    with pytest.raises(ValueError, match="layout 'tnn' is not one of own, tcnn"):
        HashGrid(layout="tnn")
    with pytest.raises(ValueError, match="growth is of layout tcnn"):
        HashGrid(growth=1.5)
    with pytest.raises(ValueError, match=r"growth .* end at 2\^20"):
        HashGrid(layout="tcnn", growth=3.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["the paper's", "a given growth", "smooth"])
def test_on_a_device(name: str) -> None:
    """The package's own module on our table, to second order; and on its own table, by ours."""
    tinycudann = pytest.importorskip("tinycudann", reason="needs tinycudann")
    grid = GRIDS[name]
    g = torch.Generator().manual_seed(2)
    x, table = torch.rand(5000, 3, generator=g).cuda(), torch.randn(grid.rows, grid.features, generator=g).cuda()
    grad, turn = torch.randn(5000, grid.width, generator=g).cuda(), torch.randn(5000, 3, generator=g).cuda()
    results = []
    for backend in ("tinycudann", "native"):
        p, t, w = (value.clone().requires_grad_() for value in (x, table, grad))
        y = encode(p, t, grid, active_levels=4, backend=backend)
        slope = position_gradient(p, t, w, grid, active_levels=4, backend=backend)
        loss = (y * grad).sum() + 1e-3 * (slope * turn).sum()
        results.append([y, slope, *torch.autograd.grad(loss, (p, t, w))])
    for theirs_there, ours in zip(*results, strict=True):
        assert (theirs_there - ours).norm() < 1e-2 * ours.norm()
    module = tinycudann.Encoding(3, config(grid), dtype=torch.float32)
    ours = encode(x, table_of(module.params, grid), grid, backend="native")
    assert (module(x) - ours).norm() < 1e-3 * ours.norm()
