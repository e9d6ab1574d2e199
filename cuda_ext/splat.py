# SPDX-License-Identifier: Apache-2.0
"""`splat`: differentiable pictures of 3D Gaussians, a batch of views in one call."""

from __future__ import annotations

import torch
from torch import Tensor

import cuda_ext.splat_ops  # noqa: F401 (registers the ops)
from cuda_ext import backend as backends
from cuda_ext import splat_gsplat
from cuda_ext.check import check_alike, check_shape, check_size, require
from cuda_ext.reference import splat as reference
from cuda_ext.reference.splat import SplatStats, Splatted

__all__ = ["SplatStats", "Splatted", "splat"]

HOST_READS = 0  # of a pass with its backward on CUDA, after the first `room.PASSES`
HOST_READS_LOOKING = 1  # of a pass without a backward: a picture that is looked at is whole


def splat(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    colors: Tensor | None,  # [N, 3]
    cameras_to_world: Tensor,  # [B, 4, 4]
    focal_px: Tensor,  # [B]
    size: tuple[int, int],
    *,
    principal_px: Tensor | None = None,  # [B, 2]
    background: Tensor | None = None,  # [B, 3]
    sh: Tensor | None = None,  # [N, K, 3]
    extra: Tensor | None = None,  # [N, C]
    dilation: float = 0.3,
    compensate: bool = False,
    near: float = 0.05,
    stats: SplatStats | None = None,
    backend: str = "auto",
) -> Splatted:
    """Render N anisotropic 3D Gaussians from B pinhole cameras.

    means             centres in the world (metres)
    quats             rotations wxyz of any length but 0
    scales            standard deviations along the three axes, positive
    opacities         in [0, 1]
    colors            sRGB in [0, 1], or None when `sh` is given
    sh                K = 1, 4, 9, 16 or 25 real spherical harmonics; colour = max(0, sum + 1/2), seen from the camera
    extra             C more numbers to composite like colours
    cameras_to_world  rigid, OpenGL axes: the camera looks along its -Z, +Y is up
    focal_px          focal length in pixels
    size              (height, width)
    principal_px      where the optical axis meets the picture: x to the right and y down, in pixels from its upper left
                      corner; None is the middle
    background        colour behind everything; None is black, which leaves `rgb` premultiplied only
    dilation          px^2 added to both variances of the projected covariance (low-pass filter)
    compensate        scale the opacity by what the dilation took from the determinant (Mip-splatting)
    near              splats with camera z <= near are left out
    stats             caller-owned sums for densification; each backward pass adds to them
    backend           auto, native, torch or gsplat

    Differentiable: means (also through the view directions of `sh`), quats, scales, opacities, colors, sh, extra,
    background, from rgb, alpha, depth, normal and extra. Not differentiable: cameras, focal lengths, the order in
    depth, the choice of the shortest axis; `visible` and `radii` carry no gradient. First derivatives only.
    Splats with a number that is not finite (or beyond 1e15), a zero quaternion or a singular projection are left out
    of the picture and receive gradient 0. The equations and every cut-off are in `cuda_ext.reference.splat`.
    """
    size = check_size("splat", size)
    _check(means, quats, scales, opacities, colors, cameras_to_world, focal_px, principal_px, background, sh, extra)
    if stats is not None:
        check_shape("splat", "stats.grad_norm", stats.grad_norm, (means.shape[0],))
    require(dilation >= 0 and near > 0, f"splat: dilation must be >= 0 and near > 0, got {dilation} and {near}")
    chosen = backends.choose("splat", backend, means)
    if chosen != "native":
        other = reference.splat if chosen == "torch" else splat_gsplat.splat
        return other(
            means, quats, scales, opacities, colors, cameras_to_world, focal_px, size,
            principal_px=principal_px, background=background, sh=sh, extra=extra,
            dilation=dilation, compensate=compensate, near=near, stats=stats,
        )  # fmt: skip
    recorded, probe = None, None
    if stats is not None:
        recorded = means.new_zeros(len(cameras_to_world), len(means))
        probe = stats.probe(means, recorded, size)
    given = (means, quats, scales, opacities, colors, sh, extra, background, probe, cameras_to_world, focal_px)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    rgb, alpha, depth, normal, extra_image, radii, *_ = torch.ops.dreamlab.splat(
        *(None if t is None else t.contiguous() for t in given), keep, *size, dilation, compensate, near,
        None if principal_px is None else principal_px.detach().contiguous(),
    )  # fmt: skip
    if recorded is not None:
        recorded.copy_(radii)
    features = None if extra is None else extra_image
    return Splatted(rgb, alpha, depth, normal, features, (radii > 0).any(0), radii)


def _check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor | None,
    cameras_to_world: Tensor,
    focal_px: Tensor,
    principal_px: Tensor | None,
    background: Tensor | None,
    sh: Tensor | None,
    extra: Tensor | None,
) -> None:
    check_shape("splat", "means", means, ("N", 3))
    count, views = means.shape[0], cameras_to_world.shape[0]
    check_shape("splat", "quats", quats, (count, 4))
    check_shape("splat", "scales", scales, (count, 3))
    check_shape("splat", "opacities", opacities, (count,))
    check_shape("splat", "cameras_to_world", cameras_to_world, ("B", 4, 4))
    check_shape("splat", "focal_px", focal_px, (views,))
    require(
        (colors is None) != (sh is None), "splat: give either colors [N, 3] or sh [N, K, 3], and None for the other"
    )
    if colors is not None:
        check_shape("splat", "colors", colors, (count, 3))
    if sh is not None:
        check_shape("splat", "sh", sh, (count, "K", 3))
        fits = sh.shape[1] in (1, 4, 9, 16, 25)
        require(fits, f"splat: sh must hold 1, 4, 9, 16 or 25 coefficients, got {sh.shape[1]}")
    if extra is not None:
        check_shape("splat", "extra", extra, (count, "C"))
    if background is not None:
        check_shape("splat", "background", background, (views, 3))
    if principal_px is not None:
        check_shape("splat", "principal_px", principal_px, (views, 2))
    check_alike(
        "splat", means=means, quats=quats, scales=scales, opacities=opacities, colors=colors, sh=sh, extra=extra,
        cameras_to_world=cameras_to_world, focal_px=focal_px, principal_px=principal_px, background=background,
    )  # fmt: skip
