# SPDX-License-Identifier: Apache-2.0
"""`doctor` tells the truth: about kernels that were broken on purpose, and about weights with a bit turned over."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cuda_ext.packages import PACKAGES
from dreamlab.cli.doctor import WEIGHTS, packages, weights
from dreamlab.cli.inspection import listing
from dreamlab.cli.trial import TRIALS
from dreamlab.core import digests
from dreamlab.core.errors import ModelError
from dreamlab.metrics.judge_net import load as load_judge
from guidance.toybox.reader import FILE as READER
from guidance.toybox.reader import load as load_reader

ROOT = Path(__file__).parents[2]


def turn_a_bit(path: Path) -> None:
    """Of the last number of a file, which still is a number after it."""
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def shipped(tmp_path: Path) -> list[Path]:
    """Copies of the weights that come with the package."""
    return [shutil.copytree(folder, tmp_path / f"weights{i}") for i, folder in enumerate(WEIGHTS)]


def test_shipped_weights_are_as_they_were_shipped() -> None:
    assert all(line.startswith("ok ") for line in weights(WEIGHTS)) and len(weights(WEIGHTS)) == 2
    for folder in WEIGHTS:
        assert json.loads((folder / digests.FILE).read_text()).keys() == digests.held(folder).keys() != set()


@pytest.mark.parametrize(
    ("name", "harm", "words"),
    [
        ("toybox-reader/reader.safetensors", turn_a_bit, "is damaged"),
        ("toybox/model.safetensors", turn_a_bit, "is damaged"),
        ("toybox-video/vocab.json", Path.unlink, "is missing"),
        ("digests.json", Path.unlink, "is missing or damaged"),
        ("digests.json", lambda path: path.write_text("[3]"), "is missing or damaged"),
    ],
)
def test_damage_of_weights_is_seen(name: str, harm: Callable[[Path], None], words: str, shipped: list[Path]) -> None:
    harm(shipped[0] / name)
    lines = weights(shipped)
    assert lines[0].startswith(f"fix   weights: {shipped[0] / name} {words}; install dreamlab again")
    assert [line.split()[0] for line in lines] == ["fix", "ok"]


def test_damaged_weights_are_not_read(shipped: list[Path]) -> None:
    reader, judge = shipped[0] / "toybox-reader" / READER, shipped[1] / "judge.safetensors"
    load_reader(reader), load_judge(judge)
    for path, load in ((reader, load_reader), (judge, load_judge)):
        turn_a_bit(path)
        with pytest.raises(ModelError, match=f"{path.name}: its SHA-256 is not the one in"):
            load(path)
    shutil.copy(reader, shipped[0].parent / READER)  # a user's own, of which nobody knows what it should be
    load_reader(shipped[0].parent / READER)


def test_packages_are_named_with_their_licence_and_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed or not: each in one line, its licence in it once."""
    for found in (None, object()):
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name, found=found: found)
            lines = packages()
        assert [line.split()[0] for line in lines] == (["note"] if found is None else ["ok"]) * 4
        for line, (name, package) in zip(lines, PACKAGES.items(), strict=True):
            assert line.count(package.licence) == 1 and f"`backend: {name}` of " in line
    assert lines[0].endswith("of gaussians, gaussians4d") and "non-commercial" in lines[1]
    assert "; backend: ours or nvdiffrast, tinycudann]" in next(x for x in listing("scenes") if x.startswith("dmtet"))


def test_every_op_is_tried() -> None:
    from cuda_ext.build import operations

    assert set(operations()) - {"splat_scalar"} == TRIALS.keys()  # that one is the baseline of a bench


def test_kernels_that_fail_are_told_from_those_that_do_not(tmp_path: Path) -> None:
    """Broken in a copy of the tree: one computes something else, one takes its process along, one is as it was."""
    for folder in ("dreamlab", "cuda_ext", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    for name, old, new in (
        ("adam.h", "m = m + p.decay1 * (g - m);", "m = m + p.decay2 * (g - m);"),
        ("volume_cpu.cpp", "float* out, int threads) {", "float* out, int threads) {\n  __builtin_trap();"),
    ):  # fmt: skip
        path = tmp_path / "cuda_ext" / "csrc" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
    code = "import json\nfrom dreamlab.cli.doctor import tried\n"
    code += "print(json.dumps(tried(['adam', 'volume', 'texture'], 'cpu')))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "DREAMLAB_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["adam"].startswith("differs from its torch twin by up to")
    assert said["volume"] == "ends its process (exit code -4)" and said["texture"] == ""


def test_what_was_well_and_is_unchanged_is_not_tried_again(tmp_path: Path) -> None:
    from dreamlab.cli.trials import remembered

    asked: list[str] = []

    def find(line: str = "ok    native adam") -> list[str]:
        asked.append(line)
        return [line, "note  CUDA: none"]

    library = tmp_path / "adam.so"
    library.write_bytes(b"one")
    first = remembered(tmp_path, find, False)
    assert remembered(tmp_path, find, False)[:-1] == first and len(asked) == 1
    assert remembered(tmp_path, find, True) == first and len(asked) == 2
    library.write_bytes(b"two")
    assert remembered(tmp_path, find, False) == first and len(asked) == 3
    library.write_bytes(b"three")
    for _ in range(2):  # what is to be mended is said until it is
        assert remembered(tmp_path, lambda: find("fix   native adam"), False)[0].startswith("fix")
    assert len(asked) == 5
    (tmp_path / "tried.json").write_text("{")
    assert remembered(tmp_path, find, False) == first and len(asked) == 6
