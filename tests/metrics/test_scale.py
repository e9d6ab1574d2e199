# SPDX-License-Identifier: Apache-2.0
"""`bench scale` finds what grows faster than its size, measures memory that is really taken, and draws what it says."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from benchmarks import scale, scale_axes
from benchmarks.plots import Plot, svg
from benchmarks.scale import Point, checks_of, here
from benchmarks.scale_axes import Axis

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def axis(sizes: tuple[int, ...], start: int) -> Axis:
    return Axis("nothing", sizes, lambda size: lambda: None, start)


@pytest.mark.parametrize(("power", "met"), [(1.0, True), (1.04, True), (1.1, False), (2.0, False)])
def test_what_grows_faster_than_its_size_is_found(power: float, met: bool) -> None:
    """Below the size from which it is fitted a constant second hides everything."""
    sizes = (10, 100, 1000, 10_000)
    points = [Point(size, 1e-4 * size**power + (10.0 if size < 100 else 0.0), 8 * size) for size in sizes]
    assert (
        "8 bytes"
        in checks_of("nothing", axis(sizes, 100), [replace(p, peak_bytes=p.peak_bytes + 99) for p in points])[1].note
    )
    time, memory = checks_of("nothing", axis(sizes, 100), points)
    assert time.value == pytest.approx(power, abs=1e-3) and time.met is met
    assert memory.value == pytest.approx(1.0, abs=1e-3) and memory.details["per_unit"] == "8 bytes"


def test_one_steep_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (100, 1000, 10_000)
    points = [Point(100, 1.0, 1), Point(1000, 2.0, 1), Point(10_000, 200.0, 1)]
    time, _ = checks_of("nothing", axis(sizes, 100), points)
    assert time.details["steepest"] == pytest.approx(2.0)


@LINUX
def test_the_peak_is_of_the_work_and_not_of_its_preparation() -> None:
    """In a process of its own; 64 MB are written in the work, 256 MB before it."""
    code = """
import torch
from benchmarks import scale, scale_axes
def prepare(size):
    torch.ones(256 << 18)
    return lambda: torch.ones(size << 18).sum()
scale_axes.AXES = scale.AXES = {"memory": scale_axes.Axis("", (64,), prepare, 1)}
print(scale.here("memory", 64).peak_bytes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 60 << 20 < int(done.stdout) < 90 << 20


@LINUX
@pytest.mark.parametrize("name", ["steps", "views", "samples"])
def test_an_axis_can_be_measured(name: str) -> None:
    assert {point.size for point in [here(name, min(scale_axes.AXES[name].sizes))]} == {scale_axes.AXES[name].sizes[0]}
    assert scale.AXES[name].from_size in scale.AXES[name].sizes


def test_the_plot_is_a_picture_with_its_points() -> None:
    """Two decades each way: the middle point lies in the middle, and proportional cost on its line."""
    drawn = svg([Plot("a <b>", "size", "cost", [(1.0, 1.0), (10.0, 10.0), (100.0, 100.0)])])
    tree = ElementTree.fromstring(drawn)
    name = "{http://www.w3.org/2000/svg}"
    points = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in tree.iter(f"{name}circle")]
    assert points[1] == pytest.approx([(a + b) / 2 for a, b in zip(points[0], points[2], strict=True)], abs=0.11)
    assert points[0][0] < points[1][0] and points[0][1] > points[1][1]
    assert "a <b>" in "".join(tree.itertext())
