# SPDX-License-Identifier: Apache-2.0
"""What is imported is declared, and what is declared is imported: nothing works by what another package brought."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
OURS = ("dreamlab", "systems", "renderers", "guidance", "cuda_ext", "configs", "benchmarks")
NAMES = {  # of a package, where it is another than that of what it brings
    "PIL": "pillow",
    "yaml": "pyyaml",
    "skimage": "scikit-image",
    "open3d": "open3d-cpu",
    "pxr": "usd-core",
}
# Never asked of a user by name: torch's CUDA wheels bring the first, the others are in no registry.
ELSEWHERE = {"nvidia", "nvdiffrast", "tinycudann"}
# Run by hand from a checkout, beside the tests; and by Blender, with what Blender has.
OF_TESTS = {"benchmarks/mutants.py", "benchmarks/browser.py"}
IN_BLENDER = {"bpy", "mathutils", "blender_look"}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def declared(*lists: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for each in lists for text in each}


@functools.cache
def imported(*folders: str) -> dict[str, str]:
    """Distribution -> a file and line that imports from it."""
    found: dict[str, str] = {}
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        where = str(path.relative_to(ROOT))
        if where in OF_TESTS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for top in {name.partition(".")[0] for name in names}:
                if top not in {*sys.stdlib_module_names, *OURS, *ELSEWHERE, *IN_BLENDER, "tests"}:
                    found.setdefault(canonicalize_name(NAMES.get(top, top)), f"{where}:{node.lineno}")
    return found


CORE = declared(PROJECT["project"]["dependencies"])
EXTRAS = declared(*PROJECT["project"]["optional-dependencies"].values())


def test_every_import_is_declared() -> None:
    missing = {name: where for name, where in imported(*OURS).items() if name not in CORE | EXTRAS}
    assert not missing, f"imported and not declared: {missing}"


def test_nothing_is_declared_that_no_code_reads() -> None:
    assert CORE - imported(*OURS).keys() == set()
    assert EXTRAS - imported(*OURS).keys() == set()


def test_what_the_core_imports_at_once_is_no_extra() -> None:
    """An extra is imported inside a function that says what to install."""
    for path in sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tops = {canonicalize_name(NAMES.get(top, top)) for top in (name.partition(".")[0] for name in names)}
            assert not tops & (EXTRAS - CORE), f"{path}:{node.lineno}"


def test_the_tests_have_what_they_import() -> None:
    group = [text for text in PROJECT["dependency-groups"]["test"] if isinstance(text, str)]
    judges = set(re.findall(r"importorskip\(\"(\w+)", " ".join(p.read_text() for p in (ROOT / "tests").rglob("*.py"))))
    asked = {canonicalize_name(NAMES.get(name, name)) for name in judges}
    missing = imported("tests").keys() - CORE - declared(group) - asked
    assert not missing


def test_pins_are_of_what_is_declared_or_beneath_it() -> None:
    pins = declared([line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"])
    groups = [text for texts in PROJECT["dependency-groups"].values() for text in texts if isinstance(text, str)]
    assert not CORE - pins, f"without a known version: {CORE - pins}"
    assert pins <= CORE | EXTRAS | declared(groups) | {"tokenizers", "huggingface-hub"}
