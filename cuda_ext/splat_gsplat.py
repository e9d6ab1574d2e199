# SPDX-License-Identifier: Apache-2.0
"""`splat` on the package gsplat (Apache-2.0, CUDA only), for those who ask for it; written to its 1.5 API, not run.

gsplat composites whatever channels it is given: colour, depth, normal and the extra channels go in together, computed
per view by the twin, so that gradients through the view directions are kept. Its own rules differ in small things: a
splat ends at 3.33 standard deviations, and compositing stops one splat earlier.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext.reference import splat as twin
from cuda_ext.reference.splat import SplatStats, Splatted


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
    """See `cuda_ext.splat.splat`: same arguments, inputs already checked."""
    from gsplat import rasterization

    height, width = size
    flip = means.new_tensor([1.0, -1.0, -1.0])
    view = flip[:, None] * cameras_to_world[:, :3, :3].transpose(1, 2)  # x right, y down, z forward
    eye = cameras_to_world[:, :3, 3]
    viewmats = torch.eye(4, dtype=means.dtype, device=means.device).repeat(len(eye), 1, 1)
    viewmats[:, :3, :3] = view
    viewmats[:, :3, 3] = -(view @ eye[:, :, None])[..., 0]
    intrinsics = torch.zeros_like(viewmats[:, :3, :3])
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal_px
    middle = means.new_tensor([[width / 2, height / 2]])
    intrinsics[:, :2, 2], intrinsics[:, 2, 2] = middle if principal_px is None else principal_px, 1.0
    channels = []
    for b in range(len(eye)):
        colour = colors if colors is not None else twin.sh_colour(means, sh, eye[b])  # type: ignore[arg-type]
        depth = ((means - eye[b]) @ view[b, 2])[:, None]
        parts = [colour, depth, twin.facing_normal(means, quats, scales, eye[b])]
        channels.append(torch.cat(parts if extra is None else [*parts, extra], 1))
    image, alpha, info = rasterization(
        means, torch.nn.functional.normalize(quats, dim=-1), scales, opacities, torch.stack(channels), viewmats,
        intrinsics, width, height, near_plane=near, eps2d=dilation, packed=False,
        rasterize_mode="antialiased" if compensate else "classic",
    )  # fmt: skip
    radii = info["radii"].amax(-1) if info["radii"].ndim == 3 else info["radii"]
    radii = radii.to(means.dtype)
    if stats is not None and info["means2d"].requires_grad:
        info["means2d"].register_hook(lambda grad: stats.add(grad, radii, size))
    rgb = image[..., :3]
    if background is not None:
        rgb = rgb + (1 - alpha) * background[:, None, None, :]
    depth = torch.where(alpha > 0, image[..., 3:4] / torch.where(alpha > 0, alpha, 1), 0)
    features = None if extra is None else image[..., 7:]
    return Splatted(rgb, alpha, depth, image[..., 4:7], features, (radii > 0).any(0), radii)
