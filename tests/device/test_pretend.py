# SPDX-License-Identifier: Apache-2.0
"""The second device refuses what CUDA refuses, allows what it allows, and computes what the CPU computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from tests.device.pretend import Mixed, left_behind, the_device, waits


@pytest.fixture
def there() -> Iterator[Tensor]:
    with the_device() as device:
        yield torch.arange(6.0, device=device)


HERE = torch.arange(6.0)
REFUSED: dict[str, Callable[[Tensor], object]] = {
    "arithmetic": lambda x: x + HERE,
    "from the left": lambda x: HERE * x,
    "in place": lambda x: x.add_(HERE),
    "a list of tensors": lambda x: torch.stack([HERE, x]),
    "where": lambda x: torch.where(x > 2, HERE, x),
    "a product": lambda x: x.reshape(2, 3) @ HERE.reshape(3, 2),
    "a plain number in a list": lambda x: torch.stack([x[0], torch.tensor(1.0)]),
    "rows by plain indices": lambda x: x.index_select(0, torch.tensor([1])),
    "plain rows by its indices": lambda x: HERE[x.long()],
    "plain values by its indices": lambda x: torch.zeros(6).index_add(0, torch.tensor([0]), x[:1]),
    "values put in by index": lambda x: x.index_put_((torch.tensor([0, 1]),), HERE[:2]),
    "numpy": lambda x: x.numpy(),
    "an array": lambda x: __import__("numpy").asarray(x),
    "a pointer": lambda x: x.data_ptr(),
    "a plain generator": lambda x: torch.rand(3, device=x.device, generator=torch.Generator()),
}
ALLOWED: dict[str, Callable[[Tensor], Tensor]] = {
    "a plain number": lambda x: x * torch.tensor(2.0),
    "a number of Python": lambda x: 2 * x + 1,
    "plain indices": lambda x: x[torch.tensor([1, 0])],
    "a list of rows": lambda x: x[[1, 0]],
    "a mask": lambda x: x[x > 2],
    "plain values put in": lambda x: torch.cat([x, x]).copy_(torch.cat([HERE, HERE])),
    "a part that is set": lambda x: x.clone().index_fill_(0, torch.tensor([1], device=x.device), 5.0),
    "a factory": lambda x: torch.linspace(0, 1, 4, device=x.device) + x.new_tensor([1.0, 2.0, 3.0, 4.0]),
    "a table": lambda x: torch.tensor([[1.0, 2.0]], device=x.device),
    "its own generator": lambda x: torch.rand(3, device=x.device, generator=torch.Generator(x.device).manual_seed(3)),
    "a module": lambda x: torch.nn.Linear(6, 6).to(x.device)(x).detach() * 0,
    "one axis away": lambda x: torch.nn.functional.linear(x, torch.ones(2, 6, device=x.device)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cuda_refuses(there: Tensor, what: str) -> None:
    with pytest.raises(Mixed):
        REFUSED[what](there)


@pytest.mark.parametrize("what", ALLOWED)
def test_what_cuda_allows_is_what_the_cpu_computes(there: Tensor, what: str) -> None:
    found = ALLOWED[what](there)
    assert found.device == there.device and not left_behind(found, "")
    torch.testing.assert_close(found.cpu(), ALLOWED[what](HERE.clone()), rtol=0, atol=0)


def test_gradients_stay_on_it(there: Tensor) -> None:
    leaf = there.clone().requires_grad_()
    (leaf.square() * there).sum().backward()
    assert leaf.grad is not None and leaf.grad.device == there.device
    torch.testing.assert_close(leaf.grad.cpu(), 2 * HERE * HERE)


WAITING: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x[0].item(),
    "equal": lambda x: torch.equal(x, x),
    "mask": lambda x: x[x > 2],
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: torch.bincount(x.long()),
    "to host": lambda x: x.tolist(),
}


@pytest.mark.parametrize("what", WAITING)
def test_what_makes_the_host_wait_is_told(there: Tensor, what: str) -> None:
    with waits() as found:
        WAITING[what](there)
    assert [each.split(" at ")[0] for each in found] == [what]
    with waits() as found:
        bool(HERE.sum()), there.to(torch.float64), there[torch.tensor([1])], HERE.to(there.device)
    assert found == []


def test_nothing_of_it_stays_when_it_is_gone() -> None:
    plain = torch.Generator
    with the_device():
        assert torch.Generator is not plain
    assert torch.Generator is plain and torch.tensor([1.0]).sum().item() == 1.0
