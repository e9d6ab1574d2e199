# SPDX-License-Identifier: Apache-2.0
"""`texture` against its twin, a pyramid and a fetch written here in numpy, and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cuda_ext.reference.texture import level_sizes
from cuda_ext.texture import texture
from tests.cuda_ext.raster_scenes import assert_close_except

BACKENDS = ("native", "torch")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numpy_pyramid(image: np.ndarray) -> list[np.ndarray]:
    """Each coarser texel is the integral of the finer level, as a step function, over its share of the square."""
    levels = [image.astype(np.float64)]
    while max(levels[-1].shape[:2]) > 1:
        fine = levels[-1]
        for axis in (0, 1):
            n = fine.shape[axis]
            edges = np.linspace(0.0, n, max(1, n // 2) + 1)
            total = np.concatenate([np.zeros_like(fine.take([0], axis)), fine.cumsum(axis)], axis)
            low = np.minimum(np.floor(edges).astype(int), n - 1)
            shape = [-1 if a == axis else 1 for a in range(3)]
            at = total.take(low, axis) + (edges - low).reshape(shape) * fine.take(low, axis)
            fine = np.diff(at, axis=axis) / (n / (len(edges) - 1))
        levels.append(fine)
    return levels


def numpy_fetch(levels: list[np.ndarray], u: float, v: float, level: float, wrap: bool) -> np.ndarray:
    level = min(max(level, 0.0), len(levels) - 1.0)
    low = min(int(level), max(len(levels) - 2, 0))

    def one(image: np.ndarray) -> np.ndarray:
        h, w = image.shape[:2]
        x, y = u * w - 0.5, v * h - 0.5
        x0, y0 = math.floor(x), math.floor(y)
        out = np.zeros(image.shape[2])
        for j, wy in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
            for i, wx in ((x0, x0 + 1 - x), (x0 + 1, x - x0)):
                row, column = (j % h, i % w) if wrap else (min(max(j, 0), h - 1), min(max(i, 0), w - 1))
                out += wy * wx * image[row, column]
        return out

    if len(levels) == 1:
        return one(levels[0])
    return one(levels[low]) + (level - low) * (one(levels[low + 1]) - one(levels[low]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("boundary", ["wrap", "clamp"])
@pytest.mark.parametrize("shape", [(8, 16, 3), (13, 6, 1), (1, 5, 2), (1, 1, 4)])
def test_agrees_with_a_numpy_pyramid(shape: tuple[int, int, int], boundary: str, backend: str) -> None:
    image, uv = draw(*shape), draw(1, 9, 7, 2, seed=1) * 1.5
    level = draw(1, 9, 7, seed=2) * 2 + 1
    pyramid = numpy_pyramid(image.numpy())
    assert [p.shape[:2] for p in pyramid] == level_sizes(*shape[:2])
    for given in (level, None):
        ours = texture(image, uv, level=given, boundary=boundary, backend=backend)
        for row in range(9):
            for column in range(7):
                u, v = (float(x) for x in uv[0, row, column])
                at = 0.0 if given is None else float(given[0, row, column])
                levels = pyramid[:1] if given is None else pyramid
                expected = numpy_fetch(levels, u, v, at, boundary == "wrap")
                np.testing.assert_allclose(ours[0, row, column].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_origin_is_gltfs(backend: str) -> None:
    """Row 0 of the image is v = 0; a texel's centre reads the texel itself."""
    image = torch.arange(12.0).reshape(3, 4, 1)
    v, u = torch.meshgrid((torch.arange(3) + 0.5) / 3, (torch.arange(4) + 0.5) / 4, indexing="ij")
    read = texture(image, torch.stack([u, v], -1)[None], backend=backend)
    torch.testing.assert_close(read[0], image, atol=1e-5, rtol=0)
    corner = torch.tensor([[[[0.0, 0.0], [0.999, 0.0], [0.0, 0.999], [-7.0, 9.0]]]])
    clamped = texture(image, corner, boundary="clamp", backend=backend)[0, 0, :, 0]
    torch.testing.assert_close(clamped, torch.tensor([0.0, 3.0, 8.0, 8.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_level_from_derivatives(backend: str) -> None:
    """A footprint of 4 x 2 texels reads level 2; one below a texel reads level 0."""
    image, uv = draw(16, 32, 3), torch.rand(1, 4, 4, 2, generator=torch.Generator().manual_seed(0))
    footprint = torch.tensor([4 / 32, 0.0, 0.0, 2 / 16]).expand(1, 4, 4, 4)
    by_level = texture(image, uv, level=torch.full((1, 4, 4), 2.0), backend=backend)
    torch.testing.assert_close(texture(image, uv, uv_dxy=footprint, backend=backend), by_level)
    torch.testing.assert_close(
        texture(image, uv, uv_dxy=footprint / 100, backend=backend), texture(image, uv, backend=backend)
    )
    torch.testing.assert_close(
        texture(image, uv, uv_dxy=footprint, max_level=1, backend=backend),
        texture(image, uv, level=torch.ones(1, 4, 4), backend=backend),
    )


CASES = [((33, 17, 3), "wrap"), ((33, 17, 3), "clamp"), ((2, 16, 8, 1), "wrap"), ((2, 5, 7, 6), "clamp")]


@pytest.mark.parametrize("lod", ["none", "level", "uv_dxy"])
@pytest.mark.parametrize(("shape", "boundary"), CASES)
def test_native_agrees_with_the_twin(shape: tuple[int, ...], boundary: str, lod: str) -> None:
    inputs = {"image": draw(*shape), "uv": draw(2, 23, 19, 2, seed=1)}
    if lod == "level":
        inputs["level"] = draw(2, 23, 19, seed=2) * 2 + 1.5
    if lod == "uv_dxy":
        inputs["uv_dxy"] = draw(2, 23, 19, 4, seed=2) * 0.1
    results = []
    for backend in BACKENDS:
        leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
        out = texture(**leaves, boundary=boundary, backend=backend)
        grads = torch.autograd.grad((out * draw(*out.shape, seed=3)).sum(), list(leaves.values()))
        results.append({"out": out, **dict(zip(inputs, grads, strict=True))})
    for name in results[0]:
        assert_close_except(results[0][name], results[1][name], 0, name, 1e-5)


@pytest.mark.parametrize("boundary", ["wrap", "clamp"])
def test_gradcheck_of_the_twin(boundary: str) -> None:
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(5, 6, 2, generator=generator, dtype=torch.float64)
    uv = torch.rand(1, 3, 4, 2, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    level = torch.rand(1, 3, 4, generator=generator, dtype=torch.float64) * 1.9
    slopes = torch.randn(1, 3, 4, 4, generator=generator, dtype=torch.float64) * 0.4

    def by_level(i: Tensor, c: Tensor, x: Tensor) -> Tensor:
        return texture(i, c, level=x, boundary=boundary)

    def by_slope(i: Tensor, c: Tensor, x: Tensor) -> Tensor:
        return texture(i, c, uv_dxy=x, boundary=boundary)

    image, uv, level, slopes = (x.requires_grad_() for x in (image, uv, level, slopes))
    assert torch.autograd.gradcheck(by_level, (image, uv, level))
    assert torch.autograd.gradcheck(by_slope, (image, uv, slopes))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_level_keeps_the_mean_and_folds_back_whole(backend: str) -> None:
    """The coarsest level is the image's mean, and its gradient reaches all texels alike, for odd sides too."""
    image = draw(11, 6, 3).requires_grad_()
    uv = torch.full((1, 1, 1, 2), 0.3)
    out = texture(image, uv, level=torch.full((1, 1, 1), 99.0), backend=backend)
    torch.testing.assert_close(out[0, 0, 0], image.mean((0, 1)))
    (grad,) = torch.autograd.grad(out.sum(), image)
    torch.testing.assert_close(grad, torch.full_like(grad, 1 / 66))


def test_wrong_inputs_are_named() -> None:
    image, uv = draw(4, 4, 3), draw(1, 2, 2, 2)
    level = torch.zeros(1, 2, 2)
    for arguments, message in (
        ({"boundary": "mirror"}, "boundary 'mirror' is not one of wrap, clamp"),
        ({"level": level, "uv_dxy": torch.zeros(1, 2, 2, 4)}, "not both"),
        ({"level": level[0]}, "level must be"),
        ({"max_level": -1}, "max_level"),
    ):
        with pytest.raises(ValueError, match=message):
            texture(image, uv, **arguments)
    with pytest.raises(ValueError, match="3 views, uv 1"):
        texture(draw(3, 4, 4, 3), uv)
    with pytest.raises(ValueError, match="no texels"):
        texture(image[:0], uv)


@pytest.mark.parametrize("backend", BACKENDS)
def test_broken_coordinates_read_zero_without_gradient(backend: str) -> None:
    image = draw(8, 8, 3).requires_grad_()
    values = [math.nan, math.inf, -math.inf, 1e30, -1e30, 0.25]
    uv = torch.tensor([[[[a, b] for a in values] for b in values]]).requires_grad_()
    level = torch.tensor([[values for _ in values]]).requires_grad_()
    out = texture(image, uv, level=level, backend=backend)
    grads = torch.autograd.grad(out.sum(), (image, uv, level))
    assert all(bool(torch.isfinite(x).all()) for x in (out, *grads))
    broken = ~torch.isfinite(uv).all(-1)
    assert not grads[1][broken].any() and not grads[2][~torch.isfinite(level)].any()
    here = texture(image, torch.zeros(1, 1, 1, 2), level=torch.zeros(1, 1, 1), backend=backend)[0, 0, 0]
    torch.testing.assert_close(out[0, 0, 0], here)


def test_no_pixels() -> None:
    assert texture(draw(4, 4, 3), torch.zeros(0, 5, 5, 2), backend="native").shape == (0, 5, 5, 3)
    assert texture(draw(4, 4, 3), torch.zeros(1, 0, 5, 2), level=torch.zeros(1, 0, 5)).shape == (1, 0, 5, 3)


def test_same_bits_for_the_same_threads() -> None:
    image, uv = draw(32, 32, 3), draw(2, 40, 40, 2, seed=1)
    before, grads = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            leaf = image.clone().requires_grad_()
            out = texture(leaf, uv, level=draw(2, 40, 40, seed=2), backend="native")
            grads.append(torch.autograd.grad((out * draw(*out.shape)).sum(), leaf)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(grads[1], grads[2])
    torch.testing.assert_close(grads[0], grads[1], atol=1e-4, rtol=1e-4)


def test_registered_ops_are_sound() -> None:
    image, uv, level = draw(1, 6, 5, 3).requires_grad_(), draw(1, 4, 4, 2).requires_grad_(), draw(1, 4, 4)
    ops = torch.ops.dreamlab
    torch.library.opcheck(ops.texture_pyramid, (image, 3))
    torch.library.opcheck(ops.texture_level, (draw(1, 4, 4, 4).requires_grad_(), 6, 5))
    pyramid = ops.texture_pyramid(image, 3).detach().requires_grad_()
    torch.library.opcheck(ops.texture_fetch, (pyramid, uv, level.requires_grad_(), 6, 5, 3, True))
    torch.library.opcheck(ops.texture_fetch, (pyramid, uv, None, 6, 5, 3, False))
