# SPDX-License-Identifier: Apache-2.0
"""splat on hostile numbers: nothing crashes or hangs, and one bad splat never changes the rest of the picture."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cuda_ext import build
from cuda_ext.splat import splat
from dreamlab.core.cameras import orbit

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="needs a C++ compiler (g++ or clang++)")

HOSTILE = st.sampled_from(
    [
        0.0,
        -0.0,
        1e-45,
        -1e-40,
        1e-20,
        1e-8,
        1.0,
        -1.0,
        3.0,
        1e4,
        -1e6,
        1e20,
        3e38,
        float("nan"),
        float("inf"),
        -float("inf"),
    ]
)
FIELDS = {"means": 3, "quats": 4, "scales": 3, "opacities": 1, "colors": 3}
CAMERAS = orbit([0.0, 90.0], 10.0)
SIZE = (24, 40)


def good_scene():
    g = torch.Generator().manual_seed(0)
    return {
        "means": 0.3 * torch.randn(6, 3, generator=g),
        "quats": torch.randn(6, 4, generator=g),
        "scales": 0.1 + 0.1 * torch.rand(6, 3, generator=g),
        "opacities": 0.2 + 0.7 * torch.rand(6, generator=g),
        "colors": torch.rand(6, 3, generator=g),
    }


def render(scene, backend):
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in scene.items()}
    poses, focal = CAMERAS.camera_to_world, CAMERAS.focal_px(SIZE[0])
    out = splat(*leaves.values(), poses, focal, SIZE, backend=backend)
    grads = torch.autograd.grad(
        (out.rgb + out.alpha + out.normal).sum() + (out.depth * out.alpha).sum(), list(leaves.values())
    )
    return out, dict(zip(leaves, grads, strict=True))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_one_hostile_splat(data):
    scene = good_scene()
    name = data.draw(st.sampled_from(list(FIELDS)))
    width = FIELDS[name]
    bad = torch.tensor(data.draw(st.lists(HOSTILE, min_size=width, max_size=width)))
    row = scene[name].clone()
    row[2] = bad[0] if width == 1 else bad
    ours, our_grads = render({**scene, name: row}, "native")
    twin, _ = render({**scene, name: row}, "torch")
    rest = [0, 1, 3, 4, 5]
    for tensor in (ours.rgb, ours.alpha, ours.depth, ours.normal):
        assert torch.isfinite(tensor).all(), f"{name} = {bad.tolist()} put a number that is not finite into the picture"
    for field, grad in our_grads.items():
        assert torch.isfinite(grad[rest]).all(), (
            f"{name} = {bad.tolist()} spoiled the gradient of {field} of other splats"
        )
    if not ours.visible[2] and not twin.visible[2]:
        alone, alone_grads = render({k: v[rest] for k, v in scene.items()}, "native")
        assert torch.equal(ours.rgb, alone.rgb), (
            f"{name} = {bad.tolist()}: a splat that is left out changed the picture"
        )
        assert all(not g[2].any() for g in our_grads.values())
        assert all(torch.equal(our_grads[k][rest], alone_grads[k]) for k in alone_grads)
    if torch.isfinite(bad).all() and bad.abs().max() < 10:
        assert bool(ours.visible[2]) == bool(twin.visible[2])
        assert ((ours.rgb - twin.rgb).abs() > 1e-3).float().mean() < 5e-3


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 5), st.integers(1, 70), st.integers(1, 70), st.floats(0.0, 3.0), st.floats(1e-3, 4.0))
def test_any_count_size_dilation_and_near(count, height, width, dilation, near):
    scene = {name: tensor[:count] for name, tensor in good_scene().items()}
    pictures = []
    for backend in ("native", "torch"):
        poses, focal = CAMERAS.camera_to_world, CAMERAS.focal_px(height)
        out = splat(*scene.values(), poses, focal, (height, width), dilation=dilation, near=near, backend=backend)
        pictures.append(out.rgb)
    assert ((pictures[0] - pictures[1]).abs() > 1e-4).float().mean() <= 0.02


def test_splats_behind_the_camera_and_around_it():
    scene = good_scene()
    eye = CAMERAS.camera_to_world[0, :3, 3]
    scene["means"] = torch.cat([eye + 0.02 * torch.randn(3, 3), 2 * eye + torch.zeros(3, 3)])
    out, grads = render(scene, "native")
    assert torch.isfinite(out.rgb).all() and all(torch.isfinite(g).all() for g in grads.values())
    behind = out.radii[0, 3:]
    assert not behind.any()


def test_huge_splats_cover_the_picture():
    scene = good_scene()
    scene["scales"] = torch.full((6, 3), 50.0)
    ours, _ = render(scene, "native")
    twin, _ = render(scene, "torch")
    torch.testing.assert_close(ours.rgb, twin.rgb, rtol=1e-4, atol=1e-4)
    assert ours.alpha.min() > 0.9
