# SPDX-License-Identifier: Apache-2.0
"""Hash grid: closed forms, the twin's finite differences, native against the twin to second order, borders, bits."""

import itertools

import pytest
import torch

from cuda_ext import build
from cuda_ext.hashgrid import LAYOUTS, HashGrid, _layout, encode, position_gradient

needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="needs a C++ compiler")
BACKENDS = ["torch", pytest.param("native", marks=needs_compiler)]
SMALL = {"levels": 5, "log2_entries": 9, "base_resolution": 3, "finest_resolution": 37}  # one dense, four hashed levels


def scene(grid, count=1003, dtype=torch.float32, seed=0):
    """Positions (some outside, all eight corners among them), table, and cotangents of every kind."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 3, generator=g) * 1.1 - 0.05
    x[:8] = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))[:count]
    table = torch.randn(grid.rows, grid.features, generator=g)
    grad, turn = torch.randn(count, grid.width, generator=g), torch.randn(count, 3, generator=g)
    return [t.to(dtype) for t in (x, table, grad, turn, torch.randn(grid.rows, grid.features, generator=g))]


def derivatives(grid, tensors, backend, active):
    """Features, both gradients, and the gradients of those in everything they depend on."""
    x, table, grad = (t.clone().requires_grad_() for t in tensors[:3])
    turn, rows = tensors[3:]
    y = encode(x, table, grid, active_levels=active, backend=backend)
    to_x, to_table = torch.autograd.grad(y, (x, table), grad, create_graph=True)
    second = torch.autograd.grad((to_x * turn).sum(), (x, table, grad), retain_graph=True)
    third = torch.autograd.grad((to_table * rows).sum(), (x, grad))
    names = ("y", "x", "table", "x.x", "x.table", "x.grad", "table.x", "table.grad")
    return dict(zip(names, (y, to_x, to_table, *second, *third), strict=True))


def assert_near(ours, reference, bound, where):
    """Largest difference in units of the largest value."""
    scale = reference.abs().max().clamp(min=1e-30)
    error = (ours.double() - reference.double()).abs().max() / scale
    assert error <= bound, f"{where}: {error:.1e} > {bound:.0e}"


@needs_compiler
@pytest.mark.parametrize("active", [None, 3])
@pytest.mark.parametrize("smoothstep", [False, True])
@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_native_matches_twin_to_second_order(layout, features, smoothstep, active):
    grid = HashGrid(**SMALL, features=features, smoothstep=smoothstep, layout=layout)
    tensors = scene(grid)
    ours = derivatives(grid, tensors, "native", active)
    twin = derivatives(grid, [t.double() for t in tensors], "torch", active)
    for name in twin:
        assert_near(ours[name], twin[name], 1e-6, name)


@needs_compiler
def test_native_matches_twin_across_chunks_of_samples():
    grid = HashGrid(levels=1, features=1, log2_entries=6, base_resolution=9, finest_resolution=9)
    x, table, grad, turn, _ = scene(grid, count=2 * 2**17 + 33)
    ours, twin = [], []
    for into, backend, dtype in ((ours, "native", torch.float32), (twin, "torch", torch.float64)):
        a, b, g = (t.to(dtype).requires_grad_() for t in (x, table, grad))
        y = encode(a, b, grid, backend=backend)
        to_x, to_table = torch.autograd.grad(y, (a, b), g, create_graph=True)
        into += [y, to_x, to_table, *torch.autograd.grad(to_x, (b, g), turn.to(dtype))]
    for i, (a, b) in enumerate(zip(ours, twin, strict=True)):
        # a row of the table sums thousands of samples in float32
        assert_near(a, b, 1e-6 if a.shape[0] == len(x) else 2e-5, f"output {i}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("smoothstep", [False, True])
def test_twin_against_finite_differences(smoothstep, layout):
    grid = HashGrid(3, 2, 4, base_resolution=1, finest_resolution=7, smoothstep=smoothstep, layout=layout)
    x, table, *_ = scene(grid, count=12, dtype=torch.float64)
    x = x[8:].clamp(0.01, 0.99)
    places = x[..., None] * torch.tensor(grid.scales) + grid.shift
    assert (places.frac() - 0.5).abs().max() < 0.4999  # off the cell borders
    inputs = (x.requires_grad_(), table.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: encode(a, b, grid, active_levels=2), inputs)
    assert torch.autograd.gradgradcheck(lambda a, b: encode(a, b, grid), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dense_level_reproduces_a_trilinear_function(backend):
    def f(p):
        x, y, z = p.unbind(-1)
        return torch.stack([1 + 2 * x - y + 0.5 * x * y * z, z - x * y], -1)

    grid = HashGrid(levels=1, base_resolution=8, finest_resolution=8)
    k, j, i = torch.meshgrid(*[torch.arange(9.0)] * 3, indexing="ij")  # the row runs fastest along x
    table = torch.zeros(grid.rows, 2)
    table[: 9**3] = f(torch.stack([i, j, k], -1).reshape(-1, 3) / 8)
    x = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = encode(x, table, grid, backend=backend)
    torch.testing.assert_close(y, f(x), rtol=0, atol=1e-6)
    (slope,) = torch.autograd.grad(y[:, 0].sum(), x)
    a, b, c = x.detach().unbind(-1)
    expected = torch.stack([2 + 0.5 * b * c, -1 + 0.5 * a * c, 0.5 * a * b], -1)
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("smoothstep", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_constant_table_is_a_constant_field(backend, smoothstep, layout):
    grid = HashGrid(**SMALL, smoothstep=smoothstep, layout=layout)
    x = scene(grid)[0].requires_grad_()
    y = encode(x, torch.full((grid.rows, 2), 3.0), grid, backend=backend)
    torch.testing.assert_close(y, torch.full_like(y, 3.0), rtol=1e-6, atol=0)
    assert torch.autograd.grad(y.sum(), x)[0].abs().max() < 1e-3  # of 3 * 37 cells: cancellation only


@pytest.mark.parametrize("backend", BACKENDS)
def test_vertices_of_a_hashed_level_are_its_rows(backend):
    """The hash itself, in Python integers; x = 1 is the last vertex and does not wrap around."""
    grid = HashGrid(levels=1, log2_entries=6, base_resolution=16, finest_resolution=16)
    table = torch.arange(64.0)[:, None].expand(64, 2).contiguous()
    vertices = torch.tensor([[0, 0, 0], [16, 16, 16], [16, 0, 3], [5, 9, 16], [1, 2, 3]])
    rows = [(i ^ (j * 2654435761) ^ (k * 805459861)) % 64 for i, j, k in vertices.tolist()]
    y = encode(vertices / 16, table, grid, backend=backend)
    assert y[:, 0].tolist() == [float(row) for row in rows]


@pytest.mark.parametrize("backend", BACKENDS)
def test_outside_is_clamped_and_gets_no_gradient(backend):
    grid = HashGrid(**SMALL)
    table = scene(grid)[1]
    x = torch.tensor([[1.7, 0.3, -0.2], [float("inf"), 0.3, float("-inf")], [1.0, 0.3, 0.0]], requires_grad=True)
    y = encode(x, table, grid, backend=backend)
    assert torch.equal(y[0], y[2]) and torch.equal(y[1], y[2])
    slope = torch.autograd.grad(y.sum(), x)[0]
    assert (slope[:2, [0, 2]] == 0).all() and (slope[:, 1] != 0).all() and (slope[2] != 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_shows_in_its_own_row_only(backend):
    grid = HashGrid(**SMALL)
    x, table, *_ = scene(grid, count=40)
    clean = encode(x, table, grid, backend=backend)
    x[17, 1] = float("nan")
    y = encode(x, table, grid, backend=backend)
    assert y[17].isnan().all()
    keep = torch.arange(40) != 17
    assert torch.equal(y[keep], clean[keep])


def test_resolutions_are_integers_that_do_not_hinge_on_rounding():
    for level, n in enumerate(HashGrid(finest_resolution=2048).resolutions):  # in integers: n is nearest to the power
        assert (2 * n - 1) ** 15 < 2**15 * 16**15 * 128**level < (2 * n + 1) ** 15
    for finest in (512, 1024, 2048, 4096):
        assert HashGrid(finest_resolution=finest).resolutions[-1] == finest
    grid = HashGrid()
    assert grid.offsets[1] == 17**3 + 7 and grid.offsets[-1] == grid.rows == len(grid.init_table())
    assert [end - start for start, end in itertools.pairwise(grid.offsets)][-1] == 2**19


@pytest.mark.parametrize("backend", BACKENDS)
def test_smoothstep_is_flat_at_the_vertices(backend):
    grid = HashGrid(levels=1, base_resolution=4, finest_resolution=4, smoothstep=True)
    x = torch.full((1, 3), 0.5, requires_grad=True)
    y = encode(x, torch.randn(grid.rows, 2), grid, backend=backend)
    assert (torch.autograd.grad(y.sum(), x)[0] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_levels_that_are_not_active_are_zero_and_learn_nothing(backend):
    grid = HashGrid(**SMALL)
    x, table, grad, *_ = scene(grid)
    table.requires_grad_()
    y = encode(x, table, grid, active_levels=2, backend=backend)
    assert (y[:, 4:] == 0).all() and (y[:, :4] != 0).any(0).all()
    (to_table,) = torch.autograd.grad(y, table, grad)
    assert (to_table[grid.offsets[2] :] == 0).all() and (to_table[: grid.offsets[2]] != 0).any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("smoothstep", [False, True])
def test_eikonal_loss_on_analytic_normals(backend, smoothstep):
    """Both roads to the normal of a small field give one loss and one gradient, that of float64."""
    grid = HashGrid(**SMALL, smoothstep=smoothstep)
    x, table, *_ = scene(grid, count=200)
    head = torch.randn(grid.width, generator=torch.Generator().manual_seed(5)) * 0.1

    def loss_gradient(dtype, backend, direct):
        t, w = table.to(dtype).requires_grad_(), head.to(dtype).requires_grad_()
        p = x.to(dtype).requires_grad_(not direct)
        features = encode(p, t, grid, backend=backend)
        distance = (features @ w).tanh()
        if direct:
            (g,) = torch.autograd.grad(distance.sum(), features, create_graph=True)
            normal = position_gradient(p, t, g, grid, backend=backend)
        else:
            (normal,) = torch.autograd.grad(distance.sum(), p, create_graph=True)
        loss = (normal.norm(dim=-1) - 1).square().mean()
        return torch.autograd.grad(loss, (t, w))

    expected = loss_gradient(torch.float64, "torch", False)
    for direct in (False, True):
        for ours, theirs in zip(loss_gradient(torch.float32, backend, direct), expected, strict=True):
            assert_near(ours, theirs, 1e-4, f"direct={direct}")


@needs_compiler
def test_same_bits_twice_and_for_any_thread_count():
    grid = HashGrid(levels=6, log2_entries=10, base_resolution=4, finest_resolution=64)
    tensors = scene(grid, count=70_001)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 1, 2, 3):
            torch.set_num_threads(threads)
            results.append(derivatives(grid, tensors, "native", None))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


@needs_compiler
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("isa", ["avx2", "portable"])
def test_other_instruction_sets_agree(isa, layout, monkeypatch):
    if list(build.ISAS).index(isa) < list(build.ISAS).index(build.machine_isa()):
        pytest.skip(f"this machine has no {isa}")
    grid = HashGrid(**SMALL, smoothstep=True, layout=layout)
    tensors = scene(grid)
    twin = derivatives(grid, [t.double() for t in tensors], "torch", None)
    monkeypatch.setenv("DREAMLAB_ISA", isa)
    build.library.cache_clear()
    try:
        ours = derivatives(grid, tensors, "native", None)
    finally:
        build.library.cache_clear()
    for name in twin:
        assert_near(ours[name], twin[name], 1e-6, name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_positions(backend):
    grid = HashGrid(**SMALL)
    x, table = torch.zeros(0, 3, requires_grad=True), torch.zeros(grid.rows, 2, requires_grad=True)
    y = encode(x, table, grid, backend=backend)
    to_x, to_table = torch.autograd.grad(y.sum(), (x, table))
    assert y.shape == (0, 10) and to_x.shape == (0, 3) and (to_table == 0).all()


@needs_compiler
def test_the_ops_are_registered_soundly_and_compile():
    grid = HashGrid(levels=3, log2_entries=6, base_resolution=2, finest_resolution=9, layout="tcnn")
    x, table, grad, turn, _ = scene(grid, count=20)
    layout = _layout(grid, 3)
    leaves = [t.clone().requires_grad_() for t in (x, table, grad)]
    ops = torch.ops.dreamlab
    for op, inputs in (
        (ops.hashgrid_encode, leaves[:2]),
        (ops.hashgrid_position_gradient, leaves),
        (ops.hashgrid_table_gradient, leaves[::2]),
        (ops.hashgrid_encode_turn, (turn, x, table)),
        (ops.hashgrid_position_turn, (turn, x, table, grad)),
        (ops.hashgrid_table_turn, (turn, x, grad)),
    ):
        torch.library.opcheck(op.default, (*inputs, *layout))

    def loss(x, table):
        return encode(x, table, grid).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for ours, eager in zip(*(torch.autograd.grad(f(*leaves[:2]), leaves[:2]) for f in (compiled, loss)), strict=True):
        assert torch.equal(ours, eager)


def test_errors_say_what_and_what_is_allowed():
    grid = HashGrid(**SMALL)
    x, table = torch.rand(4, 3), torch.zeros(grid.rows, 2)
    with pytest.raises(ValueError, match=r"hashgrid: positions must be \[N, 3\], got \[4, 2\]"):
        encode(x[:, :2], table, grid)
    with pytest.raises(ValueError, match=r"hashgrid: table must be"):
        encode(x, table[1:], grid)
    with pytest.raises(ValueError, match=r"active_levels must be in 1..5, got 6"):
        encode(x, table, grid, active_levels=6)
    with pytest.raises(ValueError, match="features in 1, 2, 4, 8"):
        HashGrid(features=3)
    with pytest.raises(ValueError, match="base_resolution <= finest_resolution"):
        HashGrid(base_resolution=64, finest_resolution=16)
    with pytest.raises(ValueError, match="float32"):
        encode(x.double(), table.double(), grid, backend="native")
