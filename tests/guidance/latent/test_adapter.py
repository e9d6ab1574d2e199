# SPDX-License-Identifier: Apache-2.0
"""Trainable additions to pretrained networks, as VSD asks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from guidance.latent.adapter import NetAdapter
from guidance.sd import StableDiffusion
from tests.guidance.latent.test_core import asked, latents, sd


@pytest.fixture(scope="module")
def model(random_folder: Callable[..., Path]) -> StableDiffusion:
    return sd(random_folder("sd15"))


def given(model: StableDiffusion) -> tuple[Tensor, Tensor, Tensor]:
    camera = torch.randn(2, 16, generator=torch.Generator().manual_seed(3))
    return latents(model), torch.tensor([10, 900]), camera


def lively(own: NetAdapter) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.1 * torch.randn(value.shape, generator=generator) for name, value in own.start().items()}


@pytest.mark.parametrize("rank", [4, 0])
def test_it_starts_as_the_frozen_network(model: StableDiffusion, rank: int) -> None:
    z, t, camera = given(model)
    own, told = model.adapter(rank), asked(model)["text"]
    said = own.apply(own.start(), z, t, told, camera)
    torch.testing.assert_close(said, model.predict(z, t, told))


@pytest.mark.parametrize("rank", [2, 0])
def test_parameters_are_float32_whatever_the_network_runs_in(rank: int, random_folder: Callable[..., Path]) -> None:
    """A step of 1e-4 of a weight is nothing in bfloat16."""
    half = sd(random_folder("sd15"), dtype="bfloat16")
    z, t, camera = given(half)
    own = half.adapter(rank)
    params = {name: value.requires_grad_() for name, value in own.start().items()}
    assert {value.dtype for value in params.values()} == {torch.float32}
    own.apply(params, z, t, asked(half)["text"], camera).square().sum().backward()
    assert any(value.grad is not None and value.grad.any() for value in params.values())


def test_additions_are_merged_weights_and_leave_the_network_alone(model: StableDiffusion) -> None:
    """By W + B A in a copy of the network's own weights."""
    z, t, _ = given(model)
    own, told = model.adapter(3), asked(model)["text"]
    params = lively(own)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    said = own.apply(params, z, t, told, torch.zeros(2, 16))
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, before[name])
    merged = dict(before)
    for name in {key.rsplit(".", 1)[0] for key in params if not key.startswith("camera.")}:
        merged[f"{name}.weight"] = before[f"{name}.weight"] + params[f"{name}.up"] @ params[f"{name}.down"]
    assert sum(not torch.equal(merged[n], before[n]) for n in merged) == 4 * 2 * 4  # q, k, v, out of two attentions
    model.module.load_state_dict(merged)
    try:
        expected = model.predict(z, t, told)
    finally:
        model.module.load_state_dict(before)
    torch.testing.assert_close(said, expected, rtol=1e-4, atol=1e-5)
    assert (said - model.predict(z, t, told)).abs().max() > 1e-3


def test_the_camera_is_added_to_the_time_as_class_labels_are(model: StableDiffusion) -> None:
    """diffusers' own way in: a class embedding, which then every call must be given."""
    z, t, camera = given(model)
    own, told = model.adapter(2), asked(model)["text"]
    start = own.start()
    params = {**start, "camera.out": lively(own)["camera.out"]}
    said = own.apply(params, z, t, told, camera)

    class Labels(torch.nn.Module):
        def forward(self, labels: Tensor) -> Tensor:
            return F.linear(F.silu(F.linear(labels, params["camera.in"])), params["camera.out"])

    net = model.module
    net.class_embedding = Labels()
    try:
        expected = net(z, t, told.rows["text"], class_labels=camera).sample
    finally:
        net.class_embedding = None
    torch.testing.assert_close(said, expected)
    assert (said - model.predict(z, t, told)).abs().max() > 1e-3


def test_every_parameter_s_gradient_is_that_of_differences(model: StableDiffusion) -> None:
    z, t, camera = given(model)
    own, told = model.adapter(2), asked(model)["text"]
    params = {name: value.requires_grad_() for name, value in lively(own).items()}
    towards = torch.randn(z.shape, generator=torch.Generator().manual_seed(5))
    (own.apply(params, z, t, told, camera) * towards).sum().backward()
    for name in ("camera.in", "camera.out", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.down"):
        grad = params[name].grad
        assert grad is not None
        along, step = F.normalize(grad, dim=None), 1e-2
        with torch.no_grad():
            moved = [own.apply({**params, name: params[name] + sign * step * along}, z, t, told, camera)
                     for sign in (1, -1)]  # fmt: skip
            slope = ((moved[0] - moved[1]) * towards).sum() / (2 * step)
        assert (grad * along).sum().item() == pytest.approx(slope.item(), rel=2e-2)
