# SPDX-License-Identifier: Apache-2.0
"""Work in a child that may hang, crash or eat all memory: the caller hears of it in one line and goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from dreamlab.core.bounded import Unbounded, bounded

MIB = 1 << 20


def test_what_a_child_makes_comes_back_and_what_it_changes_does_not() -> None:
    kept = torch.zeros(3)

    def work() -> tuple[dict[str, torch.Tensor], dict[str, object]]:
        kept.add_(1)
        return {"made": kept + 1, "whole": torch.arange(4)}, {"pid": os.getpid(), "word": "\u00e4"}

    done = bounded(work, "work")
    assert done.tensors["made"].tolist() == [2, 2, 2] and done.tensors["whole"].tolist() == [0, 1, 2, 3]
    assert done.facts["pid"] != os.getpid() and done.facts["word"] == "\u00e4"
    assert kept.tolist() == [0, 0, 0] and 0 < done.seconds < 5


def test_tensors_of_all_kinds_and_sizes_come_back_as_they_were_and_are_the_callers_own() -> None:
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int16, torch.uint8, torch.bool)
    made = {f"{kind}": (torch.arange(7) % 2).to(kind) for kind in kinds}
    made |= {"none": torch.zeros(0, 3, dtype=torch.int64), "one": torch.tensor(2.5), "turned": torch.rand(5, 4).T}
    for tensors in (made, {"none": made["none"]}, {}):
        found = bounded(lambda tensors=tensors: (tensors, {}), "work").tensors
        assert list(found) == list(tensors)
        for name, value in tensors.items():
            assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
            found[name].add_(1) if value.dtype != torch.bool else found[name].logical_not_()
            assert not value.numel() or not torch.equal(found[name], value), "what came back can be written to"
    with pytest.raises(Unbounded, match="which no answer holds"):
        bounded(lambda: ({"a": torch.zeros(2, dtype=torch.complex64)}, {}), "work")


def test_a_child_does_not_look_through_what_the_parent_has() -> None:
    """Collecting garbage there would copy every page of the parent's objects."""
    import gc

    mine = [[] for _ in range(10_000)]  # type: ignore[var-annotated]
    assert bounded(lambda: ({}, {"n": len(gc.get_objects())}), "work").facts["n"] < len(mine)


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("hang", "work: not done after 0.5 s"),
        ("crash", "work: its process died by SIGSEGV"),
        ("memory", "work: more memory than agreed"),
        ("error", "work: RuntimeError: a fault was asked for"),
    ],
)
def test_every_bad_end_is_one_line(monkeypatch: pytest.MonkeyPatch, way: str, said: str) -> None:
    monkeypatch.setenv("DREAMLAB_FAULT", f"work:{way}")
    with pytest.raises(Unbounded) as caught:
        bounded(lambda: ({}, {}), "work", seconds=0.5)
    assert str(caught.value) == said
    assert bounded(lambda: ({}, {"ok": 1}), "other", seconds=20).facts == {"ok": 1}, "faults are of one name"


def test_memory_is_counted_from_where_the_work_begins() -> None:
    """64 MiB fit into 256 more than there was; 512 do not."""

    def take(bytes_: int) -> dict[str, object]:
        return bounded(lambda: ({}, {"n": torch.ones(bytes_ // 4).numel()}), "work", memory=256 * MIB).facts

    assert take(64 * MIB) == {"n": 16 * MIB}
    with pytest.raises(Unbounded, match="more memory than agreed"):
        take(512 * MIB)


def test_a_killed_child_and_a_child_that_answers_much(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies() -> tuple[dict[str, torch.Tensor], dict[str, object]]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    with pytest.raises(Unbounded, match="SIGKILL"):
        bounded(dies, "work")
    many = bounded(lambda: ({"a": torch.arange(3 << 20)}, {}), "work").tensors["a"]
    assert many[-1] == (3 << 20) - 1


def test_no_child_is_left_behind() -> None:
    own = Path(f"/proc/self/task/{os.getpid()}/children")  # other tests of this process may have some
    before = own.read_text()
    with pytest.raises(Unbounded):
        bounded(lambda: (time.sleep(60), ({}, {}))[1], "work", seconds=0.2)  # type: ignore[func-returns-value]
    assert own.read_text() == before
