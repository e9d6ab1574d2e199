# SPDX-License-Identifier: Apache-2.0
"""LoRA on the embedded prior, and whole copies of it: they start as the prior, learn by their own gradient, and leave
the prior as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dreamlab.core.cameras import turntable
from dreamlab.core.schedules import Progress, constant
from dreamlab.core.types import Prompt
from guidance.shared.lora import Lora
from guidance.shared.whole import Whole
from systems.engine.residual import Look
from systems.vsd import VSD
from tests.guidance.test_toybox import frames, guidance


def test_additions_are_b_a_x_and_only_inside_the_block() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    lora = Lora(net, 2, lambda name: name == "1")
    params = {name: torch.randn(value.shape) for name, value in lora.start().items()}
    x = torch.randn(5, 3)
    plain, hidden = net(x), net[0](x)
    with lora.added(params):
        changed = net(x)
    torch.testing.assert_close(changed, plain + hidden @ params["1.down"].T @ params["1.up"].T)
    torch.testing.assert_close(net(x), plain, rtol=0, atol=0)
    with pytest.raises(ValueError, match="none of the network"):
        Lora(net, 2, lambda name: False)


def test_a_whole_copy_has_weights_of_its_own_inside_the_block_and_their_gradient() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double().requires_grad_(False)
    whole = Whole(net, lambda name: name.startswith("1"))
    x, before = torch.randn(5, 3, dtype=torch.float64), {k: v.clone() for k, v in net.state_dict().items()}
    params = {name: torch.randn(value.shape).requires_grad_() for name, value in whole.start().items()}
    assert set(params) == {"1.weight", "1.bias"}
    with whole.added(params):
        said = net(x)
    hidden = net[0](x)
    torch.testing.assert_close(said, hidden @ params["1.weight"].double().T + params["1.bias"].double())
    said.sum().backward()
    torch.testing.assert_close(params["1.weight"].grad, hidden.sum(0).float().expand(2, 4))
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(ZeroDivisionError), whole.added(params):
        raise ZeroDivisionError
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert isinstance(net[1].weight, nn.Parameter)


@pytest.mark.parametrize("rank", [4, 0])
def test_the_priors_adapter_starts_as_the_prior_and_hears_the_camera(rank: int) -> None:
    prior = guidance(dtype="float32")
    adapter, poses = prior.adapter(rank), turntable(2).camera_to_world.reshape(2, 16)
    said = prior.condition(Prompt("a red mushroom"), turntable(2), frames(2))
    z, t = torch.randn(2, 3, prior.size, prior.size), torch.tensor([300, 700])
    start = adapter.start()
    for camera, name in ((poses, "text"), (torch.zeros_like(poses), "blind")):
        got = adapter.apply(start, z, t, said["text"], camera)
        torch.testing.assert_close(got, prior.predict(z, t, said[name]), rtol=1e-5, atol=1e-5)
    params = {name: value.requires_grad_() for name, value in start.items()}
    adapter.apply(params, z, t, said["text"], poses).square().sum().backward()
    learning = [name for name in params if name.endswith("up")] if rank else [n for n in params if "weight" in n]
    assert len(learning) > 3 and all(params[name].grad.abs().max() > 0 for name in learning)
    assert all(weight.grad is None for weight in prior.net.parameters())


@pytest.mark.parametrize("rank", [4, 0])
def test_vsd_runs_with_the_priors_adapter(rank: int) -> None:
    """At the start the adapter is the prior: at scale 1 g is zero; then it learns, and g is not."""
    prior = guidance(dtype="float32")
    system = VSD(VSD.Settings(net="adapter", rank=rank, cfg=constant(1.0), lr=0.01))
    z = torch.randn(2, 3, prior.size, prior.size, generator=torch.Generator().manual_seed(0))
    found = []
    for step in range(3):
        said = prior.condition(Prompt("a red mushroom"), turntable(2), frames(2))
        streams = torch.Generator().manual_seed(step), torch.Generator().manual_seed(step + 50)
        seen = Look(prior, z, said, Progress(step, 10), *streams, None, turntable(2))
        found.append(float(system.gradient(seen).abs().max()))
        assert (seen.rows, seen.trained) == (2 * (1 + 1 + 1), 2)
    assert found[0] < 1e-4 < found[2]
