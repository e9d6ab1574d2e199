# SPDX-License-Identifier: Apache-2.0
"""Small pieces that many parts share, so that an error in one agrees with itself everywhere."""

from __future__ import annotations

import collections
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from dreamlab.core import knots, rotation
from dreamlab.core.cameras import Cameras, look_at, orbit
from dreamlab.core.errors import DiskError
from dreamlab.core.safemath import linear_to_srgb, srgb_to_linear
from dreamlab.run.folder import NEEDED_MIB, Run


def quats(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scipys(wxyz: torch.Tensor) -> Rotation:
    return Rotation.from_quat(wxyz[:, [1, 2, 3, 0]].numpy())


def test_rotations_are_scipy_s() -> None:
    a, b = quats(20, 0), quats(20, 1)
    np.testing.assert_allclose(rotation.matrix(3 * a), scipys(a).as_matrix(), atol=1e-9)
    np.testing.assert_allclose(rotation.matrix(rotation.product(a, b)), (scipys(a) * scipys(b)).as_matrix(), atol=1e-9)
    half = 0.7 * quats(20, 2)[:, :3]  # the axis times the tangent of half the angle
    length = half.norm(dim=1, keepdim=True)
    expected = Rotation.from_rotvec((2 * torch.atan(length) * half / length).numpy())
    np.testing.assert_allclose(rotation.matrix(rotation.from_vector(half)), expected.as_matrix(), atol=1e-9)


@pytest.mark.parametrize(
    ("loop", "time", "value"),
    [
        (False, 0.0, 10.0), (False, 0.25, 15.0), (False, 0.5, 20.0), (False, 1.0, 40.0), (False, 1.7, 40.0),
        (True, 0.0, 10.0), (True, 1 / 6, 15.0), (True, 2 / 3, 40.0), (True, 5 / 6, 25.0), (True, 1.0, 10.0),
        (True, 1 + 1 / 6, 15.0),
    ],
)  # fmt: skip
def test_tables_over_time(loop: bool, time: float, value: float) -> None:
    """Knots 10, 20, 40: at 0, 1/2, 1, or in a loop at 0, 1/3, 2/3 and back."""
    table = torch.tensor([[10.0], [20.0], [40.0]])
    assert float(knots.between(table, torch.tensor(time), loop)) == pytest.approx(value, abs=1e-4)


def test_the_srgb_curve_at_known_places() -> None:
    """IEC 61966-2-1: half of the light is 188 of 255; the curve is its own inverse's."""
    assert float(linear_to_srgb(torch.tensor(0.5))) == pytest.approx(0.7354, abs=1e-4)
    assert float(srgb_to_linear(torch.tensor(0.5))) == pytest.approx(0.2140, abs=1e-4)
    assert float(srgb_to_linear(torch.tensor(0.04))) == pytest.approx(0.04 / 12.92)
    assert float(linear_to_srgb(torch.tensor(0.1))) == pytest.approx(0.3492, abs=1e-4)
    assert float(linear_to_srgb(torch.tensor(0.003))) == pytest.approx(0.003 * 12.92)


def test_cameras_look_where_they_are_told_and_focus_by_their_height() -> None:
    cameras = orbit([90.0], 0.0, 3.0, 90.0)
    np.testing.assert_allclose(cameras.camera_to_world[0, :3, 3], [3.0, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(cameras.camera_to_world[0, :3, 2], [1.0, 0.0, 0.0], atol=1e-6)  # looks along its -Z
    np.testing.assert_allclose(cameras.camera_to_world[0, :3, 0], [0.0, 0.0, -1.0], atol=1e-6)  # right of it is -Z
    assert float(cameras.focal_px(100)[0]) == pytest.approx(50.0)
    assert float(orbit([0.0], 0.0, 3.0, 60.0).focal_px(100)[0]) == pytest.approx(86.6025, rel=1e-5)
    pose = look_at(torch.tensor([[0.0, 0.0, 2.0]]), torch.zeros(1, 3))
    _, rays = Cameras(pose, *[torch.tensor([90.0])] * 4).rays(2, 4)
    corner = rays[0, 0, 3] / -rays[0, 0, 3, 2]
    np.testing.assert_allclose(corner, [1.5, 0.5, -1.0], atol=1e-6)  # two pixels high: focal 1, the last centre 1.5 off


@pytest.mark.parametrize(("free", "refused"), [(NEEDED_MIB - 1, True), (NEEDED_MIB, False)])
def test_a_run_is_refused_before_it_begins_where_it_cannot_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, refused: bool
) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 0, free << 20))
    if not refused:
        assert Run.create(tmp_path / "runs", "prompt: x\n", "a ball", []).path.is_dir()
        return
    with pytest.raises(DiskError, match=f"{free} MiB free"):
        Run.create(tmp_path / "runs", "prompt: x\n", "a ball", [])
    assert not list((tmp_path / "runs").iterdir())
