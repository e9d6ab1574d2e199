# SPDX-License-Identifier: Apache-2.0
"""Scenes on a device as assets: what moves and what is a Gaussian comes to the host, as it is."""

from __future__ import annotations

import torch

from dreamlab.core.types import Mesh, Skin, Track
from dreamlab.export.motion import motion_of
from dreamlab.export.registration import registered
from dreamlab.export.rig import track_of
from renderers.field4d import Field4D
from renderers.gaussian.deform import DeformSettings
from renderers.gaussians4d import Gaussians4D, MovingSettings
from renderers.surface.extraction import extract
from tests.second_device import DEVICE, second_device


def moving() -> Gaussians4D:
    g = torch.Generator().manual_seed(0)
    scene = Gaussians4D(MovingSettings(count=200, opacity=0.9, deform=DeformSettings(points=8, moments=3)), g)
    with torch.no_grad():
        scene.motions[0].params["poses"].copy_(0.1 * torch.randn(3, 8, 6, generator=g))
    return scene


def points_of(motion: Skin | Track | None, mesh: Mesh) -> torch.Tensor:
    assert motion is not None
    return track_of(motion, mesh.vertices).points


def test_moving_gaussians_come_to_the_host() -> None:
    here = moving()
    mesh = extract(here, 20, 400, by_pictures=False)
    wanted, cloud = points_of(motion_of(here, mesh)[0], mesh), here.splats(0.4)
    with second_device():
        there = moving().to(DEVICE)
        motion, _ = motion_of(there, mesh)
        far = there.splats(0.4)
    torch.testing.assert_close(points_of(motion, mesh), wanted, atol=1e-3, rtol=0)
    for name in ("means", "quats", "scales", "opacity", "harmonics"):
        torch.testing.assert_close(getattr(far, name), getattr(cloud, name), atol=1e-5, rtol=1e-4)


def test_a_changing_field_comes_to_the_host() -> None:
    def field() -> Field4D:
        settings = Field4D.Settings(levels=2, log2_entries=8, finest=16, moments=3, temporal_log2=8)
        return Field4D(settings, torch.Generator().manual_seed(0))

    here = field()
    mesh = extract(here, 20, 400, by_pictures=False)
    skin, _ = registered(here, mesh, 3)
    with second_device():
        far, _ = registered(field().to(DEVICE), mesh, 3)
    torch.testing.assert_close(points_of(far, mesh), points_of(skin, mesh), atol=1e-3, rtol=0)
