# SPDX-License-Identifier: Apache-2.0
"""splat against the projection and the spherical harmonics of gsplat's published torch reference (CPU, float64).

gsplat's own rasteriser needs CUDA, so the compositing is written out below, pixel by pixel, from the same conics.
Gradients are not compared: gsplat detaches the view directions.
"""

import pytest
import torch

from cuda_ext.reference import splat as twin
from cuda_ext.splat import splat
from dreamlab.core.cameras import orbit

gsplat = pytest.importorskip("gsplat.cuda._torch_impl", reason="needs gsplat (pip install gsplat)")
SIZE = (20, 24)


def make_scene():
    g = torch.Generator().manual_seed(2)

    def rand(*shape):
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    return {
        "means": rand(40, 3) - 0.5,
        "quats": rand(40, 4) - 0.5,
        "scales": 0.02 + 0.2 * rand(40, 3),
        "opacities": 0.1 + 0.85 * rand(40),
        "sh": rand(40, 25, 3) - 0.5,
    }


def gsplat_projection(scene, cameras, principal=None):
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    viewmats = flip @ cameras.world_to_camera()  # gsplat: x right, y down, z forward
    focal = cameras.focal_px(SIZE[0])
    ks = torch.zeros(len(cameras), 3, 3, dtype=torch.float64)
    ks[:, 0, 0] = ks[:, 1, 1] = focal
    ks[:, 0, 2], ks[:, 1, 2], ks[:, 2, 2] = SIZE[1] / 2, SIZE[0] / 2, 1.0
    if principal is not None:
        ks[:, :2, 2] = principal
    quats = torch.nn.functional.normalize(scene["quats"], dim=-1)
    covariance, _ = gsplat._quat_scale_to_covar_preci(quats, scene["scales"], True, False)
    options = {"eps2d": 0.3, "calc_compensations": True}
    return gsplat._fully_fused_projection(scene["means"], covariance, viewmats, ks, SIZE[1], SIZE[0], **options)


def test_projection_and_colour():
    scene, cameras = make_scene(), orbit([10.0, 200.0], 20.0).to(dtype=torch.float64)
    _, means2d, depths, conics, compensations = gsplat_projection(scene, cameras)
    rest = (scene["means"], scene["quats"], scene["scales"], scene["opacities"])
    for b in range(2):
        pose, focal = cameras.camera_to_world[b], cameras.focal_px(SIZE[0])[b]
        ours = twin.project(*rest, pose, focal, SIZE, 0.3, True, 0.05)
        assert ours.keep.sum() > 30
        torch.testing.assert_close(ours.mean, means2d[b], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours.depth, depths[b], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.conic, conics[b], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(ours.opacity, scene["opacities"] * compensations[b], rtol=1e-6, atol=1e-8)
        direction = scene["means"] - pose[:3, 3]
        for degree in range(5):
            count = (degree + 1) ** 2
            theirs = (gsplat._spherical_harmonics(degree, direction, scene["sh"][:, :count]) + 0.5).clamp(min=0)
            torch.testing.assert_close(twin.sh_colour(scene["means"], scene["sh"][:, :count], pose[:3, 3]), theirs)


def test_projection_off_the_centre():
    scene, cameras = make_scene(), orbit([10.0, 200.0], 20.0).to(dtype=torch.float64)
    scene["means"] = 4 * scene["means"]  # some beyond the clamp of the Jacobian, on either side
    principal = torch.tensor([[30.0, -4.0], [-6.0, 21.0]], dtype=torch.float64)
    _, means2d, depths, conics, _ = gsplat_projection(scene, cameras, principal)
    rest = (scene["means"], scene["quats"], scene["scales"], scene["opacities"])
    for b in range(2):
        pose, focal = cameras.camera_to_world[b], cameras.focal_px(SIZE[0])[b]
        ours = twin.project(*rest, pose, focal, SIZE, 0.3, False, 0.05, principal[b])
        ahead = depths[b] > 0.5
        assert ahead.sum() > 30
        torch.testing.assert_close(ours.mean[ahead], means2d[b][ahead], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours.conic[ahead], conics[b][ahead], rtol=1e-6, atol=1e-8)


def test_picture():
    scene, cameras = make_scene(), orbit([10.0, 200.0], 20.0).to(dtype=torch.float64)
    _, means2d, depths, conics, _ = gsplat_projection(scene, cameras)
    poses, focal = cameras.camera_to_world, cameras.focal_px(SIZE[0])
    rest = (scene["means"], scene["quats"], scene["scales"], scene["opacities"])
    ours = splat(*rest, None, poses, focal, SIZE, sh=scene["sh"], backend="torch")
    for b in range(2):
        direction = scene["means"] - poses[b, :3, 3]
        colours = (gsplat._spherical_harmonics(4, direction, scene["sh"]) + 0.5).clamp(min=0)
        order = depths[b].argsort()
        for y in range(0, SIZE[0], 3):
            for x in range(0, SIZE[1], 3):
                through, colour = 1.0, torch.zeros(3, dtype=torch.float64)
                for n in order.tolist():
                    dx, dy = x + 0.5 - means2d[b, n, 0], y + 0.5 - means2d[b, n, 1]
                    xx, xy, yy = conics[b, n]
                    alpha = scene["opacities"][n] * torch.exp(-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy)
                    if alpha < 1 / 255:
                        continue
                    colour = colour + through * alpha * colours[n]
                    through = through * (1 - alpha)
                # What is hidden behind a transmittance of 1e-4 is left out by ours.
                torch.testing.assert_close(ours.rgb[b, y, x], colour, rtol=1e-6, atol=2e-4)
