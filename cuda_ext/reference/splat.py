# SPDX-License-Identifier: Apache-2.0
"""Torch twin of `splat`: 3D Gaussians to pictures by EWA splatting (Zwicker et al. 2001; Kerbl et al. 2023).

View frame: x right, y down, z forward, i.e. diag(1, -1, -1) times the OpenGL camera's axes; pixel (i, j) is
sampled at (i + 0.5, j + 0.5). Per view, with mean v = (x, y, z) in the view frame and covariance S = R diag(s^2) R^T,

    u = f (x, y) / z + c                    J = f/z [[1, 0, -x/z], [0, 1, -y/z]]
    C = J V S V^T J^T + dilation * I        alpha = min(MAX_ALPHA, opacity * exp(-d^T C^-1 d / 2))

with c the principal point, (W, H) / 2 unless given. In J (only) x/z and y/z are clamped to CLAMP times the half field
of view about the ray through the picture's middle: the linearisation is meaningless outside it. Splats are composited
front to back in the order of z, ties by index:

    w_i = alpha_i T_i [T_i >= MIN_TRANSMITTANCE],   T_i = prod_{j<i} (1 - alpha_j)

and an alpha below MIN_ALPHA counts as 0, which bounds a splat exactly by an ellipse: there is no other cut-off.
A splat is left out of a view when z <= near, when its quaternion is zero, when any of its numbers is not finite or
beyond LARGEST (their products overflow and would spoil other splats), when its projected covariance is singular (an
entry of the inverse above SHARPEST) or its centre farther than FARTHEST from the picture's corner, or when its box
misses the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cuda_ext.context import Context

MAX_ALPHA = 0.99
MIN_ALPHA = 1 / 255
MIN_TRANSMITTANCE = 1e-4
SHARPEST = 1e10  # 1/px^2
FARTHEST = 1e6  # px
LARGEST = 1e15  # any number of a splat
CLAMP = 1.3  # of the half field of view, in the Jacobian
TILE = 16  # px; the twin works tile by tile
CHUNK = 1024  # splats of one tile composited at a time
CHECKPOINT_ABOVE = 1 << 25  # (splat, pixel) pairs: above it tiles are recomputed in backward instead of stored


@dataclass(frozen=True)
class Splatted:
    """What `splat` returns."""

    rgb: Tensor  # [B, H, W, 3] premultiplied over the background
    alpha: Tensor  # [B, H, W, 1]
    depth: Tensor  # [B, H, W, 1] expected camera z: sum w z / alpha; 0 where alpha is 0
    normal: Tensor  # [B, H, W, 3] world: sum of w n, n the shortest axis turned to the camera; not normalised
    extra: Tensor | None  # [B, H, W, C] sum of w e
    visible: Tensor  # [N] bool, in at least one view
    radii: Tensor  # [B, N] px, the farthest distance at which the splat still draws; 0 where it is left out


@dataclass
class SplatStats:
    """What densification reads; the caller owns it and every backward pass adds to it.

    `grad_norm` sums over views the norm of the loss' gradient to the projected mean in normalised device units
    (pixels times half the picture's size), so that thresholds do not depend on the resolution.
    """

    grad_norm: Tensor  # [N]
    count: Tensor  # [N] float, views in which the splat was visible
    radius_max: Tensor  # [N] px

    @classmethod
    def zeros(cls, count: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> SplatStats:
        return cls(*(torch.zeros(count, device=device, dtype=dtype) for _ in range(3)))

    def clone(self) -> SplatStats:
        return SplatStats(self.grad_norm.clone(), self.count.clone(), self.radius_max.clone())

    def where(self, chosen: Tensor, other: SplatStats) -> SplatStats:
        """These where `chosen` [] is true, else the other ones; a nan of the ones left out stays out."""
        pairs = ((self.grad_norm, other.grad_norm), (self.count, other.count), (self.radius_max, other.radius_max))
        return SplatStats(*(torch.where(chosen, mine, theirs) for mine, theirs in pairs))

    def add(self, grad: Tensor, radii: Tensor, size: tuple[int, int]) -> None:
        """One backward pass: gradient [B, N, 2] to the projected means in pixels, radii [B, N] of its forward pass."""
        half = grad.new_tensor([size[1] / 2, size[0] / 2])
        self.grad_norm += (grad * half).norm(dim=-1).sum(0)
        self.count += (radii > 0).sum(0)
        if len(radii):
            torch.maximum(self.radius_max, radii.amax(0), out=self.radius_max)

    def probe(self, means: Tensor, radii: Tensor, size: tuple[int, int]) -> Tensor:
        """Zeros [B, N, 2] to add to the projected means: what is recorded is their gradient. Backward reads `radii`."""
        return _Probe.apply(means, self, radii, size)


class _Probe(torch.autograd.Function):
    """Depends on the means in name only, so that it runs in every backward pass that reaches them."""

    @staticmethod
    def forward(ctx: Context, means: Tensor, stats: SplatStats, radii: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.stats, ctx.radii, ctx.size = stats, radii, size
        return means.new_zeros(*radii.shape, 2)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[None, ...]:
        ctx.stats.add(grads[0], ctx.radii, ctx.size)
        return None, None, None, None


@dataclass(frozen=True)
class Projected:
    """The splats of one view; `keep` is False where a splat is left out (its other entries mean nothing)."""

    mean: Tensor  # [N, 2] px
    depth: Tensor  # [N]
    conic: Tensor  # [N, 3] xx, xy, yy of the inverse covariance
    opacity: Tensor  # [N] compensated
    extent: Tensor  # [N, 2] px, half size of the box outside which alpha < MIN_ALPHA
    radius: Tensor  # [N] px, half the long diameter of that ellipse
    keep: Tensor  # [N] bool


def rotation_matrix(quats: Tensor) -> Tensor:
    """[N, 4] wxyz, any length -> [N, 3, 3]."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1, eps=1e-20).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def sh_basis(direction: Tensor, count: int) -> Tensor:
    """Real spherical harmonics [N, count] of unit directions, with the Condon-Shortley signs splat files use."""
    x, y, z = direction.unbind(-1)
    basis = [torch.full_like(x, 0.28209479177387814)]  # degree by degree, m = -l ... l
    if count > 1:
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    xx, yy, zz = x * x, y * y, z * z
    if count > 4:
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if count > 9:
        basis += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    if count > 16:
        basis += [
            2.5033429417967046 * x * y * (xx - yy),
            -1.7701307697799304 * y * z * (3 * xx - yy),
            0.9461746957575601 * x * y * (6 * zz - xx - yy),
            -0.6690465435572892 * y * z * (4 * zz - 3 * xx - 3 * yy),
            0.10578554691520431 * (8 * zz * zz - 24 * zz * (xx + yy) + 3 * (xx + yy) ** 2),
            -0.6690465435572892 * x * z * (4 * zz - 3 * xx - 3 * yy),
            0.47308734787878004 * (xx - yy) * (6 * zz - xx - yy),
            -1.7701307697799304 * x * z * (xx - 3 * yy),
            0.6258357354491761 * ((xx - yy) ** 2 - 4 * xx * yy),
        ]
    return torch.stack(basis, -1)


def sh_colour(means: Tensor, sh: Tensor, eye: Tensor) -> Tensor:
    """[N, 3] colour seen from `eye` [3]: max(0, sum of basis * sh + 1/2)."""
    direction = torch.nn.functional.normalize(means - eye, dim=-1)
    basis = sh_basis(direction, sh.shape[1])
    return (torch.einsum("nk,nkc->nc", basis, sh) + 0.5).clamp(min=0)


def facing_normal(means: Tensor, quats: Tensor, scales: Tensor, eye: Tensor) -> Tensor:
    """[N, 3] the shortest axis (ties: the first), turned towards `eye` [3]."""
    axis = scales.argmin(-1)[:, None, None].expand(-1, 3, 1)
    normal = rotation_matrix(quats).gather(2, axis)[..., 0]
    away = ((eye - means) * normal).sum(-1, keepdim=True) < 0
    return torch.where(away, -normal, normal)


def project(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    camera_to_world: Tensor,  # [4, 4]
    focal_px: Tensor,  # []
    size: tuple[int, int],
    dilation: float,
    compensate: bool,
    near: float,
    principal_px: Tensor | None = None,  # [2]
) -> Projected:
    height, width = size
    middle = means.new_tensor([width / 2, height / 2])
    centre = middle if principal_px is None else principal_px
    flip = means.new_tensor([1.0, -1.0, -1.0])
    view = flip[:, None] * camera_to_world[:3, :3].T
    x, y, z = ((means - camera_to_world[:3, 3]) @ view.T).unbind(-1)
    limit = [CLAMP * width / 2 / focal_px, CLAMP * height / 2 / focal_px]
    shift = (middle - centre) / focal_px
    tx = torch.minimum(torch.maximum(x / z, shift[0] - limit[0]), shift[0] + limit[0])
    ty = torch.minimum(torch.maximum(y / z, shift[1] - limit[1]), shift[1] + limit[1])
    pull = focal_px / z
    row_x = pull[:, None] * (view[0] - tx[:, None] * view[2])
    row_y = pull[:, None] * (view[1] - ty[:, None] * view[2])
    axes = rotation_matrix(quats) * scales[:, None, :]
    # C = A A^T with A = J V R diag(s); its determinant by Cauchy-Binet never cancels.
    ax = torch.einsum("ni,nij->nj", row_x, axes)
    ay = torch.einsum("ni,nij->nj", row_y, axes)
    xx, xy, yy = (ax * ax).sum(-1), (ax * ay).sum(-1), (ay * ay).sum(-1)
    det_sharp = torch.linalg.cross(ax, ay).square().sum(-1)
    det = det_sharp + dilation * (xx + yy) + dilation * dilation
    xx, yy = xx + dilation, yy + dilation
    conic = torch.stack([yy, -xy, xx], -1) / det[:, None]
    if compensate:
        # Mip-splatting (Yu et al. 2024) eq. 9: dilation brightens thin splats; give the lost determinant back.
        opacities = opacities * (det_sharp / det).clamp(min=1e-10).sqrt()
    mean = torch.stack([pull * x, pull * y], -1) + centre
    with torch.no_grad():
        reach = 2 * (opacities / MIN_ALPHA).log()
        extent = (reach[:, None] * torch.stack([xx, yy], -1)).sqrt()
        longest = (xx + yy) / 2 + (((xx - yy) / 2).square() + xy * xy).sqrt()
        radius = (reach * longest).sqrt()
        keep = (z > near) & (det > 0) & (quats.norm(dim=-1) > 1e-15) & (reach > 0)
        keep &= (conic.abs() < SHARPEST).all(-1) & (mean.abs() < FARTHEST).all(-1)
        keep &= torch.isfinite(torch.cat([extent, radius[:, None]], -1)).all(-1)
        keep &= (mean + extent > 0).all(-1) & (mean - extent < mean.new_tensor([width, height])).all(-1)
    return Projected(mean, z, conic, opacities, extent, radius, keep)


def tile_pairs(view: Projected, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which splat falls on which tile: splat indices [M] ordered by (tile, depth, index), and tile sizes [tiles]."""
    across, down = -(-size[1] // TILE), -(-size[0] // TILE)
    edge = view.mean.new_tensor([across, down])
    first = ((view.mean - view.extent) / TILE).floor().clamp(min=0).minimum(edge).long()
    last = ((view.mean + view.extent) / TILE).floor().add(1).clamp(min=0).minimum(edge).long()
    order = torch.sort(view.depth, stable=True).indices
    first, wide = first[order], (last - first)[order]
    count = wide[:, 0] * wide[:, 1]
    row = torch.repeat_interleave(torch.arange(len(order), device=order.device), count)
    rank = torch.arange(len(row), device=order.device) - (count.cumsum(0) - count)[row]
    tile_y = first[row, 1] + torch.div(rank, wide[row, 0], rounding_mode="floor")
    tile = tile_y * across + first[row, 0] + rank % wide[row, 0]
    tile, position = torch.sort(tile, stable=True)
    return order[row[position]], torch.bincount(tile, minlength=across * down)


def composite_tile(packed: Tensor, corner: Tensor) -> Tensor:
    """One tile: packed splats [K, 6 + F] front to back -> [TILE * TILE, F + 1] sums of w f, and of w."""
    ruler = torch.arange(TILE, device=packed.device, dtype=packed.dtype) + 0.5
    pixel = torch.stack(torch.meshgrid(ruler, ruler, indexing="xy"), -1).reshape(-1, 2) + corner
    through = packed.new_ones(len(pixel))
    total = packed.new_zeros(len(pixel), packed.shape[1] - 5)
    for part in packed.split(CHUNK):
        dx, dy = (pixel[:, None, i] - part[None, :, i] for i in range(2))  # [P, K]
        power = 0.5 * (part[:, 2] * dx * dx + part[:, 4] * dy * dy) + part[:, 3] * dx * dy
        alpha = (part[:, 5] * torch.exp(-power)).clamp(max=MAX_ALPHA)
        alpha = torch.where(alpha >= MIN_ALPHA, alpha, 0)
        after = through[:, None] * torch.cumprod(1 - alpha, 1)
        before = torch.cat([through[:, None], after[:, :-1]], 1)
        weight = alpha * before * (before >= MIN_TRANSMITTANCE)
        total = total + weight @ torch.nn.functional.pad(part[:, 6:], (0, 1), value=1.0)
        through = after[:, -1]
    return total


def composite(view: Projected, features: Tensor, size: tuple[int, int]) -> Tensor:
    """One view: features [N, F] -> [H, W, F + 1], the weighted sums and alpha. All of `view` must be kept."""
    across, down = -(-size[1] // TILE), -(-size[0] // TILE)
    with torch.no_grad():
        index, counts = tile_pairs(view, size)
    packed = torch.cat([view.mean, view.conic, view.opacity[:, None], features], 1)[index]
    frugal = packed.requires_grad and len(index) * TILE * TILE > CHECKPOINT_ABOVE
    tiles = []
    for tile, part in enumerate(packed.split(counts.tolist())):
        corner = packed.new_tensor([tile % across * TILE, tile // across * TILE])
        if len(part) == 0:
            tiles.append(packed.new_zeros(TILE * TILE, features.shape[1] + 1))
        elif frugal:
            tiles.append(checkpoint(composite_tile, part, corner, use_reentrant=False))
        else:
            tiles.append(composite_tile(part, corner))
    grid = torch.stack(tiles).reshape(down, across, TILE, TILE, -1).transpose(1, 2)
    # Connected to the inputs even when nothing is drawn, so that backward gives zeros and not an error.
    return grid.reshape(down * TILE, across * TILE, -1)[: size[0], : size[1]] + 0 * packed.sum()


def sane_rows(*tensors: Tensor | None) -> Tensor:
    """[N] True where every number of the row is finite and below LARGEST in every tensor."""
    flags = [(t.abs() < LARGEST).flatten(1).all(1) for t in tensors if t is not None]
    return torch.stack(flags).all(0)


def splat(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor | None,
    cameras_to_world: Tensor,
    focal_px: Tensor,
    size: tuple[int, int],
    *,
    principal_px: Tensor | None = None,
    background: Tensor | None = None,
    sh: Tensor | None = None,
    extra: Tensor | None = None,
    dilation: float = 0.3,
    compensate: bool = False,
    near: float = 0.05,
    stats: SplatStats | None = None,
) -> Splatted:
    """See `cuda_ext.splat.splat`: same arguments, same result, inputs already checked."""
    options = (size, dilation, compensate, near)
    with torch.no_grad():
        sane = sane_rows(means, quats, scales, opacities[:, None], colors, sh, extra)
        points = [None] * len(focal_px) if principal_px is None else principal_px.unbind()
        views = [
            project(means, quats, scales, opacities, pose, focal, *options, point)
            for pose, focal, point in zip(cameras_to_world, focal_px, points, strict=True)
        ]
        keeps = [view.keep & sane for view in views]
        radii = means.new_zeros(len(views), len(means))
        for view, keep, row in zip(views, keeps, radii, strict=True):
            row[keep] = view.radius[keep]
    probe = None if stats is None else stats.probe(means, radii, size)
    images = []
    for b, keep in enumerate(keeps):
        # Left-out splats are dropped before anything is computed from them: their gradient is exactly 0, not NaN * 0.
        index = keep.nonzero()[:, 0]
        m, q, s, o = (t[index] for t in (means, quats, scales, opacities))
        eye = cameras_to_world[b, :3, 3]
        view = project(m, q, s, o, cameras_to_world[b], focal_px[b], *options, points[b])
        if probe is not None:
            view = Projected(view.mean + probe[b, index], *list(vars(view).values())[1:])
        colour = colors[index] if colors is not None else sh_colour(m, sh[index], eye)  # type: ignore[index]
        parts = [colour, view.depth[:, None], facing_normal(m, q, s, eye)]
        features = torch.cat(parts if extra is None else [*parts, extra[index]], 1)
        images.append(composite(view, features, size))
    image = torch.stack(images) if images else means.new_zeros(0, *size, 8 + (0 if extra is None else extra.shape[1]))
    alpha = image[..., -1:]
    rgb = image[..., :3]
    if background is not None:
        rgb = rgb + (1 - alpha) * background[:, None, None, :]
    depth = torch.where(alpha > 0, image[..., 3:4] / torch.where(alpha > 0, alpha, 1), 0)
    features_out = None if extra is None else image[..., 7:-1]
    return Splatted(rgb, alpha, depth, image[..., 4:7], features_out, (radii > 0).any(0), radii)
