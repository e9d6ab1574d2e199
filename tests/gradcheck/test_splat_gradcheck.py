# SPDX-License-Identifier: Apache-2.0
"""The twin of splat against central differences in float64, for every input and every picture."""

import pytest
import torch

from cuda_ext.splat import splat
from dreamlab.core.cameras import orbit

CASES = {
    "colours": {},
    "compensated": {"compensate": True, "dilation": 0.5},
    "sh1": {"sh": 4},
    "sh3": {"sh": 16, "compensate": True},
    "sh4": {"sh": 25},
    "principal point": {"principal_px": torch.tensor([[4.5, 1.0], [-1.0, 7.5]], dtype=torch.float64)},
}


@pytest.mark.parametrize("name", CASES)
def test_twin_matches_finite_differences(name):
    options = dict(CASES[name])
    degree = options.pop("sh", 0)
    g = torch.Generator().manual_seed(5)

    def rand(*shape):
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    count = 4
    # Large, translucent splats: inside a small picture no alpha crosses a cut-off under a step of 1e-6.
    inputs = {
        "means": 0.4 * (rand(count, 3) - 0.5),
        "quats": rand(count, 4) - 0.4,
        "scales": 0.5 + 0.4 * rand(count, 3),
        "opacities": 0.3 + 0.4 * rand(count),
        "colors": rand(count, 3),
        "extra": rand(count, 2),
        "background": rand(2, 3),
    }
    if degree:
        del inputs["colors"]
        inputs["sh"] = 0.2 * (rand(count, degree, 3) - 0.5)
    cameras = orbit([20.0, 130.0], 25.0).to(dtype=torch.float64)
    poses, focal = cameras.camera_to_world, cameras.focal_px(6)

    def loss(given):
        given = dict(given)
        first = [given.pop(k, None) for k in ("means", "quats", "scales", "opacities", "colors")]
        out = splat(*first, poses, focal, (6, 6), backend="torch", **given, **options)
        weights = torch.Generator().manual_seed(1)
        images = (out.rgb, out.alpha, out.depth, out.normal, out.extra)
        return sum((x * torch.randn(x.shape, generator=weights, dtype=x.dtype)).sum() for x in images)

    leaves = {k: v.requires_grad_() for k, v in inputs.items()}
    grads = dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values())), strict=True))
    step = 1e-6
    with torch.no_grad():
        for field, value in leaves.items():
            for _ in range(4):
                direction = torch.randn(value.shape, generator=g, dtype=value.dtype)
                high, low = ({**leaves, field: value + s * step * direction} for s in (1, -1))
                numeric = (loss(high) - loss(low)) / (2 * step)
                analytic = (grads[field] * direction).sum()
                torch.testing.assert_close(analytic, numeric, rtol=1e-5, atol=1e-6, msg=lambda m, f=field: f"{f}: {m}")
