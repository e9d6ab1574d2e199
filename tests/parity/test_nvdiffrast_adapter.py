# SPDX-License-Identifier: Apache-2.0
"""The nvdiffrast adapter: `Documented` does what nvdiffrast's documentation says, in torch, and stands behind it. The
package itself runs on CUDA alone: `test_on_a_device`.

Rasterising, interpolating and fetching are written here from the documentation and by torch's own `grid_sample`, with
nothing of ours; antialiasing calls our twin with its rows turned over. So what is judged is the mapping: rows and
signs, triangle numbers, the order of derivatives, mip levels, contexts.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, pad

from cuda_ext import raster_nvdiffrast
from cuda_ext.antialias import antialias, edge_neighbours
from cuda_ext.interpolate import interpolate
from cuda_ext.raster import Raster, raster
from cuda_ext.reference import antialias as antialias_twin
from cuda_ext.reference.texture import level_sizes, mip_level
from cuda_ext.texture import texture
from tests.cuda_ext.raster_scenes import mesh_tensors, sphere, to_clip, views

SIZE = (21, 30)


class Documented:
    """`nvdiffrast.torch` by its documentation."""

    def __init__(self) -> None:
        self.contexts: list[torch.device] = []

    def RasterizeCudaContext(self, device: torch.device) -> object:
        self.contexts.append(device)
        return device

    def rasterize(
        self, glctx: object, pos: Tensor, tri: Tensor, resolution: tuple[int, int], *, grad_db: bool
    ) -> tuple[Tensor, Tensor]:
        """(u, v, z/w, 1 + triangle) and (du/dX, du/dY, dv/dX, dv/dY); row 0 is the lowest, Y grows upward."""
        assert glctx in self.contexts and tri.dtype == torch.int32 and pos.is_contiguous()
        height, width = resolution
        y, x = (torch.arange(side, dtype=pos.dtype) for side in (height, width))
        y, x = torch.meshgrid((2 * y + 1) / height - 1, (2 * x + 1) / width - 1, indexing="ij")
        pixel = torch.stack([x, y], -1)
        rows, slopes = [], []
        for view in pos:
            corners = view[tri.long()]  # [T, 3, 4]
            with torch.no_grad():
                weights = barycentrics(corners[:, None, None], pixel)  # [T, H, W, 3]
                z, w = (torch.einsum("thwc,tc->thw", weights, corners[..., i]) for i in (2, 3))
                seen = (weights >= 0).all(-1) & (w > 0) & (z.abs() <= w)
                depth = torch.where(seen, z / w, 2)
                nearest, which = depth.min(0)
                hit = nearest < 2
            mine = corners[which]  # [H, W, 3, 4]
            uv = torch.where(hit[..., None], barycentrics(mine, pixel)[..., :2], 0)
            step = 1e-4
            moved = [
                (barycentrics(mine, pixel + shift) - barycentrics(mine, pixel - shift))[..., :2] / (2 * step)
                for shift in (pos.new_tensor([2 * step / width, 0]), pos.new_tensor([0, 2 * step / height]))
            ]
            slope = torch.where(hit[..., None, None], torch.stack(moved, -1), 0)
            number = torch.where(hit, which + 1, 0).to(pos)
            rows.append(torch.cat([uv, torch.where(hit, nearest, 0)[..., None], number[..., None]], -1))
            slopes.append(slope.flatten(-2).detach() if not grad_db else slope.flatten(-2))
        return torch.stack(rows), torch.stack(slopes)

    def interpolate(
        self, attr: Tensor, rast: Tensor, tri: Tensor, *, rast_db: Tensor | None, diff_attrs: str | None
    ) -> tuple[Tensor, Tensor]:
        """Attributes, and (dA/dX, dA/dY) of each on channels one after another."""
        number = rast[..., 3].long()
        corners = attr.expand(len(rast), -1, -1)
        view = torch.arange(len(rast))[:, None, None, None]
        a = corners[view, tri.long()[(number - 1).clamp(min=0)]]  # [B, H, W, 3, C]
        u, v = rast[..., 0:1], rast[..., 1:2]
        hit = (number > 0)[..., None]
        value = torch.where(hit, u * a[..., 0, :] + v * a[..., 1, :] + (1 - u - v) * a[..., 2, :], 0)
        if diff_attrs != "all" or rast_db is None:
            return value, value.new_zeros(*value.shape[:3], 0)
        du, dv = rast_db[..., None, 0:2], rast_db[..., None, 2:4]
        change = (a[..., 0, :] - a[..., 2, :])[..., None] * du + (a[..., 1, :] - a[..., 2, :])[..., None] * dv
        return value, torch.where(hit[..., None], change, 0).flatten(-2)

    def texture(
        self, tex: Tensor, uv: Tensor, *, mip_level_bias: Tensor | None, filter_mode: str, boundary_mode: str,
        max_mip_level: int,
    ) -> Tensor:  # fmt: skip
        """Without derivatives the bias is the level; a texel's centre is half a texel from its corner."""
        levels = [tex.permute(0, 3, 1, 2)]
        for _ in range(max_mip_level if filter_mode == "linear-mipmap-linear" else 0):
            h, w = levels[-1].shape[2:]
            assert all(side == 1 or side % 2 == 0 for side in (h, w)), "cannot downsample an odd extent"
            levels.append(avg_pool2d(levels[-1], (min(h, 2), min(w, 2))))

        def read(level: Tensor) -> Tensor:
            h, w = level.shape[2:]
            picture, where = level.expand(len(uv), -1, -1, -1), uv
            if boundary_mode == "wrap":
                picture, where = pad(picture, (1, 1, 1, 1), "circular"), uv - uv.detach().floor()
                where = (where * uv.new_tensor([w, h]) + 1) / uv.new_tensor([w + 2, h + 2])
            found = grid_sample(picture, 2 * where - 1, padding_mode="border", align_corners=False)
            return found.permute(0, 2, 3, 1)

        if filter_mode == "linear":
            return read(levels[0])
        assert mip_level_bias is not None
        at = mip_level_bias.clamp(0, len(levels) - 1)
        hats = [(1 - (at - i).abs()).clamp(min=0)[..., None] for i in range(len(levels))]
        return sum(hat * read(level) for hat, level in zip(hats, levels, strict=True))

    def antialias(self, color: Tensor, rast: Tensor, pos: Tensor, tri: Tensor) -> Tensor:
        assert not rast.requires_grad
        up = rast.flip(1)
        triangle = up[..., 3].int().contiguous()
        twin = antialias_twin.antialias(
            color.flip(1), triangle, up[..., 2].contiguous(), pos, tri, edge_neighbours(tri)
        )  # fmt: skip
        return twin.flip(1)


def barycentrics(corners: Tensor, pixel: Tensor) -> Tensor:
    """Perspective-correct, of homogeneous corners [..., 3, 4] at pixels [..., 2] (Olano & Greer 1997)."""
    x, y = (corners[..., i] - pixel[..., i, None] * corners[..., 3] for i in (0, 1))
    a = torch.stack([x[..., i] * y[..., j] - y[..., i] * x[..., j] for i, j in ((1, 2), (2, 0), (0, 1))], -1)
    return a / a.sum(-1, keepdim=True)


def ball() -> tuple[Tensor, Tensor]:
    vertices, triangles = mesh_tensors(sphere(1))
    return to_clip(vertices, views(2), SIZE).double(), triangles


def drawn(clip: Tensor, triangles: Tensor, package: Documented) -> Raster:
    return Raster(*raster_nvdiffrast.raster(clip, triangles, *SIZE, package=package))


def test_pixels_barycentrics_and_their_changes() -> None:
    clip, triangles = ball()
    pulls = [torch.randn(2, *SIZE, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)]
    results = []
    for package in (None, Documented()):
        leaf = clip.clone().requires_grad_()
        seen = raster(leaf, triangles, SIZE, backend="torch") if package is None else drawn(leaf, triangles, package)
        results.append((seen, leaf))
    (ours, our_leaf), (theirs, their_leaf) = results
    same = ours.triangle == theirs.triangle
    assert (~same).sum() <= 2 and (ours.triangle > 0).float().mean() > 0.2
    for name, atol in (("uv", 1e-9), ("depth", 1e-9), ("uv_dxy", 1e-6)):
        mine, other = getattr(ours, name)[same], getattr(theirs, name)[same]
        torch.testing.assert_close(other, mine, rtol=0, atol=atol)
    grads = [
        torch.autograd.grad((seen.uv * pulls[0] * same[..., None]).sum(), leaf)[0]
        for seen, leaf in ((ours, our_leaf), (theirs, their_leaf))
    ]
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-7, atol=1e-9)


def test_attributes_and_their_changes() -> None:
    clip, triangles = ball()
    seen = raster(clip, triangles, SIZE, backend="torch")
    g = torch.Generator().manual_seed(2)
    for sets in (1, 2):
        attributes = torch.randn(sets, clip.shape[1], 3, generator=g, dtype=torch.float64)
        results = []
        for package in (None, Documented()):
            a, uv = attributes.clone().requires_grad_(), seen.uv.clone().requires_grad_()
            if package is None:
                given = seen._replace(uv=uv)
                own = a[0] if sets == 1 else a
                value, slope = interpolate(own, given, triangles, derivatives=True, backend="torch")
            else:
                parts = (a, triangles, seen.triangle, uv, seen.uv_dxy)
                value, slope = raster_nvdiffrast.interpolate(*parts, package=package)
            assert slope is not None and slope.shape == (*value.shape, 2)
            loss = (value * value.detach().cos()).sum() + (slope * slope.detach().cos()).sum()
            results.append([value, slope, *torch.autograd.grad(loss, (a, uv))])
        for theirs, ours in zip(results[1], results[0], strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-9)
    assert raster_nvdiffrast.interpolate(*parts[:4], package=Documented())[1] is None


@pytest.mark.parametrize("boundary", ["wrap", "clamp"])
@pytest.mark.parametrize("max_level", [0, 2, None])
def test_fetches_at_levels(boundary: str, max_level: int | None) -> None:
    g = torch.Generator().manual_seed(3)
    image = torch.rand(16, 8, 4, generator=g, dtype=torch.float64)
    uv = 2 * torch.rand(2, 5, 7, 2, generator=g, dtype=torch.float64) - 0.5
    slope = 0.2 * torch.randn(2, 5, 7, 4, generator=g, dtype=torch.float64).exp() * torch.randn(2, 5, 7, 4, generator=g)
    levels = len(level_sizes(16, 8, max_level))
    results = []
    for package in (None, Documented()):
        leaves = [t.clone().requires_grad_() for t in (image, uv, slope)]
        if package is None:
            how = {"uv_dxy": leaves[2], "boundary": boundary, "max_level": max_level}
            value = texture(*leaves[:2], backend="torch", **how)  # type: ignore[arg-type]
        else:
            level = mip_level(leaves[2], 16, 8)
            value = raster_nvdiffrast.fetch(leaves[0][None], leaves[1], level, levels, boundary, package=package)
        grads = torch.autograd.grad((value * value.detach().sin()).sum(), leaves, allow_unused=levels == 1)
        results.append([value, *(torch.zeros(()) if grad is None else grad for grad in grads)])
    for theirs, ours in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(theirs, ours.reshape(theirs.shape), rtol=1e-8, atol=1e-8)


def test_silhouettes() -> None:
    clip, triangles = ball()
    seen = raster(clip, triangles, SIZE, backend="torch")
    colour = torch.randn(2, *SIZE, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    results = []
    for package in (None, Documented()):
        leaves = [colour.clone().requires_grad_(), clip.clone().requires_grad_()]
        if package is None:
            value = antialias(leaves[0], seen, leaves[1], triangles, backend="torch")
        else:
            rest = (seen.triangle, seen.depth, leaves[1], triangles, edge_neighbours(triangles))
            value = raster_nvdiffrast.antialias(leaves[0], *rest, package=package)
        results.append([value, *torch.autograd.grad((value * value.detach().sin()).sum(), leaves)])
    assert (results[0][0] != colour).any()
    for theirs, ours in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-9)


def test_one_context_for_each_device() -> None:
    clip, triangles = ball()
    package = Documented()
    for _ in range(3):
        drawn(clip.float(), triangles, package)
    assert package.contexts == [torch.device("cpu")]
    drawn(clip.float(), triangles, other := Documented())
    assert len(other.contexts) == 1 == len(package.contexts)


def test_nothing_to_draw_and_what_it_cannot() -> None:
    package = Documented()
    clip = torch.randn(2, 5, 4, requires_grad=True)
    none = torch.zeros(0, 3, dtype=torch.int64)
    seen = drawn(clip, none, package)
    assert not seen.triangle.any() and seen.uv_dxy.shape == (2, *SIZE, 4)
    value, slope = raster_nvdiffrast.interpolate(
        torch.ones(1, 5, 3), none, seen.triangle, seen.uv, seen.uv_dxy, package=package
    )
    assert slope is not None and slope.shape == (2, *SIZE, 3, 2) and not value.any()
    colour = torch.rand(2, *SIZE, 3)
    smooth = raster_nvdiffrast.antialias(colour, seen.triangle, seen.depth, clip, none, none.int(), package=package)
    assert torch.equal(smooth, colour) and not torch.autograd.grad(seen.uv.sum() + smooth.sum(), clip)[0].any()
    empty = raster_nvdiffrast.fetch(torch.ones(1, 4, 4, 3), torch.zeros(1, 1, 0, 2), None, 1, "wrap", package=package)
    assert empty.shape == (1, 1, 0, 3)
    with pytest.raises(ValueError, match="nvdiffrast halves even sides alone, not 6 x 5"):
        image, uv = torch.ones(1, 12, 10, 3), torch.zeros(1, 2, 2, 2)
        raster_nvdiffrast.fetch(image, uv, torch.ones(1, 2, 2), 3, "wrap", package=package)
    many = torch.zeros(1, 3, dtype=torch.int64).expand(1 << 24, 3)
    with pytest.raises(ValueError, match=r"fewer than 2\^24 triangles"):
        drawn(clip, many, package)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device() -> None:
    pytest.importorskip("nvdiffrast", reason="needs nvdiffrast")
    vertices, triangles = mesh_tensors(sphere(3))
    size = (200, 260)
    start, triangles = to_clip(vertices, views(2), size).cuda(), triangles.cuda()
    g = torch.Generator().manual_seed(1)
    corners, image = torch.rand(len(vertices), 2, generator=g).cuda(), torch.rand(64, 128, 3, generator=g).cuda()
    results = []
    for name in ("nvdiffrast", "native"):
        leaves = [t.clone().requires_grad_() for t in (start, corners, image)]
        seen = raster(leaves[0], triangles, size, backend=name)
        uv, slope = interpolate(leaves[1], seen, triangles, derivatives=True, backend=name)
        assert slope is not None
        colour = texture(leaves[2], uv, uv_dxy=slope.flatten(-2), boundary="clamp", backend=name)
        smooth = antialias(colour, seen, leaves[0], triangles, backend=name)
        grads = torch.autograd.grad(smooth.square().sum(), leaves)
        results.append([seen.triangle, uv, slope, colour, smooth, *grads])
    (their_triangle, *theirs), (our_triangle, *ours) = results
    assert (their_triangle != our_triangle).float().mean() < 1e-3
    for i, (other, mine) in enumerate(zip(theirs, ours, strict=True)):
        assert (other - mine).norm() < (0.02 if i < 4 else 0.1) * mine.norm(), i
