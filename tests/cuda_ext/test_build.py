# SPDX-License-Identifier: Apache-2.0
"""The frame: cache, two builders at once, no compiler, choice of backend."""

import os
import subprocess
import sys
import warnings

import pytest
import torch

from cuda_ext import backend, build

needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="needs a C++ compiler (g++ or clang++)")


@needs_compiler
def test_cached_by_content_and_by_instruction_set(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMLAB_CACHE", str(tmp_path))
    first = build.build("adam", "portable")
    written = first.stat().st_mtime_ns
    assert first.is_relative_to(tmp_path) and build.build("adam", "portable") == first
    assert first.stat().st_mtime_ns == written
    assert build.build("adam") != first or build.machine_isa() == "portable"
    assert not list(first.parent.glob(".*"))  # nothing half-built is left


@needs_compiler
def test_two_processes_build_at_once(tmp_path):
    env = {**os.environ, "DREAMLAB_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", "from cuda_ext import build; import ctypes; ctypes.CDLL(str(build.build('adam')))"]
    running = [subprocess.Popen(command, env=env) for _ in range(2)]
    assert [p.wait(timeout=120) for p in running] == [0, 0]
    assert len(list((tmp_path / "native").iterdir())) == 1


def test_without_a_compiler_the_twin_runs_and_one_warning_says_so(tmp_path):
    code = (
        "import warnings, torch\n"
        "from cuda_ext.adam import adam\n"
        "z = lambda: torch.zeros(3, 2)\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(2):\n"
        "        adam(z(), z(), z(), z(), torch.zeros((), dtype=torch.int64), lr=0.1)\n"
        "assert len(seen) == 1 and 'install g++' in str(seen[0].message), [str(w.message) for w in seen]\n"
        "try:\n"
        "    adam(z(), z(), z(), z(), torch.zeros((), dtype=torch.int64), lr=0.1, backend='native')\n"
        "except ValueError as error:\n"
        "    assert 'no C++ compiler' in str(error) and 'torch' in str(error)\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    env = {**os.environ, "DREAMLAB_CACHE": str(tmp_path), "PATH": str(tmp_path), "CXX": ""}
    answer = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


@needs_compiler
def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("DREAMLAB_CACHE", str(blocked))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        folder = build.cache_folder()
    assert folder.is_dir() and "DREAMLAB_CACHE" in str(seen[0].message)


def test_unknown_instruction_set(monkeypatch):
    monkeypatch.setenv("DREAMLAB_ISA", "mmx")
    with pytest.raises(ValueError, match="avx512, avx2, portable"):
        build.machine_isa()


def test_backends():
    like = torch.zeros(1)
    assert backend.choose("splat", "torch", like) == "torch"
    assert backend.choose("splat", "auto", like.double()) == "torch"
    with pytest.raises(ValueError, match="float32"):
        backend.choose("splat", "native", like.double())
    with pytest.raises(ValueError, match=r"gsplat.*(not installed|CUDA only)"):
        backend.choose("splat", "gsplat", like, adapters=("gsplat",))
    with pytest.raises(ValueError, match="nerfacc"):
        backend.choose("splat", "nerfacc", like, adapters=("gsplat",))
