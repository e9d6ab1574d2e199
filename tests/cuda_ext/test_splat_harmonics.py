# SPDX-License-Identifier: Apache-2.0
"""Spherical harmonics by degree against the published real basis, and the principal point against closed forms.

The basis is written here from Legendre polynomials (numpy's) and the definition with the Condon-Shortley phase:

    Y_l^m = sqrt(2) K_l^|m| P_l^|m|(z) {cos m phi, m > 0; sin |m| phi, m < 0},  Y_l^0 = K_l^0 P_l^0(z)
    K_l^m = sqrt((2 l + 1) / (4 pi) (l - m)! / (l + m)!),  P_l^m(z) = (-1)^m (1 - z^2)^(m / 2) d^m P_l / dz^m
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from numpy.polynomial.legendre import Legendre
from torch import Tensor

from cuda_ext import build
from cuda_ext.reference import splat as twin
from cuda_ext.splat import splat
from dreamlab.core.cameras import look_at, orbit
from tests.second_device import second_device

native = pytest.mark.skipif(build.compiler() is None, reason="needs a C++ compiler (g++ or clang++)")
WAYS = ["torch", pytest.param("native", marks=native), pytest.param("kernels", marks=native)]
DEGREES = range(5)


def harmonic(degree: int, m: int, direction: np.ndarray) -> np.ndarray:
    x, y, z = direction.T
    order, phi = abs(m), np.arctan2(y, x)
    scale = (2 * degree + 1) / (4 * math.pi) * math.factorial(degree - order) / math.factorial(degree + order)
    legendre = (-1) ** order * (1 - z * z) ** (order / 2) * Legendre.basis(degree).deriv(order)(z)
    turn = np.cos(m * phi) if m >= 0 else np.sin(order * phi)
    return math.sqrt(scale * (2 if m else 1)) * legendre * turn


def published(degree: int, direction: Tensor) -> Tensor:
    """[N, 3] -> [N, 2 degree + 1], m = -degree ... degree."""
    columns = [harmonic(degree, m, direction.double().numpy()) for m in range(-degree, degree + 1)]
    return torch.from_numpy(np.stack(columns, -1))


def directions(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return torch.nn.functional.normalize(draw, dim=-1)


@pytest.mark.parametrize("degree", DEGREES)
def test_the_twins_basis_is_the_published_one(degree: int) -> None:
    way = directions(200)
    ours = twin.sh_basis(way, (degree + 1) ** 2)
    assert ours.shape[1] == (degree + 1) ** 2
    torch.testing.assert_close(ours[:, degree**2 :], published(degree, way), rtol=1e-12, atol=1e-12)


def seen(sh: Tensor, way: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """Colours [B, 3] of one splat at the origin with harmonics [K, 3], seen along B directions, and what gradient
    their sum with weights 1, 2, 3 ... has to the harmonics, [K, 3]."""
    device = "cuda" if backend == "kernels" else "cpu"
    pose = look_at(-2.0 * way, torch.zeros_like(way)).to(device)
    leaf = sh[None].clone().to(device).requires_grad_()
    one = torch.ones(1, 1, device=device)
    out = splat(
        torch.zeros(1, 3, device=device), torch.tensor([[1.0, 0.0, 0.0, 0.0]], device=device), 0.5 * one.expand(1, 3),
        0.8 * one[0], None, pose, torch.full((len(way),), 10.0, device=device), (5, 5), sh=leaf,
        backend="torch" if backend == "torch" else "native",
    )  # fmt: skip
    colour = out.rgb[:, 2, 2] / out.alpha.detach()[:, 2, 2]
    (grad,) = torch.autograd.grad((colour * torch.arange(1.0, 4.0, device=device)).sum(), leaf)
    return colour.detach().cpu(), grad[0].cpu()


@pytest.mark.parametrize("backend", WAYS)
@pytest.mark.parametrize("degree", DEGREES)
def test_a_splat_shows_each_harmonic_of_a_degree(degree: int, backend: str) -> None:
    """Coefficients differ from one function to the next and between channels: no two may change places or signs."""
    way = directions(20, seed=degree, dtype=torch.float32)
    basis, first, count = published(degree, way), degree**2, (degree + 1) ** 2
    sh = torch.zeros(count, 3)
    sh[first:] = 0.1 * torch.randn(count - first, 3, generator=torch.Generator().manual_seed(degree))
    with second_device() if backend == "kernels" else nullcontext():
        colour, grad = seen(sh, way, backend)
    expected = 0.5 + basis @ sh[first:].double()
    assert expected.min() > 0 and expected.std() > 0.02
    torch.testing.assert_close(colour.double(), expected, rtol=1e-5, atol=1e-5)
    weights = torch.arange(1.0, 4.0, dtype=torch.float64)
    torch.testing.assert_close(grad[first:].double(), basis.sum(0)[:, None] * weights, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", WAYS)
@pytest.mark.parametrize("degree", DEGREES)
def test_the_gradient_through_the_direction_is_that_of_the_published_basis(degree: int, backend: str) -> None:
    """A splat whose mean changes nothing but the direction, against differences of the basis in float64."""
    device = "cuda" if backend == "kernels" else "cpu"
    way, count = directions(12, seed=10 + degree, dtype=torch.float32), (degree + 1) ** 2
    sh = torch.zeros(1, count, 3)
    sh[0, degree**2 :] = 0.15 * torch.randn(2 * degree + 1, 3, generator=torch.Generator().manual_seed(degree))
    with second_device() if backend == "kernels" else nullcontext():
        for view in range(len(way)):
            mean = torch.zeros(1, 3, device=device, requires_grad=True)
            one = torch.ones(1, 1, device=device)
            pose = look_at(-2.0 * way[view : view + 1], torch.zeros(1, 3)).to(device)
            out = splat(
                mean, torch.tensor([[1.0, 0.0, 0.0, 0.0]], device=device), 1e-4 * one.expand(1, 3), 0.5 * one[0], None,
                pose, torch.full((1,), 1e-3, device=device), (1, 1), sh=sh.to(device), dilation=1.0,
                backend="torch" if backend == "torch" else "native",
            )  # fmt: skip
            colour = (out.rgb / out.alpha.detach())[0, 0, 0]
            (grad,) = torch.autograd.grad((colour * torch.tensor([1.0, -2.0, 3.0], device=device)).sum(), mean)

            step = 1e-5 * torch.eye(3, dtype=torch.float64)
            around = torch.nn.functional.normalize(2.0 * way[view].double() + torch.cat([step, -step]), dim=-1)
            shown = published(degree, around) @ sh[0, degree**2 :].double() @ torch.tensor([1.0, -2.0, 3.0]).double()
            numeric = (shown[:3] - shown[3:]) / 2e-5
            torch.testing.assert_close(grad[0].cpu().double(), numeric, rtol=2e-4, atol=2e-4)


@native
def test_the_clamp_at_black_passes_no_gradient_at_degree_four() -> None:
    sh = torch.zeros(25, 3)
    sh[0], sh[20] = torch.tensor([-3.0, 0.0, 0.0]), 0.1
    colour, grad = seen(sh, directions(4, dtype=torch.float32), "native")
    assert not colour[:, 0].any() and colour[:, 1:].all()
    assert not grad[:, 0].any() and grad[24, 1:].all()


def shifted(device: str, backend: str, principal: Tensor | None, size: tuple[int, int], spread: float = 0.4, **how):
    generator = torch.Generator().manual_seed(1)
    count = 60
    scene = {
        "means": spread * torch.randn(count, 3, generator=generator),
        "quats": torch.randn(count, 4, generator=generator),
        "scales": 0.05 * (0.4 * torch.randn(count, 3, generator=generator)).exp(),
        "opacities": 0.2 + 0.7 * torch.rand(count, generator=generator),
        "colors": torch.rand(count, 3, generator=generator),
    }
    leaves = [t.to(device).requires_grad_() for t in scene.values()]
    cameras = orbit([0.0, 100.0], 20.0).to(device=device)
    focal = torch.full((2,), 40.0, device=device)
    principal = None if principal is None else principal.to(device)
    out = splat(*leaves, cameras.camera_to_world, focal, size, principal_px=principal, backend=backend, **how)
    return out, leaves


@pytest.mark.parametrize("backend", WAYS)
def test_moving_the_principal_point_by_whole_pixels_moves_the_picture(backend: str) -> None:
    """A window of a wider picture: the same where both look, and the same gradients from there."""
    device, chosen = ("cuda", "native") if backend == "kernels" else ("cpu", backend)
    with second_device() if backend == "kernels" else nullcontext():
        # Offsets are multiples of a tile's side, and no splat is near the clamp of the Jacobian.
        whole, leaves = shifted(device, chosen, torch.tensor([[32.0, 32.0], [32.0, 32.0]]), (64, 64))
        part, part_leaves = shifted(device, chosen, torch.tensor([[16.0, 0.0], [16.0, 0.0]]), (32, 48))
        pictures = [(getattr(whole, n)[:, 32:, 16:], getattr(part, n)) for n in ("rgb", "alpha", "depth", "normal")]
        losses = [sum((pair[i] ** 2).sum() for pair in pictures) for i in (0, 1)]
        grads = [torch.autograd.grad(*pair) for pair in zip(losses, (leaves, part_leaves), strict=True)]
        for theirs, ours in pictures:
            torch.testing.assert_close(ours.detach().cpu(), theirs.detach().cpu(), rtol=1e-4, atol=1e-4)
        for theirs, ours in zip(*grads, strict=True):
            assert (ours.cpu() - theirs.cpu()).norm() <= 1e-4 * theirs.cpu().norm()
        assert whole.alpha.detach().cpu()[:, 32:, 16:].max() > 0.5


@pytest.mark.parametrize("backend", WAYS)
def test_the_middle_is_the_default(backend: str) -> None:
    device, chosen = ("cuda", "native") if backend == "kernels" else ("cpu", backend)
    with second_device() if backend == "kernels" else nullcontext():
        for size in ((20, 30), (17, 33)):
            middle = torch.tensor([[size[1] / 2, size[0] / 2]]).expand(2, 2)
            (named, _), (default, _) = (shifted(device, chosen, point, size) for point in (middle, None))
            assert torch.equal(named.rgb.detach().cpu(), default.rgb.detach().cpu())
            assert torch.equal(named.depth.detach().cpu(), default.depth.detach().cpu())


def test_each_view_has_its_own_principal_point_and_x_is_to_the_right() -> None:
    """One splat on the axis shows where the axis meets the picture: column 7 row 3, column 20 row 14."""
    cameras = orbit([0.0, 90.0], 0.0)
    scene = (torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 0.01 * torch.ones(1, 3), 0.9 * torch.ones(1))
    point, focal = torch.tensor([[7.5, 3.5], [20.5, 14.5]]), torch.full((2,), 30.0)
    out = splat(*scene, torch.ones(1, 3), cameras.camera_to_world, focal, (18, 26), principal_px=point)
    brightest = out.alpha[..., 0].flatten(1).argmax(1)
    assert [(int(i) % 26, int(i) // 26) for i in brightest] == [(7, 3), (20, 14)]


@native
@pytest.mark.parametrize("backend", ["native", "kernels"])
def test_far_off_the_centre_the_twin_agrees(backend: str) -> None:
    """Splats all over a wide picture, so that the clamp of the Jacobian acts on one side and not on the other."""
    device = "cuda" if backend == "kernels" else "cpu"
    point, results = torch.tensor([[70.0, -5.0], [-12.0, 60.0]]), []
    with second_device() if backend == "kernels" else nullcontext():
        for where, chosen in ((device, "native"), ("cpu", "torch")):
            out, leaves = shifted(where, chosen, point, (40, 56), 1.2, compensate=True, near=1.0)
            generator = torch.Generator().manual_seed(3)
            pictures = [out.rgb, out.alpha, out.depth * out.alpha, out.normal]
            weights = [torch.randn(x.shape, generator=generator).to(where) for x in pictures]
            grads = torch.autograd.grad(sum((x * w).sum() for x, w in zip(pictures, weights, strict=True)), leaves)
            results.append([t.detach().cpu() for t in (*pictures, *grads)])
    assert results[1][1].max() > 0.3
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm() + 1e-6


def test_wrong_principal_points_are_named() -> None:
    with pytest.raises(ValueError, match=r"principal_px must be \[2, 2\], got \[2\]"):
        shifted("cpu", "torch", torch.tensor([1.0, 2.0]), (8, 8))
    with pytest.raises(ValueError, match="same dtype"):
        shifted("cpu", "torch", torch.ones(2, 2, dtype=torch.float64), (8, 8))
