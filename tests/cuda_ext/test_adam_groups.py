# SPDX-License-Identifier: Apache-2.0
"""adam_groups: on a device as one call of `adam` after the other, all or nothing, with one launch for everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cuda_ext import nvrtc
from cuda_ext.adam import adam
from cuda_ext.adam_groups import TENSORS, Group, adam_groups
from tests.second_device import second_device

SHAPES = [(700, 3), (1,), (0, 4), (2100,), (64, 16, 3)]
HOW = {"betas": (0.8, 0.99), "eps": 1e-12}


def groups(device: str, shapes: list[tuple[int, ...]] = SHAPES) -> list[Group]:
    g, made = torch.Generator().manual_seed(0), []
    for i, shape in enumerate(shapes):
        tensors = [torch.randn(shape, generator=g) for _ in range(4)]
        tensors[3] = tensors[3].abs()
        visible = None if i % 2 else (torch.rand(shape[0], generator=g) < 0.5).to(device)
        step = torch.tensor(i, device=device)
        made.append(Group(*(t.to(device) for t in tensors), step, 0.1 * (i + 1), visible))
    return made


def changed(given: list[Group]) -> list[Tensor]:
    return [tensor.cpu() for group in given for tensor in (group[0], *group[2:5])]


def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names, run = [], nvrtc.launch

    def launch(op: str, kernel: str, *rest: object) -> None:
        names.append(kernel)
        run(op, kernel, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(nvrtc, "launch", launch)
    return names


@pytest.mark.parametrize("shapes", [SHAPES, [(5, 2)] * (TENSORS + 3)], ids=["mixed", "more than a launch holds"])
def test_on_a_device_it_is_adam_group_by_group(shapes: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    with second_device():
        ours, single = groups("cuda", shapes), groups("cuda", shapes)
        names = launches(monkeypatch)
        for _ in range(2):
            assert bool(adam_groups(ours, torch.tensor(True, device="cuda"), **HOW))
        assert len(names) == 2 * 2 * -(-len(shapes) // TENSORS)
        for _ in range(2):
            for group in single:
                adam(*group[:5], lr=group.lr, visible=group.visible, **HOW)
        for mine, theirs in zip(changed(ours), changed(single), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("where", [0, 3, 4, None], ids=str)  # the group with a bad number; None: the flag says so
def test_all_or_nothing(where: int | None, device: str) -> None:
    with second_device():
        given, flag = groups(device), torch.tensor(where is not None, device=device)
        if where is not None:
            given[where].grad.view(-1)[-1:].fill_(float("inf") if where else float("nan"))
        before = [t.clone() for t in changed(given)]
        assert not bool(adam_groups(given, flag, **HOW))
        assert bool(flag) == (where is not None)  # the caller's flag is not touched
        assert all(torch.equal(now, then) for now, then in zip(changed(given), before, strict=True))
        if where is not None:
            given[where].grad.nan_to_num_(posinf=0.0)
            assert bool(adam_groups(given, flag, **HOW))
            assert [group.step.item() for group in given] == [i + 1 for i in range(len(SHAPES))]


def test_hidden_rows_keep_their_bits() -> None:
    with second_device():
        given = groups("cuda")
        before = changed(given)
        adam_groups(given, torch.tensor(True, device="cuda"), **HOW)
        hidden = ~given[0].visible.cpu()  # type: ignore[union-attr]
        for now, then in zip(changed(given)[:3], before[:3], strict=True):
            assert torch.equal(now[hidden], then[hidden]) and not torch.equal(now, then)


def test_bad_groups_are_one_line() -> None:
    good, flag = groups("cpu"), torch.tensor(True)
    with pytest.raises(ValueError, match=r"group 1: grad must be \[1\]"):
        adam_groups([good[0], good[1]._replace(grad=torch.zeros(2))], flag)
    with pytest.raises(ValueError, match="visible must be a mask"):
        adam_groups([good[0]._replace(visible=torch.arange(700))], flag)
    with pytest.raises(ValueError, match="healthy must be bool"):
        adam_groups(good, torch.ones(()))
    assert adam_groups([], flag) is flag
