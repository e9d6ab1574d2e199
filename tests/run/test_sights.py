# SPDX-License-Identifier: Apache-2.0
"""What of the frames a term shows its guidance."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dreamlab.core.errors import InputError
from dreamlab.core.types import Frames
from dreamlab.run.train import latents


def term(see: str) -> Any:
    return SimpleNamespace(
        see=see, clip_pixel=None, guidance=SimpleNamespace(encode=lambda rgb: 2 * rgb.permute(0, 3, 1, 2) - 1)
    )


def test_each_sight_is_what_it_says() -> None:
    g = torch.Generator().manual_seed(0)
    alpha = torch.tensor([1.0, 0.0, 0.5]).reshape(1, 1, 3, 1)
    normal = alpha * torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])[None, None]
    rgb, four = torch.rand(1, 1, 3, 3, generator=g), torch.rand(1, 1, 3, 4, generator=g)
    frames = Frames(rgb, alpha, alpha, torch.zeros(1, 3), normal, None, {"latent": four})
    assert torch.equal(latents(term("rgb"), frames), 2 * rgb.permute(0, 3, 1, 2) - 1)
    assert torch.equal(latents(term("latent"), frames), four.permute(0, 3, 1, 2))
    picture = (latents(term("normal"), frames) + 1) / 2
    expected = torch.tensor([[0.5, 0.5, 1.0], [0.0, 0.0, 0.0], [0.25, 0.0, 0.25]])  # black behind, half seen is half
    torch.testing.assert_close(picture[0, :, 0].T, expected)
    both = latents(term("normal_mask"), frames)
    assert both.shape == (1, 4, 1, 3) and torch.equal(both[0, 3, 0], alpha.flatten())


@pytest.mark.parametrize(("see", "word"), [("normal", "normals"), ("normal_mask", "normals"), ("latent", "latent")])
def test_what_a_scene_does_not_render_is_said(see: str, word: str) -> None:
    rgb = torch.zeros(1, 2, 2, 3)
    with pytest.raises(InputError, match=word):
        latents(term(see), Frames(rgb, rgb[..., :1], rgb[..., :1], torch.zeros(1, 3)))


def test_the_gradient_on_a_pixel_is_limited_and_keeps_its_direction() -> None:
    rgb = torch.rand(2, 4, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    frames = Frames(rgb, rgb[..., :1].detach(), rgb[..., :1].detach(), torch.zeros(2, 3))
    pull = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pull[0, :, 0, 0] = 0.0
    grads = []
    for most in (None, 0.05):
        shown = latents(SimpleNamespace(see="rgb", clip_pixel=most, guidance=term("rgb").guidance), frames)
        assert torch.equal(shown, 2 * rgb.permute(0, 3, 1, 2) - 1)
        grads.append(torch.autograd.grad((pull * shown).sum(), rgb)[0])
    free, held = grads
    torch.testing.assert_close(free, 2 * pull.permute(0, 2, 3, 1))
    # Dreamer XL: s = min over channels of min(1, c / |g|), g <- s g.
    scale = torch.where(free == 0, torch.ones(()).double(), 0.05 / free.abs()).clamp(max=1).amin(-1, keepdim=True)
    torch.testing.assert_close(held, scale * free)
    assert held.abs().max() <= 0.05 + 1e-12 and (held[0, 0, 0] == 0).all()
