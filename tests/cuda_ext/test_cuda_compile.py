# SPDX-License-Identifier: Apache-2.0
"""Every CUDA file compiles with nvcc and with NVRTC for both architectures, without spilling a register."""

import re
import shutil
import subprocess

import pytest

from cuda_ext import build, nvrtc

KERNELS = sorted(path.name.removesuffix("_cuda.cu") for path in build.SOURCES.glob("*_cuda.cu"))
ARCHITECTURES = ("sm_80", "sm_90")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc on PATH")
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("op", KERNELS)
def test_nvcc_compiles_without_spills(op, arch, tmp_path):
    source = build.SOURCES / f"{op}_cuda.cu"
    command = [
        "nvcc",
        "-std=c++17",
        "-cubin",
        f"-arch={arch}",
        "-Xptxas",
        "-v",
        "-o",
        str(tmp_path / "x.cubin"),
        str(source),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr[:2000]
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", answer.stderr)
    assert spills and not any(int(n) for n in spills), answer.stderr[:2000]
    assert "warning" not in answer.stderr


@pytest.mark.skipif(nvrtc.compiler_library() is None, reason="needs libnvrtc (pip install nvidia-cuda-nvrtc)")
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("op", KERNELS)
def test_nvrtc_compiles_and_caches(op, arch, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMLAB_CACHE", str(tmp_path))
    cubin = nvrtc.compile_cubin(op, arch)
    assert cubin[:4] == b"\x7fELF"
    pattern = r'extern "C" __global__ void\s*(?:__launch_bounds__\([^)]*\)\s*)?(\w+)'
    kernels = re.findall(pattern, (build.SOURCES / f"{op}_cuda.cu").read_text())
    assert kernels and all(name.encode() in cubin for name in kernels)
    (cached,) = (tmp_path / "native").iterdir()
    assert cached.read_bytes() == cubin == nvrtc.compile_cubin(op, arch)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc on PATH")
@pytest.mark.parametrize(("arch", "vectors"), [("sm_80", 0), ("sm_90", 8)])
def test_a_row_of_the_hash_table_is_added_to_at_once_where_the_device_can(arch, vectors, tmp_path):
    source, out = build.SOURCES / "hashgrid_cuda.cu", tmp_path / "x.ptx"
    command = ["nvcc", "-std=c++17", "-ptx", f"-arch={arch}", "-o", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    for row in ("v2.f32", "v4.f32"):
        found = out.read_text().count(f"red.global.add.{row}")
        assert found >= vectors if vectors else found == 0
