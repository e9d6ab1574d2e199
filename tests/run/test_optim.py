# SPDX-License-Identifier: Apache-2.0
"""Our Adam against torch's, and the switch for unhealthy steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dreamlab.core.schedules import Progress, constant, ramp
from dreamlab.core.types import ParamGroup, Rows
from dreamlab.run.optim import BETAS, EPS, Adam

HEALTHY, SICK = torch.tensor(True), torch.tensor(False)


class Two:
    """A scene of two tensors, one of them made of rows."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.a = torch.randn(5, 3, generator=generator, requires_grad=True)
        self.b = torch.randn(7, generator=generator, requires_grad=True)

    def groups(self) -> Mapping[str, ParamGroup]:
        return {"a": ParamGroup(self.a, constant(0.1), True), "b": ParamGroup(self.b, ramp(0.2, 0.0))}


def gradients(scene: Two, step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    scene.a.grad, scene.b.grad = (torch.randn(x.shape, generator=generator) for x in (scene.a, scene.b))


def test_equals_torch_adam_with_scheduled_rates() -> None:
    ours, theirs = Two(), Two()
    adam = Adam(ours)  # type: ignore[arg-type]
    reference = torch.optim.Adam([{"params": [theirs.a]}, {"params": [theirs.b]}], betas=BETAS, eps=EPS)
    for i in range(20):
        for scene in (ours, theirs):
            gradients(scene, i)
        reference.param_groups[0]["lr"], reference.param_groups[1]["lr"] = 0.1, 0.2 * (1 - i / 20)
        reference.step()
        adam.step(Progress(i, 20), HEALTHY)
        assert ours.a.grad is None
    torch.testing.assert_close(ours.a, theirs.a, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.b, theirs.b, rtol=1e-5, atol=1e-6)


def test_an_unhealthy_step_changes_nothing_at_all() -> None:
    scene = Two()
    adam = Adam(scene)  # type: ignore[arg-type]
    for i in range(3):
        gradients(scene, i)
        adam.step(Progress(i, 10), HEALTHY)
    before = {name: value.clone() for name, value in adam.state_dict().items()}
    held = scene.a.detach().clone(), scene.b.detach().clone()
    scene.a.grad, scene.b.grad = torch.full_like(scene.a, float("nan")), torch.full_like(scene.b, float("inf"))
    adam.step(Progress(3, 10), SICK)
    assert torch.equal(scene.a, held[0]) and torch.equal(scene.b, held[1])
    assert all(torch.equal(value, before[name]) for name, value in adam.state_dict().items())


def test_rows_nobody_saw_stay() -> None:
    scene = Two()
    adam = Adam(scene)  # type: ignore[arg-type]
    held = scene.a.detach().clone()
    gradients(scene, 0)
    seen = torch.tensor([True, False, True, False, False])
    adam.step(Progress(0, 10), HEALTHY, seen)
    moved = (scene.a.detach() != held).any(-1)
    assert torch.equal(moved, seen)


def test_state_round_trip_continues_identically() -> None:
    def run(split: bool) -> Tensor:
        scene = Two()
        adam = Adam(scene)  # type: ignore[arg-type]
        for i in range(6):
            if split and i == 3:
                state = {name: value.clone() for name, value in adam.state_dict().items()}
                adam = Adam(scene)  # type: ignore[arg-type]
                adam.load_state_dict(state)
            gradients(scene, i)
            adam.step(Progress(i, 6), HEALTHY)
        return scene.a.detach()

    assert torch.equal(run(split=False), run(split=True))


def test_moments_follow_their_rows() -> None:
    """Rows 4 and 0 stay, a copy starts afresh; from there the kept rows move as if nothing had happened."""
    scene, other = Two(), Two()
    adam, untouched = Adam(scene), Adam(other)  # type: ignore[arg-type]
    for each, optimiser in ((scene, adam), (other, untouched)):
        gradients(each, 0)
        optimiser.step(Progress(0, 10), HEALTHY)
    source = torch.tensor([4, 0, -1])
    scene.a = torch.cat([scene.a.detach()[[4, 0]], torch.ones(1, 3)]).requires_grad_()
    adam.follow(Rows(source))
    assert torch.equal(adam.first["a"][2], torch.zeros(3)) and adam.first["a"].shape == (3, 3)
    gradients(other, 1)
    scene.a.grad, scene.b.grad = other.a.grad[[4, 0, 1]], other.b.grad.clone()  # type: ignore[index, union-attr]
    adam.step(Progress(1, 10), HEALTHY)
    untouched.step(Progress(1, 10), HEALTHY)
    assert torch.equal(scene.a[:2], other.a[[4, 0]]) and torch.equal(scene.b, other.b)
    adam.follow(Rows(torch.tensor([0, 1, 2]), fresh=("a",)))
    assert not adam.second["a"].any() and adam.second["b"].any()
