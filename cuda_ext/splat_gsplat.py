# SPDX-License-Identifier: Apache-2.0
"""`splat` on the package gsplat (Apache-2.0, CUDA only), for those who ask for it; written to its 1.5 API.

gsplat composites whatever channels it is given: colour, normal and the extra channels go in together, computed per view
by the twin, so that gradients through the view directions are kept; the depth is its own expected one. What it does not
know is done here: splats whose numbers are not finite, the background, statistics for densification. Its rules differ
in small things: a splat ends at 3.33 standard deviations, an alpha at 0.999, and compositing stops one splat earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from cuda_ext.reference import splat as twin
from cuda_ext.reference.splat import SplatStats, Splatted


class Rasterization(Protocol):
    """What is called of `gsplat.rasterization`."""

    def __call__(
        self,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        *,
        near_plane: float,
        eps2d: float,
        packed: bool,
        render_mode: str,
        rasterize_mode: str,
    ) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]: ...


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
    rasterize: Rasterization | None = None,
) -> Splatted:
    """See `cuda_ext.splat.splat`: same arguments, inputs already checked; `rasterize` is gsplat's when missing."""
    if rasterize is None:
        from gsplat import rasterization

        rasterize = rasterization
    height, width = size
    with torch.no_grad():
        sane = twin.sane_rows(means, quats, scales, opacities[:, None], colors, sh, extra)
        sane &= quats.norm(dim=-1) > 1e-15
    means, quats, scales, opacities = (
        _kept(sane, tensor, instead)
        for tensor, instead in ((means, 0.0), (quats, 1.0), (scales, 0.0), (opacities, 0.0))
    )
    colors, sh, extra = (None if tensor is None else _kept(sane, tensor, 0.0) for tensor in (colors, sh, extra))
    viewmats, intrinsics = view_matrices(cameras_to_world), intrinsic_matrices(focal_px, size, principal_px)
    channels = []
    for eye in cameras_to_world[:, :3, 3]:
        colour = colors if sh is None else twin.sh_colour(means, sh, eye)
        assert colour is not None
        parts = [colour, twin.facing_normal(means, quats, scales, eye)]
        channels.append(torch.cat(parts if extra is None else [*parts, extra], 1))
    image, alpha, info = rasterize(
        means, torch.nn.functional.normalize(quats, dim=-1), scales, opacities, torch.stack(channels), viewmats,
        intrinsics, width, height, near_plane=near, eps2d=dilation, packed=False, render_mode="RGB+ED",
        rasterize_mode="antialiased" if compensate else "classic",
    )  # fmt: skip
    reach = info["radii"].amax(-1) if info["radii"].ndim == 3 else info["radii"]  # of older versions: one number
    radii = torch.where(sane, reach.to(means.dtype), 0)
    if stats is not None and info["means2d"].requires_grad:
        info["means2d"].register_hook(lambda grad: stats.add(grad, radii, size))
    rgb = image[..., :3]
    if background is not None:
        rgb = rgb + (1 - alpha) * background[:, None, None, :]
    features = None if extra is None else image[..., 6:-1]
    return Splatted(rgb, alpha, image[..., -1:], image[..., 3:6], features, (radii > 0).any(0), radii)


def view_matrices(cameras_to_world: Tensor) -> Tensor:
    """[B, 4, 4] from the world to gsplat's cameras: x right, y down, z forward."""
    flip = cameras_to_world.new_tensor([1.0, -1.0, -1.0])
    turn = flip[:, None] * cameras_to_world[:, :3, :3].transpose(1, 2)
    out = torch.zeros_like(cameras_to_world)
    out[:, :3, :3], out[:, 3, 3] = turn, 1.0
    out[:, :3, 3] = -(turn @ cameras_to_world[:, :3, 3, None])[..., 0]
    return out


def intrinsic_matrices(focal_px: Tensor, size: tuple[int, int], principal_px: Tensor | None) -> Tensor:
    """[B, 3, 3] from their camera to pixels."""
    out = focal_px.new_zeros(len(focal_px), 3, 3)
    out[:, 0, 0] = out[:, 1, 1] = focal_px
    out[:, :2, 2] = focal_px.new_tensor([[size[1] / 2, size[0] / 2]]) if principal_px is None else principal_px
    out[:, 2, 2] = 1.0
    return out


def _kept(sane: Tensor, tensor: Tensor, instead: float) -> Tensor:
    """The rows that can be drawn; the others are `instead`, and learn nothing. Opacity 0 then draws nothing."""
    return torch.where(sane.reshape(-1, *[1] * (tensor.ndim - 1)), tensor, instead)
