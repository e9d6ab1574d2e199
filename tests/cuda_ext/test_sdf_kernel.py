# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of `sdf` without a GPU: their source compiled by the host compiler and run block by block.

Thread 0 of a block runs first and alone writes shared memory, so running the threads in turn is what the barrier means.
"""

import ctypes
import subprocess

import pytest
import torch

from cuda_ext import build
from cuda_ext import sdf as op
from dreamlab.core.cameras import orbit
from dreamlab.toybox.colours import Finish
from dreamlab.toybox.draw import Light
from dreamlab.toybox.program import stack
from dreamlab.toybox.shapes import program

SHIM = """
struct Index { unsigned x, y, z; };
static Index blockIdx, threadIdx, blockDim;
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define __syncthreads()
#include "sdf_cuda.cu"

static void prepare_all(const float* rows, SdfRow* prepared, int count) {
  blockDim = {1, 1, 1}, threadIdx = {0, 0, 0};
  for (int i = 0; i < count + 1; i++) blockIdx.x = i, dl_sdf_prepare(rows, prepared, count);
}

extern "C" void points(SdfPoints* p) {
  prepare_all(p->rows, p->prepared, p->programs * p->row_count);
  for (int i = 0; i < p->programs * p->count + 1; i++) blockIdx.x = i, dl_sdf_points(*p);
}

extern "C" void emulate(SdfParams* p, unsigned blocks) {
  prepare_all(p->rows, p->prepared, p->programs * p->row_count);
  for (unsigned b = 0; b < blocks; b++)
    for (unsigned t = 0; t < 64; t++) blockIdx.x = b, threadIdx.x = t, dl_sdf_draw(*p);
}
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    found = build.compiler()
    if found is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("kernels")
    source, library = folder / "shim.cpp", folder / "shim.so"
    source.write_text(SHIM)
    command = [found[0], "-O1", "-std=c++17", "-shared", "-fPIC", f"-I{build.SOURCES}", str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize("height, width, supersample", [(20, 20, 2), (9, 21, 1), (8, 8, 3)])
def test_kernels_draw_what_the_cpu_draws(kernels, height, width, supersample):
    looks = {"ball": Finish("red", "striped", "yellow", 0.3, "glossy"), "band": Finish("blue", "spotted")}
    programs = stack([program("crown"), program("whale", seed=1), program("ball", looks), program("castle")])
    cameras, count = orbit([20.0, 160.0], 25.0), len(programs)
    pose = cameras.camera_to_world.expand(count, -1, -1, -1).contiguous()
    focal, light = cameras.focal_px(height).expand(count, -1).contiguous(), Light().packed()
    tables = [programs.rows, programs.parts, programs.bound, pose, focal]
    expected = op.draw(*tables, light, height, width, supersample, backend="native")

    drawn = op._empty(programs.rows, pose, height, width)
    prepared = torch.empty(programs.rows.shape[0] * programs.rows.shape[1] * op.PREPARED_BYTES, dtype=torch.uint8)
    params = op._params(tables, light.tolist(), drawn, prepared.data_ptr(), supersample)
    kernels.emulate(ctypes.byref(params), ctypes.c_uint(-(-width // 8) * -(-height // 8) * count * 2))

    hit = int((expected[1] > 0).sum())
    for name, ours, theirs, tolerance in zip(
        ("rgb", "alpha", "depth", "normal", "part"), drawn, expected, (4e-3, 1e-6, 4e-3, 2e-2, 0), strict=True
    ):
        wrong = ((ours - theirs).abs() > tolerance).sum()
        assert wrong <= max(1, hit // 100), f"{name}: {int(wrong)} values differ, {hit} pixels are hit"


def test_kernels_measure_what_the_cpu_measures(kernels):
    programs = stack([program("flower"), program("cat", seed=1), program("star")])
    points = 2 * torch.rand(3, 700, 3, generator=torch.Generator().manual_seed(0)) - 1
    prepared = torch.empty(programs.rows.shape[0] * programs.rows.shape[1] * op.PREPARED_BYTES, dtype=torch.uint8)
    params, (distance, part) = op._points(programs.rows, points, prepared)
    kernels.points(ctypes.byref(params))
    expected, expected_part = op.sdf(programs.rows, points, backend="native")
    torch.testing.assert_close(distance, expected, atol=3e-6, rtol=0)
    assert (part != expected_part).sum() <= 3
