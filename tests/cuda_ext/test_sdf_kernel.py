# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of `sdf` without a GPU: their source, compiled by the host compiler, against the CPU's."""

import pytest
import torch

from cuda_ext import sdf as op
from dreamlab.core.cameras import orbit
from dreamlab.toybox.colours import Finish
from dreamlab.toybox.draw import Light
from dreamlab.toybox.program import Sketch, stack
from dreamlab.toybox.shapes import program
from tests.second_device import second_device


@pytest.mark.parametrize("height, width, supersample", [(20, 20, 2), (9, 21, 1), (8, 8, 3)])
def test_kernels_draw_what_the_cpu_draws(height, width, supersample):
    looks = {"ball": Finish("red", "striped", "yellow", 0.3, "glossy"), "band": Finish("blue", "spotted")}
    programs = stack([program("crown"), program("whale", seed=1), program("ball", looks), program("castle")])
    cameras, count = orbit([20.0, 160.0], 25.0), len(programs)
    pose = cameras.camera_to_world.expand(count, -1, -1, -1).contiguous()
    focal, light = cameras.focal_px(height).expand(count, -1).contiguous(), Light().packed()
    tables = [programs.rows, programs.parts, programs.bound, pose, focal]
    expected = op.draw(*tables, light, height, width, supersample, backend="native")

    with second_device():
        given = [t.cuda() for t in (*tables, light)]
        drawn = [t.cpu() for t in op.draw(*given, height, width, supersample, backend="native")]

    hit = int((expected[1] > 0).sum())
    for name, ours, theirs, tolerance in zip(
        ("rgb", "alpha", "depth", "normal", "part"), drawn, expected, (4e-3, 1e-6, 4e-3, 2e-2, 0), strict=True
    ):
        wrong = ((ours - theirs).abs() > tolerance).sum()
        assert wrong <= max(1, hit // 100), f"{name}: {int(wrong)} values differ, {hit} pixels are hit"


def test_kernels_measure_what_the_cpu_measures():
    programs = stack([program("flower"), program("cat", seed=1), program("star")])
    points = 2 * torch.rand(3, 700, 3, generator=torch.Generator().manual_seed(0)) - 1
    with second_device():
        found = op.sdf(programs.rows.cuda(), points.cuda(), backend="native")
        distance, part = (t.cpu() for t in found)
    expected, expected_part = op.sdf(programs.rows, points, backend="native")
    torch.testing.assert_close(distance, expected, atol=3e-6, rtol=0)
    assert (part != expected_part).sum() <= 3


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_group_that_starts_out_of_sight_keeps_its_cut_to_itself(device):
    """In tiles that see the cut and the ball before it, but not the ball that the cut's group starts with."""
    sketch = Sketch()
    sketch.sphere("a", (-0.3, 0.0, 0.0), 0.5)
    sketch.sphere("b", (1.0, 0.0, 0.0), 0.12, group=True)
    sketch.sphere("b", (-0.2, 0.1, 0.45), 0.2, op="cut")
    drawn = sketch.pack({"a": Finish("red"), "b": Finish("blue")}, fit=None)
    cameras = orbit([0.0], 0.0)
    pose, focal = cameras.camera_to_world[None].contiguous(), cameras.focal_px(32)[None]
    tables = [drawn.rows, drawn.parts, drawn.bound, pose, focal, Light().packed()]
    expected = op.draw(*tables, 32, 32, 1, backend="torch")
    with second_device():
        found = [t.cpu() for t in op.draw(*(t.to(device) for t in tables), 32, 32, 1, backend="native")]
    assert (expected[2] > 0).sum() > 100
    wrong = (found[2] - expected[2]).abs() > 4e-3
    assert wrong.sum() <= 2, f"{int(wrong.sum())} depths differ"
