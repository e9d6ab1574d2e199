# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on their own: hashes, quarantine, pruning, refused disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamlab.core.errors import DiskError, InputError
from dreamlab.run import checkpoint, crash


def parts(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"scene": {"x": torch.full((50,), value)}, "streams": {"noise": torch.arange(9, dtype=torch.uint8)}}


def write(folder: Path, step: int, keep: int = 9) -> Path:
    return checkpoint.write(folder, step, parts(float(step)), {"step": step}, keep)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    found = checkpoint.read_newest(tmp_path)
    assert found is not None and found.meta == {"step": 2}
    assert torch.equal(found.parts["scene"]["x"], torch.full((50,), 2.0))
    assert found.parts["streams"]["noise"].dtype == torch.uint8


def test_nothing_yet_is_none(tmp_path: Path) -> None:
    assert checkpoint.read_newest(tmp_path) is None
    assert checkpoint.read_newest(tmp_path / "absent") is None


def test_equal_state_gives_equal_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", 3), write(tmp_path / "b", 3)
    for name in ("scene.safetensors", "streams.safetensors", "meta.json", "MANIFEST"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_run_folder_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        write(tmp_path / "removed" / "ckpt", 1)
    assert not list(tmp_path.iterdir())


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        write(tmp_path, step, keep=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step_000004", "step_000005"]


def test_past_a_million_steps_the_newest_are_kept_and_read(tmp_path: Path) -> None:
    """Seven digits stand before six in a list of words."""
    for step in (999_998, 999_999, 1_000_000, 10_000_000):
        written = write(tmp_path, step, keep=2)
        assert written.is_dir()
    assert [path.name for path in checkpoint.committed(tmp_path)] == ["step_1000000", "step_10000000"]
    found = checkpoint.read_newest(tmp_path)
    assert found is not None and found.meta == {"step": 10_000_000}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "one bit": lambda p: flip(p / "scene.safetensors"),
    "cut short": lambda p: os.truncate(p / "scene.safetensors", 40),
    "emptied": lambda p: os.truncate(p / "scene.safetensors", 0),
    "part gone": lambda p: (p / "streams.safetensors").unlink(),
    "manifest gone": lambda p: (p / "MANIFEST").unlink(),
    "manifest broken": lambda p: (p / "MANIFEST").write_text("{"),
    "manifest without files": lambda p: (p / "MANIFEST").write_text("{}"),
    "meta changed": lambda p: (p / "meta.json").write_text(json.dumps({"step": 7})),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_set_aside_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 1)
    DAMAGE[damage](write(tmp_path, 2))
    said: list[str] = []
    found = checkpoint.read_newest(tmp_path, said.append)
    assert found is not None and found.meta == {"step": 1}
    assert (tmp_path / "step_000002.corrupt").is_dir() and "step_000002" in said[0]


def test_when_all_are_damaged_the_run_does_not_start_again_at_zero(tmp_path: Path) -> None:
    flip(write(tmp_path, 1) / "scene.safetensors")
    for _ in range(2):  # the second time only the set-aside folder is there
        with pytest.raises(InputError, match="no whole checkpoint is left"):
            checkpoint.read_newest(tmp_path)


def test_leftovers_of_a_killed_writer_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step_000009-123").mkdir(parents=True)
    write(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001"]


# A child that dies while a checkpoint takes the place of one of the same step; then whoever comes next looks.
REWRITE = """
import sys, torch
from pathlib import Path
from dreamlab.run import checkpoint
for value in (1.0, 2.0):
    checkpoint.write(Path(sys.argv[1]), 5, {"scene": {"x": torch.full((9,), value)}}, {"value": value}, 2)
"""


@pytest.mark.parametrize("point", crash.REWRITING)
def test_rewriting_a_checkpoint_never_leaves_the_run_without_one(tmp_path: Path, point: str) -> None:
    """After a roll-back a run commits steps once more: a process killed anywhere leaves the old one or the new."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "DREAMLAB_CRASH_AT": point}
    ended = subprocess.run([sys.executable, "-c", REWRITE, str(tmp_path)], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    found = checkpoint.read_newest(tmp_path)
    assert found is not None and found.meta["value"] in (1.0, 2.0)
    assert torch.equal(found.parts["scene"]["x"], torch.full((9,), found.meta["value"]))
    checkpoint.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000005"]
    write(tmp_path, 5)
    again = checkpoint.read_newest(tmp_path)
    assert again is not None and again.meta == {"step": 5}


def test_a_rewrite_that_the_disk_refuses_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 5)
    real = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self.name.startswith(".tmp-"):
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(DiskError, match="Input/output error"):
        checkpoint.write(tmp_path, 5, parts(9.0), {"step": 9}, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000005"]
    found = checkpoint.read_newest(tmp_path)
    assert found is not None and found.meta == {"step": 5}


# A child with a file-size limit (EFBIG), or on a full file system of its own (ENOSPC), writes one checkpoint too many.
FULL = """
import resource, sys, torch
from pathlib import Path
from dreamlab.run import checkpoint
from dreamlab.core.errors import DiskError
folder = Path(sys.argv[1])
checkpoint.write(folder, 1, {"scene": {"x": torch.zeros(10)}}, {}, 2)
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.write(folder, 2, {"scene": {"x": torch.zeros(1_000_000)}}, {}, 2)
except DiskError as error:
    print(error.exit_code, error)
"""


def full_disk(folder: Path, how: str, prefix: list[str]) -> str:
    command = [*prefix, sys.executable, "-c", FULL, str(folder), how]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout


def test_a_file_size_limit_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    said = full_disk(tmp_path, "limit", [])
    assert said.startswith("7 ") and "writing a checkpoint failed" in said
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001"]
    assert checkpoint.read_newest(tmp_path) is not None


def test_a_full_file_system_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """A real 1 MB file system in a mount name space of its own."""
    script = f'mount -t tmpfs -o size=1m none {tmp_path} && exec "$@" && :'
    prefix = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh"]
    probe = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"unshare --mount is not allowed here: {probe.stderr.strip()[:80]}")
    inner = ["sh", "-c", '"$@"; ls -A "$0"', str(tmp_path)]
    said = full_disk(tmp_path, "space", [*prefix, *inner])
    assert said.startswith("7 ") and "No space left" in said
    assert said.splitlines()[1:] == ["step_000001"]
