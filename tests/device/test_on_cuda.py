# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can answer, `make gpu` or `pytest -m gpu`: every op against the CPU and against its twin there, the
same bits twice where that is promised, no waiting, capture in a graph; every scene trained, resumed and exported.

The bodies are run on the CPU, or on the device that tests make of the host, as well, so that the first GPU finds them
in order. Timing is `dreamlab bench kernels --model`.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cuda_ext import room
from cuda_ext.adam_groups import Group, adam_groups
from cuda_ext.hashgrid import HashGrid, encode
from dreamlab.export import export_mesh
from dreamlab.run import train
from tests.cuda_ext.test_device_paths import OPS, compare_numbers
from tests.device.runs import MOVING, SCENES, begun, cheap, recipe_of

__all__ = ["cheap"]
gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = pytest.param("cuda", marks=gpu)
SAME_BITS = ("splat", "adam", "adam groups", "march", "march with room", "sdf")  # they sum in a fixed order
PLAIN = ("adaptive", "mcmc")  # scenes whose every kernel does


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("name", OPS)
def test_an_op_agrees_with_the_cpu_and_its_twin(name: str, device: str) -> None:
    op = OPS[name]
    for _ in range(room.PASSES):
        op.run(device, "native")
    ours = op.run(device, "native")
    assert all(x.is_cuda for x in ours)
    compare_numbers(ours, op.run("cpu", "native"), op)
    if name != "sdf":  # whose twin draws a smaller picture
        compare_numbers(ours, op.run(device, "torch"), op)


@pytest.mark.parametrize("device", [CUDA, "cpu"])
@pytest.mark.parametrize("name", SAME_BITS)
def test_an_op_gives_the_same_bits_twice(name: str, device: str) -> None:
    first, second = (OPS[name].run(device, "native") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.reads == 0])
def test_an_op_makes_the_host_wait_for_nothing(name: str, device: str) -> None:
    for _ in range(room.PASSES + 1):
        OPS[name].run(device, "native")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        OPS[name].run(device, "native")
        torch.cuda.set_sync_debug_mode("default")
    # What makes the inputs of the test may wait.
    assert [str(w.message) for w in seen if Path(w.filename).parent == Path(room.__file__).parent] == []


def a_step(device: str) -> tuple[Tensor, Group, Tensor, HashGrid]:
    g, grid = torch.Generator().manual_seed(0), HashGrid(4, 2, 10, 4, 32)
    table = torch.randn(grid.rows, 2, generator=g).to(device).requires_grad_()
    zeros = [torch.zeros(grid.rows, 2, device=device) for _ in range(3)]
    count = torch.zeros((), dtype=torch.int64, device=device)
    group = Group(table.detach(), zeros[0], zeros[1], zeros[2], count, 0.01)
    return torch.rand(500, 3, generator=g).to(device), group, table, grid


def take(step: tuple[Tensor, Group, Tensor, HashGrid], healthy: Tensor) -> None:
    """Forward, backward and Adam, of shapes that are fixed."""
    positions, group, table, grid = step
    (slope,) = torch.autograd.grad(encode(positions, table, grid, backend="native").square().sum(), table)
    group.grad.copy_(slope)
    adam_groups([group], healthy, backend="native")


@pytest.mark.parametrize("device", [CUDA])
def test_a_step_can_be_captured_and_replayed(device: str) -> None:
    eager, captured = a_step(device), a_step(device)
    healthy = torch.ones((), dtype=torch.bool, device=device)
    for step in (eager, captured):
        take(step, healthy)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        take(captured, healthy)
    for _ in range(3):  # nothing has run while it was captured
        take(eager, healthy)
        graph.replay()
    assert int(captured[1].step) == int(eager[1].step) == 4
    torch.testing.assert_close(captured[2], eager[2], rtol=1e-4, atol=1e-5)


def test_the_step_that_is_captured_learns() -> None:
    step = a_step("cpu")
    before = step[2].detach().clone()
    take(step, torch.tensor(True))
    assert int(step[1].step) == 1 and not torch.equal(before, step[2])


def trained(folder: Path, kind: str, device: str, cut: bool) -> tuple[dict[str, Tensor], dict[str, bytes]]:
    """The state of a scene at the end of a run, and what it exports; `cut`: the run ends at its first checkpoint, as if
    its process had been ended, and another process goes on."""
    run, wanted, assembler = begun(recipe_of(SCENES[kind], kind in MOVING), folder, device)
    scene = train.train(run, wanted, assembler)
    if cut:
        newest = max(run.ckpt.iterdir(), key=lambda path: path.name)
        newest.rename(folder / "lost")
        run.set_state(step=2)
        assembler = type(assembler)(wanted, device, run.path)
        scene = train.train(run, wanted, assembler)
    files = {path.name: path.read_bytes() for path in export_mesh(run, wanted, scene, 4)}
    return {name: tensor.cpu() for name, tensor in scene.state_dict().items()}, files


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("kind", SCENES)
def test_a_scene_is_trained_resumed_and_exported(kind: str, device: str, tmp_path: Path, cheap: None) -> None:
    check_scene(kind, device, tmp_path)


@pytest.mark.parametrize("kind", ["adaptive", "field"])
def test_a_scene_on_the_cpu_too(kind: str, tmp_path: Path, cheap: None, one_thread: None) -> None:
    check_scene(kind, "cpu", tmp_path)


def check_scene(kind: str, device: str, folder: Path) -> None:
    whole, files = trained(folder / "whole", kind, device, cut=False)
    again, also = trained(folder / "cut", kind, device, cut=True)
    assert files.keys() == also.keys() and "model.glb" in files
    numbers = [float(x) for x in re.findall(rb"(?<=[ /])-?\d+\.?\d*(?:e-?\d+)?", files["model.obj"])]
    assert len(numbers) > 30 and np.isfinite(numbers).all()
    assert whole.keys() == again.keys()
    exact = device == "cpu" or kind in PLAIN
    for name, tensor in whole.items():
        assert tensor.shape == again[name].shape, name
        if exact:
            assert torch.equal(tensor, again[name]), name
        elif tensor.is_floating_point():  # sums by atomics: the last bits, which four steps have not made much of
            torch.testing.assert_close(again[name], tensor, rtol=1e-2, atol=1e-3, msg=name)
