# SPDX-License-Identifier: Apache-2.0
"""Reconstruction: its parts against their definitions, SSIM against scikit-image."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dreamlab.core.noise import make_table
from dreamlab.core.schedules import Progress, Schedule, constant
from dreamlab.core.types import Condition, Frames
from systems.engine.residual import Look, distil
from systems.photometric import Photometric, ssim


class Pictures:
    """Conditions only; a rule that compares pictures asks nothing of the model."""

    table = make_table("cosine")
    variants = frozenset({"truth"})


def seen(frames: Frames, truth: dict[str, Tensor]) -> Look:
    stream = torch.Generator()
    conditions = {"truth": Condition(truth)}
    return Look(Pictures(), frames.rgb.detach(), conditions, Progress(0, 10), stream, stream, frames=frames)  # type: ignore[arg-type]


def random_pictures(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_ssim_is_scikit_images() -> None:
    from skimage.metrics import structural_similarity

    a, b = random_pictures(0, 2, 40, 33, 3), random_pictures(1, 2, 40, 33, 3)
    b = 0.6 * a + 0.4 * b
    for i in range(2):
        _, theirs = structural_similarity(
            a[i].numpy(), b[i].numpy(), data_range=1.0, channel_axis=-1, full=True, gaussian_weights=True, sigma=1.5,
            truncate=3.5, use_sample_covariance=False,
        )  # fmt: skip
        inside = (slice(5, -5), slice(5, -5))  # the two treat the border differently
        torch.testing.assert_close(ssim(a, b)[i].permute(1, 2, 0)[inside], torch.from_numpy(theirs)[inside])


@pytest.mark.parametrize(("norm", "power"), [("l2", 2), ("l1", 1)])
def test_parts_are_means_and_add_up(norm: str, power: int) -> None:
    a, b, alpha, mask = (random_pictures(i, 2, 16, 16, c) for i, c in enumerate((3, 3, 1, 1)))
    frames = Frames(a.requires_grad_(), alpha, alpha, torch.zeros(2, 3), normal=b)
    weights: dict[str, Schedule] = {"rgb": constant(0.8), "mask": constant(0.5), "normal": constant(2.0)}
    rule = Photometric(Photometric.Settings(norm=norm, **weights))  # type: ignore[arg-type]
    found = distil(rule, seen(frames, {"rgb": b, "alpha": mask, "normal": a.detach()}), a)
    expected = 0.8 * (a - b).abs().pow(power).mean() + 0.5 * ((alpha - mask) ** 2).mean() + 2 * ((a - b) ** 2).mean()
    assert math.isclose(float(found.loss.detach()), float(expected.detach()), rel_tol=1e-9)
    assert bool(found.finite) and found.calls == 0
    found.loss.backward()
    assert a.grad is not None and torch.isfinite(a.grad).all()


def test_a_nan_is_told_and_a_missing_normal_is_explained() -> None:
    a = random_pictures(0, 1, 8, 8, 3)
    frames = Frames(a / 0 * 0, a[..., :1], a[..., :1], torch.zeros(1, 3))
    assert not bool(distil(Photometric(Photometric.Settings()), seen(frames, {"rgb": a}), a).finite)
    with pytest.raises(ValueError, match="renders no normals"):
        Photometric(Photometric.Settings(normal=constant(1.0))).loss(seen(frames, {"rgb": a}))
