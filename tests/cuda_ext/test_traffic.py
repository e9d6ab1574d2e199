# SPDX-License-Identifier: Apache-2.0
"""The bytes of benchmarks/model.py against what the kernels do: they run on the host, and every load and store of the
device's memory is counted by tests/cuda_traffic.h."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable

import pytest

from benchmarks import model_ops, model_surface
from benchmarks.model import SECTOR, Job, Kernel, Machine, checks_of
from tests.cuda_on_host import Traffic, traffic
from tests.second_device import memory, second_device

JOBS: dict[str, Callable[[str], Job]] = {
    "splat": lambda device: model_ops.splat_job(200, 45, device),
    "hashgrid": lambda device: model_ops.hashgrid_job(150, device, 12),
    "march": lambda device: model_ops.march_job(12, device),
    "adam": lambda device: model_ops.adam_job(900, device, (3, 4, 1)),
    "volume": lambda device: model_ops.volume_job(2, device, 30),
    "surface": lambda device: model_surface.surface_job(300, 40, 160, device),
}
AT_MOST = ("dl_march_mark",)  # an upper bound: rays do not ask for every cell
# A lower bound: silhouettes, which depend on the mesh, ask for a few numbers more.
AT_LEAST = ("dl_antialias_silhouettes", "dl_antialias_blend", "dl_antialias_blend_backward")
PER_REQUEST = 4  # rounds that a warp's request for 16 bytes a lane takes at least


@functools.cache
def watched(name: str) -> tuple[Job, Traffic]:
    with second_device():
        job = JOBS[name]("cuda")
        with traffic(memory) as seen:
            job.run()
    return job, seen


@pytest.mark.parametrize("name", JOBS)
def test_the_model_s_bytes_are_those_that_kernels_move(name: str) -> None:
    job, seen = watched(name)
    modelled = {kernel.name: kernel for kernel in job.kernels if not kernel.name.startswith("torch")}
    launched = Counter(kernel for kernel, _ in seen.launches)
    assert launched == {kernel: model.launches for kernel, model in modelled.items()}
    assert list(launched) == list(modelled)
    for kernel, model in modelled.items():
        fresh = [sum(counts.fresh[what] for name, counts in seen.launches if name == kernel) for what in range(3)]
        for what, (expected, found) in enumerate(zip((model.read, model.written, model.added), fresh, strict=True)):
            slack = 0.025 * expected + 16 * SECTOR * model.launches
            if what != 1 and kernel in AT_LEAST:
                slack += 0.5 * expected if what == 0 else found
            assert found <= expected + slack, (kernel, what, fresh, model)
            assert found >= expected - slack or kernel in AT_MOST, (kernel, what, fresh, model)


def test_scattered_reads_and_adds_are_what_the_model_says() -> None:
    for name, kernels in (
        ("hashgrid", ("dl_hashgrid_encode", "dl_hashgrid_table_gradient")),
        ("volume", ("dl_volume",)),
    ):
        job, seen = watched(name)
        for kernel in kernels:
            (model,) = (k for k in job.kernels if k.name == kernel)
            assert 0.8 < seen.of(kernel).moved("sectors") / model.sectors < 1.3, kernel


def test_records_come_to_shared_memory_without_bank_conflicts() -> None:
    for kernel in ("dl_splat_forward", "dl_splat_gather"):
        counts = watched("splat")[1].of(kernel)
        assert 0 < counts.rounds <= 2 * PER_REQUEST * counts.shared
    assert (
        watched("splat")[1].of("dl_splat_forward").rounds
        <= PER_REQUEST * watched("splat")[1].of("dl_splat_forward").shared
    )


def test_a_warp_adds_a_cell_s_channels_at_once_and_a_lane_a_row_of_the_table() -> None:
    volume = watched("volume")[1].of("dl_volume_backward")
    assert volume.bytes[2] > 60 * volume.requests[2]  # 20 channels of 4 bytes, at least 15 of them
    assert volume.sectors[2] <= 4 * volume.requests[2]


def test_a_second_of_memory_is_a_second_and_launches_bound_what_is_small() -> None:
    machine = Machine()
    assert Kernel("x", read=machine.memory).seconds(machine) == pytest.approx(1)
    assert Kernel("x", added=machine.memory).seconds(machine) == pytest.approx(2)  # read and written
    assert Kernel("x", read=1, sectors=3 * machine.cache, flops=machine.flops).seconds(machine) == pytest.approx(3)
    job = model_ops.adam_job(50, "cpu", (3,))
    total, *rows = checks_of(job, machine, "cpu")
    assert total.value == pytest.approx(1e6 * 3 * machine.launch) and len(rows) == len(job.kernels)
    seconds = 1e-6 * float(str(total.details["measured_us"]))
    assert total.details["model_share"] == pytest.approx(3 * machine.launch / seconds)
    assert "launches" in total.note and "measured" in total.note
    assert "measured_us" not in checks_of(job, machine, None)[0].details
