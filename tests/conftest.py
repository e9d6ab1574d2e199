# SPDX-License-Identifier: Apache-2.0
"""Shared by all tests: fixed threads, a recipe that takes a second, and a way to run commands in killable processes."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from hypothesis import settings

settings.register_profile("ci", deadline=None, max_examples=60, derandomize=True)
settings.register_profile("dev", deadline=None, max_examples=25)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

TINY = """
prompt: a red mushroom with a white stem
stages:
  - name: shape
    scene: {kind: gaussians, count: 48, radius: 0.5}
    terms:
      - guidance: {kind: oracle, others: 1}
        system: {kind: sds, cfg: 1.5}
    steps: 8
    views: 2
    size: 12
  - name: finer
    scene: {kind: gaussians, from: shape, lr_means: 0.002}
    terms:
      - {guidance: {kind: oracle, others: 0}, system: {kind: sds, cfg: 1, t_max: {from: 0.5, to: 0.2}}}
    steps: 4
    views: 2
    size: 16
export: {resolution: 24, texture: 0, fit: false, turntable: 3, size: 32}
keeping: {checkpoint: 3, keep: 2, preview: 6, log: 2}
"""


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch and native code run on so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture
def two_threads() -> Iterator[None]:
    with threads(2):
        yield


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A two-stage recipe of twelve steps."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int  # negative: the signal that killed it
    out: str
    err: str


def _command(arguments: list[str], environment: dict[str, str], folder: str, out: str, err: str) -> None:
    """Runs in a child of the fork server: a process of its own, with the imports already paid for."""
    os.environ.update(environment)
    os.chdir(folder)
    with Path(out).open("w") as stdout, Path(err).open("w", errors="backslashreplace") as stderr:
        # The descriptors too: what a signal handler or a library prints must land in the files.
        os.dup2(stdout.fileno(), 1)
        os.dup2(stderr.fileno(), 2)
        sys.stdout, sys.stderr = io.TextIOWrapper(os.fdopen(1, "wb", 0), write_through=True), stderr
        sys.argv = ["dreamlab", *arguments]
        import torch

        from dreamlab.cli import main

        # A run keeps its thread count; one is what two busy cores give anyway.
        torch.set_num_threads(int(environment.get("TEST_THREADS", "1")))
        with contextlib.suppress(BrokenPipeError):
            main(arguments)


class Commands:
    """Starts `dreamlab` commands in processes that can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["dreamlab.cli", "dreamlab.pipeline", "trimesh", "skimage.measure"])

    def start(self, *arguments: str, **environment: str) -> tuple[multiprocessing.process.BaseProcess, Path, Path]:
        self.count += 1
        out, err = self.folder / f"out{self.count}.txt", self.folder / f"err{self.count}.txt"
        process = self.context.Process(
            target=_command, args=(list(arguments), environment, str(self.folder), str(out), str(err))
        )
        process.start()
        return process, out, err

    def __call__(self, *arguments: str, **environment: str) -> Finished:
        process, out, err = self.start(*arguments, **environment)
        process.join(240)
        assert process.exitcode is not None, "the command hangs"
        return Finished(process.exitcode, out.read_text(), err.read_text())


@pytest.fixture
def dreamlab(tmp_path: Path) -> Commands:
    """`dreamlab("dream", ...)` runs a command in its own process and returns how it ended."""
    return Commands(tmp_path)


@pytest.fixture
def finished_run(dreamlab: Commands, tiny: Path) -> Path:
    """The folder of a run that went through undisturbed."""
    ended = dreamlab("dream", "a red mushroom with a white stem", "--recipe", str(tiny))
    assert ended.code == 0, ended.err
    return dreamlab.folder / ended.out.splitlines()[-1]


def artefacts(run: Path) -> dict[str, bytes]:
    """What must be equal byte for byte between two runs of one recipe: assets and the last checkpoint's tensors."""
    from dreamlab.run.checkpoint import committed

    newest = committed(run / "ckpt")[-1]
    paths = [run / "export" / "model.glb", run / "export" / "contact.png", *newest.glob("*.safetensors")]
    return {path.name: path.read_bytes() for path in paths}


Runner = Callable[..., Finished]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for clusters and the long way through the page come first: others compute meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("dist") is None and "test_journey" not in item.nodeid)
