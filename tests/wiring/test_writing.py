# SPDX-License-Identifier: Apache-2.0
"""Writes that survive a power cut: what is renamed was flushed before, and the folder is flushed after.

A recorder stands where the system calls are made and writes down, in order, which file is flushed, renamed or removed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dreamlab.core import files
from dreamlab.run import checkpoint
from dreamlab.run.folder import Run

Call = tuple[str, str]


class Recorder:
    """fsync, rename, replace, unlink and rmdir with the names they were made on."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def flushed_before_renamed(self, folder: Path) -> None:
        """Every rename into `folder` follows a flush of what it moves, and a flush of the folder follows it."""
        for i, (kind, what) in enumerate(self.calls):
            if kind != "rename" or Path(what).parent != folder:
                continue
            moved = what
            flushed = [name for call, name in self.calls[:i] if call == "fsync"]
            assert any(name == self.sources[i] for name in flushed), f"{moved}: renamed without a flush: {self.calls}"
            assert ("fsync", str(folder)) in self.calls[i:], f"{folder}: not flushed after {moved}: {self.calls}"

    @property
    def sources(self) -> dict[int, str]:
        return self._sources

    _sources: dict[int, str]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    made = Recorder()
    made._sources = {}
    real = {name: getattr(os, name) for name in ("fsync", "rename", "replace", "unlink", "rmdir")}

    def fsync(handle: int) -> None:
        made.calls.append(("fsync", str(Path(f"/proc/self/fd/{handle}").readlink())))
        real["fsync"](handle)

    def moving(name: str) -> object:
        def move(source: object, target: object, **more: object) -> None:
            made.calls.append(("rename", str(target)))
            made._sources[len(made.calls) - 1] = str(source)
            real[name](source, target, **more)

        return move

    def removing(name: str) -> object:
        def remove(path: object, **more: object) -> None:
            made.calls.append(("remove", str(path)))
            real[name](path, **more)

        return remove

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, moving(name))
    for name in ("unlink", "rmdir"):
        monkeypatch.setattr(os, name, removing(name))
    yield made


def test_a_file_is_flushed_then_renamed_then_its_folder_is_flushed(tmp_path: Path, recorder: Recorder) -> None:
    files.write_atomic(tmp_path / "state.json", b"new")
    assert [kind for kind, _ in recorder.calls] == ["fsync", "rename", "fsync"]
    (_, first), (_, target), (_, last) = recorder.calls
    assert first == recorder.sources[1] != target == str(tmp_path / "state.json") and last == str(tmp_path)
    assert Path(first).parent == tmp_path, "a rename is atomic within one folder only"
    assert (tmp_path / "state.json").read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    (tmp_path / "state.json").write_bytes(b"old")

    def refuse(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, at, refuse)
    with pytest.raises(OSError, match="No space"):
        files.write_atomic(tmp_path / "state.json", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def parts(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"scene": {"x": torch.full((50,), value)}, "streams": {"noise": torch.arange(9, dtype=torch.uint8)}}


def test_a_checkpoint_is_flushed_whole_before_it_gets_its_name(tmp_path: Path, recorder: Recorder) -> None:
    """Every file of it and its folder, then the rename, then the folder around; only then older ones go."""
    folder = tmp_path / "ckpt"
    for step in (1, 2):
        recorder.calls.clear()
        recorder.sources.clear()
        final = checkpoint.write(folder, step, parts(1.0), {"step": step}, 1)
    renamed = recorder.calls.index(("rename", str(final)))
    temporary = recorder.sources[renamed]
    flushed = [name for kind, name in recorder.calls[:renamed] if kind == "fsync"]
    inside = {f"{temporary}/{path.name}" for path in final.iterdir()}
    assert inside == {f"{temporary}/{name}" for name in ("scene.safetensors", "streams.safetensors", "meta.json",
                                                         "MANIFEST")}  # fmt: skip
    assert inside <= set(flushed) and flushed[-1] == temporary and flushed[-2] == f"{temporary}/MANIFEST"
    after = recorder.calls[renamed + 1 :]
    around = after.index(("fsync", str(folder)))
    removed = [i for i, (kind, name) in enumerate(after) if kind == "remove" and "step_000001" in name]
    assert removed and min(removed) > around, "the old one is dropped when the new one is safe"
    assert not [name for kind, name in recorder.calls[:renamed] if kind == "remove"]


def test_everything_a_new_run_writes_is_safe_when_create_returns(tmp_path: Path, recorder: Recorder) -> None:
    run = Run.create(tmp_path, "prompt: x\n", "a red ball", [], {"image.png": b"picture"})
    names = {Path(name).name for kind, name in recorder.calls if kind == "rename"}
    assert names == {"recipe.yaml", "spec.json", "state.json", "image.png"}
    recorder.flushed_before_renamed(run.path)
    recorder.calls.clear()
    recorder.sources.clear()
    run.set_state(step=3)
    recorder.flushed_before_renamed(run.path)
    assert run.state()["step"] == 3 and run.state()["state"] == "created"
