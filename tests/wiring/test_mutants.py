# SPDX-License-Identifier: Apache-2.0
"""The list of planted faults stays true to the tree, and the tool that plants them tells noticed from survived."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from benchmarks.mutants import BROKEN, NOTICED, ROOT, STALE, SURVIVED, Fault, read

FAULTS = read()
AREAS = ("dreamlab/run/", "dreamlab/core/", "dreamlab/recipe/", "dreamlab/export/", "systems/engine/", "renderers/")


@cache
def named_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{Path(fault.file).stem}: {fault.why}")
def test_a_row_can_be_planted_and_names_tests_that_are_there(fault: Fault) -> None:
    assert not fault.stale(ROOT), f"{fault.stale(ROOT)}; mend or drop the row in benchmarks/faults"
    assert fault.tests and fault.why
    for test in fault.tests:
        file, _, name = test.partition("::")
        assert not name or name.split("[")[0] in named_in(file), test


def test_there_are_enough_rows_over_all_of_the_engine_and_no_two_are_one() -> None:
    assert len(FAULTS) >= 60 and len({(f.file, f.was, f.now) for f in FAULTS}) == len(FAULTS)
    for area in AREAS:
        assert sum(fault.file.startswith(area) for fault in FAULTS) >= 5, area


TOY = {
    "lib.py": "def double(x):\n    return 2 * x\n\n\ndef unseen(x):\n    return x + 1\n",
    "test_lib.py": "from lib import double, unseen\n\n\ndef test_double():\n    assert double(3) == 6\n\n\n"
    "def test_unseen():\n    unseen(3)\n",
}
LIST = """
[[fault]]
file = "lib.py"
was = 'return 2 * x'
now = 'return 3 * x'
tests = ["test_lib.py::test_double"]
why = "first"

[[fault]]
file = "lib.py"
was = 'return x + 1'
now = 'return x - 1'
tests = ["test_lib.py::test_unseen"]
why = "second"

[[fault]]
file = "lib.py"
was = 'return 2 * x'
now = 'return (2 * x'
tests = ["test_lib.py::test_double"]
why = "third"

[[fault]]
file = "lib.py"
was = 'return'
now = 'yield'
tests = ["test_lib.py::test_double"]
why = "fourth"
"""


def planting(folder: Path, *arguments: str) -> tuple[int, dict[str, str]]:
    """The tool's exit code on the toy, and its verdicts by reason."""
    command = [sys.executable, "-m", "benchmarks.mutants", "--root", str(folder / "toy"), "--jobs", "2", "--cold"]
    command += ["--faults", str(folder / "list"), "--json", str(folder / "found.json"), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    found = json.loads((folder / "found.json").read_text()) if (folder / "found.json").exists() else []
    return done.returncode, {row["fault"]["why"]: row["verdict"] for row in found}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    for folder in ("toy", "list"):
        (tmp_path / folder).mkdir()
    for name, text in TOY.items():
        (tmp_path / "toy" / name).write_text(text)
    (tmp_path / "list" / "toy.toml").write_text(LIST)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path / "toy", check=True)
    return tmp_path


def test_what_is_noticed_what_survives_and_what_says_nothing(toy: Path) -> None:
    """An import that fails is no test that fails; a text that is there twice says not which is meant."""
    code, verdicts = planting(toy)
    assert code == 1
    assert verdicts == {"first": NOTICED, "second": SURVIVED, "third": BROKEN, "fourth": STALE}
    assert {name: (toy / "toy" / name).read_text() for name in TOY} == TOY, "the tree itself is not touched"


def test_tests_that_fail_by_themselves_say_nothing(toy: Path) -> None:
    (toy / "toy" / "test_lib.py").write_text(TOY["test_lib.py"].replace("== 6", "== 7"))
    code, verdicts = planting(toy, "--only", "first")
    assert code == 1 and verdicts == {"first": BROKEN}
