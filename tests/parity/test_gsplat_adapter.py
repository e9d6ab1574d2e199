# SPDX-License-Identifier: Apache-2.0
"""The gsplat adapter: what it hands over and what it makes of the answer, against the twin, in float64.

gsplat's rasteriser needs CUDA. Here its published torch projection (`gsplat.cuda._torch_impl`) and the compositing of
its torch reference (`accumulate`, on nerfacc's batched functions, over all pixels and splats) stand behind the same
signature; with a device `test_on_a_device` calls the real one.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from cuda_ext import splat_gsplat
from cuda_ext.reference import splat as twin
from cuda_ext.splat import SplatStats, Splatted, splat
from dreamlab.core.cameras import orbit

reference = pytest.importorskip("gsplat.cuda._torch_impl", reason="needs gsplat (pip install gsplat)")
nerfacc = pytest.importorskip("nerfacc", reason="needs nerfacc (pip install nerfacc)")
SIZE = (22, 26)
NAMES = ("rgb", "alpha", "depth", "normal", "extra")


def published(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, *, near_plane: float, eps2d: float, packed: bool, render_mode: str, rasterize_mode: str,
) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:  # fmt: skip
    """`gsplat.rasterization` by its torch reference; without the early stop, and a splat ends where its alpha does."""
    assert not packed and render_mode == "RGB+ED"
    covariance, _ = reference._quat_scale_to_covar_preci(quats, scales, True, False)
    radii, means2d, depths, conics, lost = reference._fully_fused_projection(
        means, covariance, viewmats, Ks, width, height, eps2d=eps2d, near_plane=near_plane,
        calc_compensations=rasterize_mode == "antialiased",
    )  # fmt: skip
    opaque = opacities * (1.0 if lost is None else lost)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y], -1).reshape(-1, 1, 2).to(means)
    images, alphas = [], []
    for b in range(len(viewmats)):
        order = depths[b].argsort()
        order = order[(radii[b, order] > 0).all(-1)]
        d, c = pixels - means2d[b, order], conics[b, order]
        power = 0.5 * (c[:, 0] * d[..., 0] ** 2 + c[:, 2] * d[..., 1] ** 2) + c[:, 1] * d[..., 0] * d[..., 1]
        alpha = (opaque[b, order] if opaque.ndim == 2 else opaque[order]) * torch.exp(-power)
        alpha = torch.where(alpha < 1 / 255, 0, alpha.clamp(max=0.999))
        weights, _ = nerfacc.render_weight_from_alpha(alpha)
        seen = torch.cat([colors[b, order], depths[b, order, None]], 1).expand(len(pixels), -1, -1)
        sums, total = nerfacc.accumulate_along_rays(weights, seen), nerfacc.accumulate_along_rays(weights)
        images.append(torch.cat([sums[:, :-1], sums[:, -1:] / total.clamp(min=1e-10)], 1))
        alphas.append(total)
    shape = (len(viewmats), height, width, -1)
    info = {"radii": radii, "means2d": means2d}
    return torch.stack(images).reshape(shape), torch.stack(alphas).reshape(shape), info


def scene(count: int, dtype: torch.dtype, harmonics: bool, extra: bool) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)
    made = {
        "means": torch.rand(count, 3, generator=g) - 0.5,
        "quats": torch.randn(count, 4, generator=g),
        "scales": 0.05 + 0.2 * torch.rand(count, 3, generator=g),
        "opacities": 0.1 + 0.5 * torch.rand(count, generator=g),
    }
    made |= {"sh": torch.rand(count, 9, 3, generator=g) - 0.5} if harmonics else {"colors": made["means"] + 0.5}
    made |= {"extra": torch.randn(count, 2, generator=g)} if extra else {}
    return {name: value.to(dtype) for name, value in made.items()}


def arguments(
    leaves: Mapping[str, Tensor], device: str = "cpu", **more: object
) -> tuple[list[object], dict[str, object]]:
    cameras = orbit([20.0, 150.0], 25.0).to(device=device, dtype=leaves["means"].dtype)
    first = [leaves[name] for name in ("means", "quats", "scales", "opacities")]
    given = [*first, leaves.get("colors"), cameras.camera_to_world, cameras.focal_px(SIZE[0]), SIZE]
    return given, {"sh": leaves.get("sh"), "extra": leaves.get("extra"), **more}


def loss(out: Splatted) -> Tensor:
    """Tells every number of every picture apart."""
    g = torch.Generator().manual_seed(9)
    total = torch.zeros((), dtype=out.rgb.dtype, device=out.rgb.device)
    for name in NAMES:
        if (picture := getattr(out, name)) is not None:
            weight = torch.randn(picture.shape, generator=g).to(picture)
            total = total + (weight * (picture * out.alpha.detach() if name == "depth" else picture)).sum()
    return total


@pytest.mark.parametrize(
    ("harmonics", "extra", "compensate", "off", "background"),
    [(True, False, False, False, True), (False, True, True, False, False), (True, True, True, True, True)],
)
def test_pictures_gradients_and_statistics(
    harmonics: bool, extra: bool, compensate: bool, off: bool, background: bool
) -> None:
    made = scene(40, torch.float64, harmonics, extra)
    more: dict[str, object] = {"compensate": compensate, "near": 2.7, "dilation": 0.2}
    more |= {"principal_px": torch.tensor([[9.0, 14.0], [15.0, 8.0]]).double()} if off else {}
    more |= {"background": torch.tensor([[0.2, 0.9, 0.4], [0.7, 0.1, 0.3]]).double()} if background else {}
    found = []
    for rasterize in (None, published):
        leaves = {name: value.clone().requires_grad_() for name, value in made.items()}
        stats = SplatStats.zeros(40, dtype=torch.float64)
        given, named = arguments(leaves, **more, stats=stats)
        if rasterize is None:
            out = splat(*given, backend="torch", **named)  # type: ignore[arg-type]
        else:
            out = splat_gsplat.splat(*given, rasterize=rasterize, **named)  # type: ignore[arg-type]
        grads = torch.autograd.grad(loss(out), list(leaves.values()))
        found.append((out, grads, stats))
    (ours, our_grads, our_stats), (theirs, their_grads, their_stats) = found
    assert (ours.alpha > 0.3).float().mean() > 0.2
    for name in NAMES:
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert (mine is None) == (other is None)
        if mine is not None:  # what lies behind a transmittance of 1e-4 is left out by ours
            torch.testing.assert_close(other, mine, rtol=1e-6, atol=3e-4 if name != "depth" else 3e-3)
    for name, mine, other in zip(made, our_grads, their_grads, strict=True):
        assert (other - mine).norm() < 1e-3 * mine.norm(), name
    torch.testing.assert_close(their_stats.grad_norm, our_stats.grad_norm, rtol=2e-3, atol=1e-6)
    assert torch.equal(their_stats.count > 0, our_stats.count > 0)
    # Theirs is a box of 3.33 standard deviations rounded up, ours the ellipse in which alpha counts.
    drawn = our_stats.count > 0
    assert (their_stats.radius_max[drawn] >= 0.5 * our_stats.radius_max[drawn]).all()
    assert (their_stats.radius_max[drawn] <= 2.2 * our_stats.radius_max[drawn] + 1).all()


def test_what_cannot_be_drawn_is_left_out_and_learns_nothing() -> None:
    made = scene(30, torch.float64, False, True)
    clean = {name: value[4:] for name, value in made.items()}
    made["means"][0, 1], made["scales"][1, 2], made["quats"][2] = float("nan"), float("inf"), 0.0
    made["opacities"][3] = float("nan")
    leaves = {name: value.clone().requires_grad_() for name, value in made.items()}
    given, named = arguments(leaves)
    out = splat_gsplat.splat(*given, rasterize=published, **named)  # type: ignore[arg-type]
    given, named = arguments(clean)
    expected = splat_gsplat.splat(*given, rasterize=published, **named)  # type: ignore[arg-type]
    torch.testing.assert_close(out.rgb, expected.rgb)
    torch.testing.assert_close(out.extra, expected.extra)
    assert not out.visible[:4].any() and (out.radii[:, :4] == 0).all()
    for grad in torch.autograd.grad(loss(out), list(leaves.values())):
        assert grad.isfinite().all() and (grad[:4] == 0).all() and (grad[4:] != 0).any()


def test_cameras_are_handed_over_as_theirs() -> None:
    """A point's pixel and depth by their matrices are the twin's."""
    cameras = orbit([70.0, 200.0], -15.0).to(dtype=torch.float64)
    point = torch.tensor([0.2, -0.3, 0.4, 1.0]).double()
    seen = splat_gsplat.view_matrices(cameras.camera_to_world) @ point
    pixel = splat_gsplat.intrinsic_matrices(cameras.focal_px(SIZE[0]), SIZE, None) @ seen[:, :3, None]
    for b in range(2):
        one = (point[None, :3], torch.ones(1, 4).double(), torch.ones(1, 3).double(), torch.ones(1).double())
        at = twin.project(*one, cameras.camera_to_world[b], cameras.focal_px(SIZE[0])[b], SIZE, 0.3, False, 0.05)
        torch.testing.assert_close(pixel[b, :2, 0] / pixel[b, 2], at.mean[0])
        torch.testing.assert_close(seen[b, 2], at.depth[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compensate", [False, True])
def test_on_a_device(compensate: bool) -> None:
    made = {name: value.cuda() for name, value in scene(400, torch.float32, True, True).items()}
    found = []
    for backend in ("gsplat", "native"):
        leaves = {name: value.clone().requires_grad_() for name, value in made.items()}
        stats = SplatStats.zeros(400, "cuda")
        given, named = arguments(leaves, "cuda", compensate=compensate, stats=stats)
        out = splat(*given, backend=backend, **named)  # type: ignore[arg-type]
        found.append((out, torch.autograd.grad(loss(out), list(leaves.values())), stats))
    (theirs, their_grads, their_stats), (ours, our_grads, our_stats) = found
    for name in NAMES:
        mine, other = getattr(ours, name), getattr(theirs, name)
        scale = ours.alpha if name == "depth" else torch.ones_like(ours.alpha)
        assert ((mine - other) * scale).abs().mean() < 2e-3, name
    for name, mine, other in zip(made, our_grads, their_grads, strict=True):
        assert (other - mine).norm() < 0.05 * mine.norm(), name
    assert (their_stats.grad_norm - our_stats.grad_norm).norm() < 0.05 * our_stats.grad_norm.norm()
