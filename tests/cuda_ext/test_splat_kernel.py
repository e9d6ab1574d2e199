# SPDX-License-Identifier: Apache-2.0
"""The CUDA path of `splat` on the host: launcher and kernels against the CPU's, and what happens without room."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cuda_ext import room
from cuda_ext.splat import SplatStats, Splatted, splat
from dreamlab.core.cameras import orbit
from tests.cuda_ext.test_splat import CASES, PICTURES, assert_close_except, assert_gradients_match, make_scene
from tests.second_device import second_device


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    with second_device():
        yield


def draw(
    scene: dict[str, Tensor], device: str, size: tuple[int, int] = (40, 52), stats: SplatStats | None = None, **how
) -> tuple[Splatted, dict[str, Tensor]]:
    """Pictures and gradients of a fixed loss on all of them, on the CPU."""
    how = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in how.items()}
    cameras = orbit([0.0, 110.0], 20.0)
    leaves = {k: v.clone().to(device).requires_grad_() for k, v in scene.items() if v is not None}
    given = {**{k: None for k in scene}, **leaves}
    first = [given.pop(k) for k in ("means", "quats", "scales", "opacities", "colors")]
    pose, focal = cameras.camera_to_world.to(device), cameras.focal_px(size[0]).to(device)
    out = splat(*first, pose, focal, size, backend="native", stats=stats, **given, **how)
    generator, loss = torch.Generator().manual_seed(7), torch.zeros((), device=device)
    for name in PICTURES:
        image = getattr(out, name)
        if image is not None:
            weight = torch.randn(image.shape, generator=generator).to(device)
            loss = loss + (image * (weight * out.alpha.detach() if name == "depth" else weight)).sum()
    grads = torch.autograd.grad(loss, list(leaves.values()))
    fields = {k: v if v is None else v.detach().cpu() for k, v in vars(out).items()}
    return Splatted(**fields), {k: g.cpu() for k, g in zip(leaves, grads, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_kernels_draw_what_the_cpu_draws(name: str) -> None:
    scene_options, options = CASES[name]
    scene = make_scene(120, **scene_options)
    ours, our_grads = draw(scene, "cuda", **options)
    theirs, their_grads = draw(scene, "cpu", **options)
    for picture in (*PICTURES, "radii"):
        if getattr(theirs, picture) is not None:
            assert_close_except(getattr(ours, picture), getattr(theirs, picture), picture)
    assert torch.equal(ours.visible, theirs.visible)
    assert_gradients_match(our_grads, their_grads)
