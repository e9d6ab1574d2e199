# SPDX-License-Identifier: Apache-2.0
"""Hostile positions, tables and gradients: never a crash, never a write outside, the same answer as the twin."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cuda_ext import build
from cuda_ext.hashgrid import LAYOUTS, HashGrid, encode, position_gradient

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="needs a C++ compiler")
ANY = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)
NEAR_BORDERS = st.sampled_from([0.0, -0.0, 1.0, 0.5, 1e-45, 1 - 2**-24, 1 + 2**-23, -1e-30, 1 / 3, float("nan")])


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(*[ANY | NEAR_BORDERS] * 3), min_size=1, max_size=40),
    smoothstep=st.booleans(),
    features=st.sampled_from([1, 2, 4, 8]),
    poison=st.none() | ANY,
    layout=st.sampled_from(LAYOUTS),
)
def test_any_position_and_any_table(points, smoothstep, features, poison, layout):
    grid = HashGrid(4, features, 6, 2, 2**20, smoothstep, layout)
    x = torch.tensor(points, dtype=torch.float32)
    g = torch.Generator().manual_seed(0)
    table, grad = torch.randn(grid.rows, features, generator=g), torch.randn(len(x), grid.width, generator=g)
    if poison is not None:
        table[::7], grad[::3] = poison, poison
    results = []
    for backend in ("native", "torch"):
        a, t = x.clone().requires_grad_(), table.clone().requires_grad_()
        y = encode(a, t, grid, backend=backend)
        to_x, to_table = torch.autograd.grad(y, (a, t), grad, create_graph=True)
        (second,) = torch.autograd.grad(to_x.sum(), t)
        results.append([y, to_table, to_x, second])
    clean = x.isfinite().all() and (poison is None or abs(poison) < 1e3)
    for ours, twin in zip(*results, strict=True):
        assert ours.shape == twin.shape
        if clean:  # else sums of Inf and NaN depend on their order
            scale = twin.abs().max().clamp(min=1e-20)
            assert ours.isfinite().all() and (ours - twin).abs().max() <= 1e-4 * scale


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(0, 70),
    levels=st.integers(1, 32),
    base=st.integers(1, 40),
    more=st.integers(0, 5000),
    log2_entries=st.integers(3, 12),
    layout=st.sampled_from(LAYOUTS),
)
def test_any_shape_of_the_grid(count, levels, base, more, log2_entries, layout):
    grid = HashGrid(levels, 2, log2_entries, base, base + more, layout=layout)
    g = torch.Generator().manual_seed(count)
    x, table = torch.rand(count, 3, generator=g), torch.randn(grid.rows, 2, generator=g)
    grad = torch.randn(count, grid.width, generator=g)
    ours, twin = (encode(x, table, grid, backend=backend) for backend in ("native", "torch"))
    torch.testing.assert_close(ours, twin, rtol=1e-5, atol=1e-5)
    slopes = [position_gradient(x, table, grad, grid, backend=backend) for backend in ("native", "torch")]
    scale = slopes[1].detach().abs().max().item() if count else 1.0
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-5 * scale)
