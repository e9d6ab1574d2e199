# SPDX-License-Identifier: Apache-2.0
"""The frame: cache, two builders at once, no compiler, choice of backend."""

import contextlib
import ctypes
import os
import re
import subprocess
import sys
import types
import warnings

import pytest
import torch

from cuda_ext import backend, build, nvrtc
from dreamlab.core.errors import RecipeError

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
    with pytest.raises(RecipeError, match=r"DREAMLAB_ISA=mmx is not one of avx512, avx2, portable; unset it"):
        build.machine_isa()
    command = [sys.executable, "-m", "cuda_ext.build", "adam"]
    answer = subprocess.run(command, env={**os.environ, "DREAMLAB_ISA": "mmx"}, capture_output=True, text=True)
    assert answer.returncode == 2 and "Traceback" not in answer.stderr and "DREAMLAB_ISA=mmx" in answer.stderr


PLANT = """
static void __attribute__((constructor)) spring() { __builtin_trap(); }
"""


def plant(folder, path, mode):
    """A library that kills the process that loads it, where the genuine one was."""
    source = folder / "plant.c"
    source.write_text(PLANT)
    path.unlink()
    subprocess.run([build.compiler()[0], "-x", "c", "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    path.chmod(mode)


@needs_compiler
@pytest.mark.parametrize("file_mode, folder_mode", [(0o775, 0o700), (0o757, 0o700), (0o700, 0o770), (0o700, 0o707)])
def test_what_others_can_write_is_never_loaded(file_mode, folder_mode, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMLAB_CACHE", str(tmp_path))
    genuine = build.build("adam", "portable")
    plant(tmp_path, genuine, file_mode)
    genuine.parent.chmod(folder_mode)
    build._private_folder.cache_clear()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        again = build.build("adam", "portable")
        assert build.build("adam", "portable") == again
    assert not again.is_relative_to(tmp_path) and ctypes.CDLL(str(again)).dl_adam
    (said,) = {str(w.message) for w in seen}
    assert "can be written by others (chmod go-w)" in said and "DREAMLAB_CACHE" in said and "\n" not in said


@needs_compiler
def test_what_belongs_to_another_user_is_never_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMLAB_CACHE", str(tmp_path))
    genuine = build.build("adam", "portable")
    plant(tmp_path, genuine, 0o700)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    build._private_folder.cache_clear()
    with pytest.warns(UserWarning, match="belongs to another user: native code is rebuilt"):
        folder = build.cache_folder()
    assert not folder.is_relative_to(tmp_path)
    monkeypatch.undo()
    if owner:
        return  # only root can give a file away
    monkeypatch.setenv("DREAMLAB_CACHE", str(tmp_path))
    os.chown(genuine, 12345, -1)
    with pytest.warns(UserWarning, match="belongs to another user"):
        again = build.build("adam", "portable")
    assert ctypes.CDLL(str(again)).dl_adam


@needs_compiler
def test_a_generous_umask_does_not_spoil_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMLAB_CACHE", str(tmp_path / "new"))
    before = os.umask(0)
    try:
        first = build.build("adam", "portable")
    finally:
        os.umask(before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build.build("adam", "portable") == first
    assert first.is_relative_to(tmp_path)


@needs_compiler
def test_a_host_compiler_that_fails_leaves_the_twin_and_one_line(tmp_path):
    broken = tmp_path / "cxx"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && { echo broken 1.0; exit 0; }\necho no good >&2; exit 1\n')
    broken.chmod(0o755)
    code = (
        "import torch, warnings\n"
        "from cuda_ext.adam import adam\n"
        "x, z = torch.ones(3, 2), lambda: torch.zeros(3, 2)\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    adam(x, torch.ones(3, 2), z(), z(), torch.zeros((), dtype=torch.int64), lr=0.1)\n"
        "assert len(seen) == 1 and 'its torch twin runs instead' in str(seen[0].message)\n"
        "assert (x - 0.9).abs().max() < 1e-6\n"
    )
    env = {**os.environ, "DREAMLAB_CACHE": str(tmp_path), "CXX": str(broken)}
    answer = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


@pytest.fixture
def cuda_device(monkeypatch):
    """torch says that there is a device of an architecture nobody knows."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (99, 9))
    nvrtc._failure.cache_clear()
    yield
    nvrtc._failure.cache_clear()


class NoCompiler:
    """What NVRTC answers to an architecture it does not know: error 5, and why in the log."""

    def __init__(self, version=(13, 0)):
        self.version, self.nvrtcGetErrorString = version, lambda code: b"NVRTC_ERROR_INVALID_OPTION"

    def nvrtcVersion(self, major, minor):
        major._obj.value, minor._obj.value = self.version

    def nvrtcGetNumSupportedArchs(self, count):
        count._obj.value = 2

    def nvrtcGetSupportedArchs(self, known):
        known[:] = [80, 90]

    def nvrtcGetProgramLogSize(self, program, size):
        size._obj.value = 100

    def nvrtcGetProgramLog(self, program, buffer):
        buffer.value = b"\nnvrtc: error: invalid value for --gpu-architecture (-arch)\n"

    def nvrtcCreateProgram(self, *_):
        return 0

    def nvrtcCompileProgram(self, *_):
        return 5

    def nvrtcDestroyProgram(self, *_):
        return 0


@pytest.mark.parametrize("library", [None, "fails"])
def test_without_kernels_for_this_gpu_auto_takes_the_twin(library, cuda_device, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(nvrtc, "compiler_library", lambda: NoCompiler() if library else None)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        reasons = {backend.unavailable("adam", torch.float32, "cuda", index) for index in (0, None)}
    (said,), (reason,) = [str(w.message) for w in seen], reasons
    expected = "adam_cuda.cu for compute_90: NVRTC_ERROR_INVALID_OPTION nvrtc: error: invalid value"
    assert (expected if library else "libnvrtc was not found") in reason
    assert reason in said and "torch twin" in said and "\n" not in said


@pytest.mark.parametrize(
    ("capability", "compiled"), [((9, 0), "sm_90"), ((8, 9), "compute_80"), ((12, 0), "compute_90")]
)
def test_a_gpu_this_compiler_does_not_know_gets_ptx_of_the_newest_older_one(capability, compiled):
    assert nvrtc.target(NoCompiler(), capability) == compiled
    with pytest.raises(RuntimeError, match=r"nvrtc 13.0 knows sm_80 and newer, the GPU is sm_75; install an older"):
        nvrtc.target(NoCompiler(), (7, 5))


@pytest.mark.skipif(nvrtc.compiler_library() is None, reason="needs libnvrtc (pip install nvidia-cuda-nvrtc)")
def test_the_driver_is_handed_ptx_for_an_unknown_gpu_and_its_answer_is_one_line(cuda_device, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMLAB_CACHE", str(tmp_path))
    handed = []

    class Driver:
        """Refuses what it is handed."""

        def cuModuleLoadData(self, module, code):
            handed.append(code)
            return 222

        def cuGetErrorString(self, code, text):
            text._obj.value = b"the provided PTX was compiled with an unsupported toolchain."

        def cuDriverGetVersion(self, version):
            version._obj.value = 12040

    monkeypatch.setattr(nvrtc, "driver", Driver)
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: types.SimpleNamespace(synchronize=lambda: None))
    with pytest.warns(UserWarning, match="torch twin"):
        reason = nvrtc.unavailable("adam", 0)
    assert "unsupported toolchain. (adam, nvrtc 13" in reason and "driver for CUDA 12.4)" in reason
    (text,) = {code.rstrip(b"\0").decode() for code in handed}
    newest = re.search(r"^\.target sm_(\d+)$", text, re.M)
    assert newest and int(newest[1]) >= 90 and ".entry dl_adam_groups" in text
    assert handed[0].endswith(b"\0")  # how the driver tells its end


def test_a_cubin_of_another_compiler_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMLAB_CACHE", str(tmp_path))
    versions = iter([(12, 8), (12, 9), (12, 8)])
    monkeypatch.setattr(nvrtc, "compiler_library", lambda: NoCompiler(next(versions)))
    monkeypatch.setattr(nvrtc, "_compile", lambda lib, *_: b"compiled by %d.%d" % lib.version)
    cubins = [nvrtc.compile_cubin("adam", "sm_80") for _ in range(3)]
    assert cubins == [b"compiled by 12.8", b"compiled by 12.9", b"compiled by 12.8"]
    assert len(list((tmp_path / "native").iterdir())) == 2


def test_a_cubin_that_others_can_write_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(nvrtc, "compiler_library", NoCompiler)
    monkeypatch.setattr(nvrtc, "_compile", lambda *_: b"genuine")
    assert nvrtc.compile_cubin("adam", "sm_80") == b"genuine"
    (planted,) = (tmp_path / "native").iterdir()
    planted.write_bytes(b"planted")
    planted.chmod(0o666)
    with pytest.warns(UserWarning, match="can be written by others"):
        assert nvrtc.compile_cubin("adam", "sm_80") == b"genuine"


def test_backends():
    like = torch.zeros(1)
    assert backend.choose("splat", "torch", like) == "torch"
    assert backend.choose("splat", "auto", like.double()) == "torch"
    with pytest.raises(ValueError, match="float32"):
        backend.choose("splat", "native", like.double())
    with pytest.raises(ValueError, match=r"gsplat.*(not installed|CUDA only)"):
        backend.choose("splat", "gsplat", like)
    with pytest.raises(ValueError, match="nerfacc"):
        backend.choose("splat", "nerfacc", like)
