# SPDX-License-Identifier: Apache-2.0
"""March and composite: brute force, closed forms, the twin's finite differences, native against the twin, bits."""

import math

import pytest
import torch

from cuda_ext import build
from cuda_ext.march import (
    Samples,
    cell_points,
    composite,
    march,
    occupied_cells,
    ray_box,
    refresh_density,
)

needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="needs a C++ compiler")
BACKENDS = ["torch", pytest.param("native", marks=needs_compiler)]
BOX = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
OUTPUTS = ("rgb", "alpha", "depth", "distortion", "weights")


def some_rays(count=600, seed=0):
    """From a sphere of radius 3 into the box; the first ones run along the axes, on an edge, and from the inside."""
    g = torch.Generator().manual_seed(seed)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=1) * 3
    targets = torch.rand(count, 3, generator=g) * 2.4 - 1.2
    directions = torch.nn.functional.normalize(targets - origins, dim=1)
    directions[:5] = torch.eye(3)[[0, 1, 2, 0, 1]][:count]
    origins[:5] = torch.tensor([[-3, 0.1, 0.2], [0.5, -3, 0], [0, 0, -3], [-2, 1, 1], [0, 0, 0]])[:count]
    return origins, directions


def some_grid(shape=(16, 16, 17), share=0.1, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def some_samples(rays=60, dtype=torch.float32):
    """Packed intervals, some rays without any."""
    g = torch.Generator().manual_seed(3)
    counts = torch.randint(0, 9, (rays,), generator=g)
    counts[::7] = 0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    gaps = 0.02 + 0.1 * torch.rand(int(offsets[-1]), generator=g)
    ends = gaps.cumsum(0)
    ends = 2 + ends - torch.nn.functional.pad(ends, (1, 0))[offsets[:-1]].repeat_interleave(counts)
    return Samples(offsets, (ends - 0.7 * gaps).to(dtype), ends.to(dtype))


@needs_compiler
@pytest.mark.parametrize("cone", [0.0, 0.004])
@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize(("shape", "share"), [((5, 5, 5), 0.3), ((33, 20, 47), 0.02), ((64, 64, 64), 0.2)])
def test_native_marches_like_the_twin(shape, share, jitter, cone):
    origins, directions = some_rays()
    occupied = some_grid(shape, share)
    occupied[shape[0] // 2 :, : shape[1] // 2] = False  # empty blocks to jump over
    shift = torch.rand(len(origins), generator=torch.Generator().manual_seed(1)) if jitter else None
    options = {"step": 0.013, "cone": cone, "jitter": shift, "near": 0.5}
    ours = march(origins, directions, occupied, BOX, **options, backend="native")
    twin = march(origins, directions, occupied, BOX, **options, backend="torch")
    different = ours.offsets.diff() != twin.offsets.diff()
    assert different.float().mean() <= 2e-3  # rays where rounding moved an interval into another cell
    same_ours, same_twin = ~different[ours.ray_index()], ~different[twin.ray_index()]
    assert torch.equal(ours.t_start[same_ours], twin.t_start[same_twin])
    assert torch.equal(ours.t_end[same_ours], twin.t_end[same_twin])


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_interval_is_in_an_occupied_cell_and_none_is_missing(backend):
    """By the definition, in float64 with Python's own loop; only middles within 1e-5 of a border may differ."""
    origins, directions = some_rays(40)
    occupied, step = some_grid(share=0.3), 0.05
    got = march(origins, directions, occupied, BOX, step=step, backend=backend)
    size = torch.tensor(occupied.shape)
    for r in range(len(origins)):
        o, d = origins[r].double(), directions[r].double()
        enter, leave = ray_box(o[None], d[None], BOX)
        start, kept = max(float(enter), 0.0), set()
        mine = got.t_start[got.offsets[r] : got.offsets[r + 1]].double()
        for k in range(200):
            middle = start + (k + 0.5) * step
            scaled = (o + middle * d + 1) / 2 * size
            sure = (scaled - scaled.round()).abs().min() > 1e-5 and abs(middle - float(leave)) > 1e-5
            inside = middle < leave and bool(occupied[tuple(scaled.long().clamp(min=0).minimum(size - 1))])
            found = bool(((mine + step / 2 - middle).abs() < 1e-5).any())
            assert found == inside or not sure, (r, k)
            kept.add(k) if found else None
        assert len(kept) == len(mine)


@pytest.mark.parametrize("backend", BACKENDS)
def test_full_grid_covers_the_box(backend):
    origins, directions = some_rays(50)
    full = torch.ones(8, 8, 8, dtype=torch.bool)
    got = march(origins, directions, full, BOX, step=0.01, backend=backend)
    enter, leave = ray_box(origins, directions, BOX)
    length = (leave - enter.clamp(min=0)).clamp(min=0)
    assert ((got.offsets.diff() * 0.01 - length).abs() <= 0.0051).all()


def test_ray_box():
    origins = torch.tensor([[0.0, 0, 3], [0, 0, 0], [0, 2, 0], [3, 3, 0], [0, 0, -5]])
    directions = torch.tensor([[0.0, 0, -1], [1, 0, 0], [1, 0, 0], [-(0.5**0.5), -(0.5**0.5), 0], [0, 0, -1]])
    enter, leave = ray_box(origins, directions, BOX)
    root = math.sqrt(2)
    torch.testing.assert_close(enter[[0, 1, 3, 4]], torch.tensor([2.0, -1, 2 * root, -6]))
    torch.testing.assert_close(leave[[0, 1, 3, 4]], torch.tensor([4.0, 1, 4 * root, -4]))
    assert enter[2] > leave[2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_capacity_pads_and_cuts(backend):
    origins, directions = some_rays(100)
    occupied = some_grid(share=0.4)
    whole = march(origins, directions, occupied, BOX, step=0.05, backend=backend)
    count = len(whole.t_start)
    for capacity in (count + 50, count - 333, 0):
        got = march(origins, directions, occupied, BOX, step=0.05, capacity=capacity, backend=backend)
        used = min(count, capacity)
        assert len(got.t_start) == len(got.t_end) == capacity and got.offsets[-1] == used
        assert torch.equal(got.t_start[:used], whole.t_start[:used]) and (got.t_end[used:] == 0).all()
        sigma = torch.ones(capacity, requires_grad=True)
        picture = composite(sigma, torch.ones(capacity, 3), got, backend=backend)
        (grad,) = torch.autograd.grad(picture.rgb.sum() + picture.weights.sum(), sigma)
        assert (picture.weights[used:] == 0).all() and (grad[used:] == 0).all()


def gradients(sigma, rgb, samples, backend, cotangents, stop=1e-3):
    s, c = sigma.clone().requires_grad_(), rgb.clone().requires_grad_()
    picture = composite(s, c, samples, stop=stop, backend=backend)
    used = {name: (getattr(picture, name), g) for name, g in cotangents.items()}
    grads = torch.autograd.grad([o for o, _ in used.values()], (s, c), [g for _, g in used.values()], allow_unused=True)
    return picture, [torch.zeros_like(x) if g is None else g for x, g in zip((s, c), grads, strict=True)]


@needs_compiler
@pytest.mark.parametrize("channels", [1, 3, 7])
@pytest.mark.parametrize("given", [*OUTPUTS, "all"])
def test_native_composites_like_the_twin(given, channels):
    samples = some_samples(500)
    g = torch.Generator().manual_seed(0)
    count, rays = len(samples.t_start), 500
    sigma = 20 * torch.rand(count, generator=g) - 1
    sigma[::11] *= 100  # opaque ones, so that rays stop
    rgb = torch.rand(count, channels, generator=g)
    shapes = {
        "rgb": (rays, channels),
        "alpha": (rays, 1),
        "depth": (rays, 1),
        "distortion": (rays, 1),
        "weights": (count,),
    }
    cotangents = {k: torch.randn(v, generator=g) for k, v in shapes.items() if given in (k, "all")}
    ours = gradients(sigma, rgb, samples, "native", cotangents)
    exact = Samples(samples.offsets, samples.t_start.double(), samples.t_end.double())
    doubles = {name: value.double() for name, value in cotangents.items()}
    twin = gradients(sigma.double(), rgb.double(), exact, "torch", doubles)
    for name in OUTPUTS:
        torch.testing.assert_close(getattr(ours[0], name).double(), getattr(twin[0], name), rtol=2e-6, atol=2e-6)
    for mine, theirs in zip(ours[1], twin[1], strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=2e-5, atol=2e-6)


def test_twin_against_finite_differences():
    samples = some_samples(12, torch.float64)
    g = torch.Generator().manual_seed(0)
    count = len(samples.t_start)
    sigma = (0.1 + 5 * torch.rand(count, generator=g, dtype=torch.float64)).requires_grad_()
    rgb = torch.rand(count, 2, generator=g, dtype=torch.float64).requires_grad_()

    def everything(s, c):
        picture = composite(s, c, samples)
        return tuple(getattr(picture, name) for name in OUTPUTS)

    assert torch.autograd.gradcheck(everything, (sigma, rgb))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sigma", [1e-6, 0.3, 4.0])
def test_constant_density_is_beer_lambert(backend, sigma):
    """alpha = 1 - exp(-sigma L) at any step; the mean depth of a thin slab is its middle, of a thick one 1 / sigma."""
    origins, directions = torch.tensor([[0.0, 0, 3]]), torch.tensor([[0.0, 0, -1]])
    full = torch.ones(4, 4, 4, dtype=torch.bool)
    samples = march(origins, directions, full, BOX, step=1 / 512, backend=backend)
    density = torch.full_like(samples.t_start, sigma)
    picture = composite(density, torch.full((len(density), 3), 0.5), samples, stop=0.0, backend=backend)
    alpha = -math.expm1(-2 * sigma)
    assert picture.alpha.item() == pytest.approx(alpha, rel=1e-5)
    assert picture.rgb[0].tolist() == pytest.approx([alpha / 2] * 3, rel=1e-5)
    depth = 2 * alpha + (alpha / sigma - 2 * math.exp(-2 * sigma))  # integral of sigma (2 + s) exp(-sigma s)
    assert picture.depth.item() == pytest.approx(depth, rel=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_distortion_is_the_double_sum(backend):
    samples = some_samples(30)
    g = torch.Generator().manual_seed(0)
    sigma = 8 * torch.rand(len(samples.t_start), generator=g)
    picture = composite(sigma, torch.zeros(len(sigma), 1), samples, backend=backend)
    for r in range(30):
        inside = slice(int(samples.offsets[r]), int(samples.offsets[r + 1]))
        w = picture.weights[inside].double()
        start, end = samples.t_start[inside].double(), samples.t_end[inside].double()
        middle = (start + end) / 2
        expected = (w[:, None] * w * (middle[:, None] - middle).abs()).sum() + (w * w * (end - start)).sum() / 3
        assert picture.distortion[r].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_light_is_conserved_and_nothing_shines_through_a_wall(backend):
    samples = Samples(torch.tensor([0, 4]), torch.tensor([1.0, 1.1, 1.2, 1.3]), torch.tensor([1.1, 1.2, 1.3, 1.4]))
    sigma = torch.tensor([2.0, -3.0, float("inf"), 5.0], requires_grad=True)
    rgb = torch.rand(4, 3, requires_grad=True)
    picture = composite(sigma, rgb, samples, backend=backend)
    first = 1 - math.exp(-0.2)
    torch.testing.assert_close(picture.weights, torch.tensor([first, 0, 1 - first, 0]), rtol=1e-5, atol=1e-7)
    assert picture.alpha.item() == pytest.approx(1)
    to_sigma, to_rgb = torch.autograd.grad(picture.rgb.sum(), (sigma, rgb))
    assert to_sigma[1] == 0 and to_sigma[3] == 0 and (to_rgb[3] == 0).all() and (to_rgb[0] > 0).all()


@needs_compiler
def test_same_bits_twice_and_for_any_thread_count():
    origins, directions = some_rays(3000)
    occupied = some_grid((64, 64, 64), 0.3)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 1, 2, 3):
            torch.set_num_threads(threads)
            samples = march(origins, directions, occupied, BOX, step=0.01, cone=0.002, backend="native")
            g = torch.Generator().manual_seed(0)
            sigma, rgb = (
                9 * torch.rand(len(samples.t_start), generator=g),
                torch.rand(len(samples.t_start), 3, generator=g),
            )
            picture, grads = gradients(sigma, rgb, samples, "native", {"rgb": torch.ones(3000, 3)})
            results.append([samples.t_start, samples.offsets, picture.rgb, picture.distortion, *grads])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@needs_compiler
@pytest.mark.parametrize("isa", ["avx2", "portable"])
def test_other_instruction_sets_march_the_same(isa, monkeypatch):
    if list(build.ISAS).index(isa) < list(build.ISAS).index(build.machine_isa()):
        pytest.skip(f"this machine has no {isa}")
    origins, directions = some_rays()
    occupied = some_grid()
    monkeypatch.setenv("DREAMLAB_ISA", isa)
    build.library.cache_clear()
    try:
        ours = march(origins, directions, occupied, BOX, step=0.013, backend="native")
        picture = composite(torch.ones_like(ours.t_start), torch.ones(len(ours.t_start), 2), ours, backend="native")
    finally:
        build.library.cache_clear()
    twin = march(origins, directions, occupied, BOX, step=0.013, backend="torch")
    assert torch.equal(ours.offsets, twin.offsets) and torch.equal(ours.t_start, twin.t_start)
    expected = composite(torch.ones_like(twin.t_start), torch.ones(len(twin.t_start), 2), twin, backend="torch")
    torch.testing.assert_close(picture.rgb, expected.rgb, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_march(backend):
    none, empty = torch.zeros(0, 3), torch.zeros(4, 4, 4, dtype=torch.bool)
    origins, directions = some_rays(10)
    for rays in ((none, none), (origins, directions)):
        samples = march(*rays, empty, BOX, step=0.1, backend=backend)
        assert len(samples.t_start) == 0 and len(samples.offsets) == len(rays[0]) + 1
        sigma = torch.zeros(0, requires_grad=True)
        picture = composite(sigma, torch.zeros(0, 3), samples, backend=backend)
        assert picture.rgb.shape == (len(rays[0]), 3) and (picture.alpha == 0).all()
        assert torch.autograd.grad(picture.rgb.sum(), sigma)[0].shape == (0,)


def test_occupancy_follows_a_field():
    """Points lie in their own cells; the refreshed grid keeps the ball and forgets what is gone."""
    shape = (6, 5, 4)
    for jitter in (None, torch.rand(120, 3, generator=torch.Generator().manual_seed(0))):
        points = cell_points(shape, BOX, jitter)
        cells = ((points + 1) / 2 * torch.tensor(shape)).long()
        expected = torch.cartesian_prod(*[torch.arange(n) for n in shape])
        assert torch.equal(cells, expected)
    density = torch.zeros(16, 16, 16)
    ball = (cell_points((16, 16, 16), BOX).norm(dim=-1) < 0.6).float() * 10
    density = refresh_density(density, ball)
    assert torch.equal(occupied_cells(density, 0.5).flatten(), ball > 0)
    for _ in range(100):
        density = refresh_density(density, torch.zeros_like(ball), decay=0.9)
    assert not occupied_cells(density, 0.5).all() and density.max() < 1e-3
    assert not occupied_cells(torch.zeros(4, 4, 4), 0.5).any()


@needs_compiler
def test_the_ops_are_registered_soundly():
    origins, directions = some_rays(6)
    occupied = some_grid((8, 8, 8), 0.5)
    ops = torch.ops.dreamlab
    for capacity in (None, 50):
        bounds = [*BOX[0], *BOX[1]]
        torch.library.opcheck(
            ops.march.default, (origins, directions, occupied, None, bounds, 0.1, 0.0, math.inf, 0.0, 37, capacity)
        )
    samples = march(origins, directions, occupied, BOX, step=0.1)
    count = len(samples.t_start)
    inputs = (torch.rand(count), torch.rand(count, 3), samples.t_start, samples.t_end, samples.offsets)
    leaves = [t.clone().requires_grad_() for t in inputs[:2]]
    torch.library.opcheck(ops.composite.default, (*leaves, *inputs[2:], 1e-4))
    _, sums, weights = ops.composite(*inputs, 1e-4)
    torch.library.opcheck(ops.composite_backward.default, (torch.rand(6, 3), None, None, *inputs, sums, weights, 1e-4))


def test_errors_say_what_and_what_is_allowed():
    origins, directions = some_rays(4)
    occupied = some_grid()
    with pytest.raises(ValueError, match=r"march: directions must be \[4, 3\]"):
        march(origins, directions[:3], occupied, BOX, step=0.1)
    with pytest.raises(ValueError, match="occupied must be bool"):
        march(origins, directions, occupied.float(), BOX, step=0.1)
    with pytest.raises(ValueError, match="bounds must be"):
        march(origins, directions, occupied, (BOX[1], BOX[0]), step=0.1)
    with pytest.raises(ValueError, match="need step > 0"):
        march(origins, directions, occupied, BOX, step=0.0)
    with pytest.raises(ValueError, match="at most 65536"):
        march(origins, directions, occupied, BOX, step=1e-6)
    with pytest.raises(ValueError, match=r"composite: rgb must be \[3, C\]"):
        composite(torch.zeros(3), torch.zeros(4, 3), Samples(torch.tensor([0, 3]), torch.zeros(3), torch.zeros(3)))
