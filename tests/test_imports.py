# SPDX-License-Identifier: Apache-2.0
"""Guards of the house: imports go down, nothing heavy is imported at module level, files stay small."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("dreamlab", "systems", "renderers", "guidance", "cuda_ext", "benchmarks", "configs")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

# A line a folder, from the ground up; the longest matching prefix decides. docs/architecture.md says what lies where.
FLOORS = {
    name: floor
    for floor, names in enumerate(
        [
            ("dreamlab", "dreamlab.core", "configs"),  # the bare package is its version
            # The world and its drawing; training and scoring are far above. The hub: which models there are, and where.
            ("cuda_ext", "dreamlab.toybox", "dreamlab.hub"),
            ("renderers.gaussian", "renderers.field", "renderers.surface", "renderers.light"),
            ("systems.engine", "guidance.shared", "guidance.layouts", "renderers.become"),
            ("systems", "guidance.toybox", "guidance.latent"),
            ("renderers", "guidance"),
            ("dreamlab.recipe",),
            ("dreamlab.run",),
            ("dreamlab.export", "dreamlab.toybox.training"),
            ("dreamlab.metrics", "dreamlab.intake"),
            ("dreamlab.pipeline", "dreamlab.preflight", "dreamlab.imagined"),
            ("dreamlab.toybox.scoring", "dreamlab.jobs"),
            ("benchmarks", "dreamlab.studio", "dreamlab.python"),
            ("dreamlab.cli", "dreamlab.__main__"),
        ]
    )
    for name in names
}
APART = {"systems", "guidance", "renderers"}  # none imports another: what they share is dreamlab/core
ROOMS = {"renderers.gaussian", "renderers.field", "renderers.surface", "renderers.light"}  # nor these each other
TABLES = "dreamlab.recipe.tables"  # it alone knows the three tables
ENGINE = ("systems.engine", "guidance.shared", "renderers.become", "renderers.surface", "renderers.light")  # by name
ENGINE += ("renderers.gaussian", "guidance.latent.estimators")
OPTIONAL = {"gradio", "gsplat", "nerfacc", "ray", "submitit", "pxr", "open3d", "tinycudann", "nvdiffrast"}
OPTIONAL |= {"uvunwrap", "xatlas", "starlette", "uvicorn", "fastapi", "gradio_client", "obstore"}
HEAVY = OPTIONAL | {"diffusers", "transformers", "trimesh", "skimage", "scipy", "PIL", "imageio_ffmpeg"}
HEAVY |= {"fast_simplification", "matplotlib", "mitsuba"}
BINARY = {".gif", ".png", ".webp", ".safetensors", ".mp4", ".glb", ".npz", ".gz", ".woff2"}
FORBIDDEN = {"pickle", "shelve", "marshal"}


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(name: str) -> tuple[int, str]:
    while name:
        if name in FLOORS:
            return FLOORS[name], name
        name = name.rpartition(".")[0]
    raise AssertionError("no floor: add its folder to FLOORS and to docs/architecture.md")


def imports(path: Path, module_level_only: bool = False) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        lazy = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        checking = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if module_level_only and (lazy or checking):
            skipped |= {id(child) for child in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write where it comes from"
            base = node.module or ""
            found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    mine = module_name(path)
    my_floor, my_key = floor(mine)
    for name, line in imports(path):
        top = name.split(".")[0]
        if top not in FOLDERS:
            continue
        their_floor, their_key = floor(name)
        where = f"{path.relative_to(ROOT)}:{line}: {mine} (floor {my_floor}) imports {name} (floor {their_floor})"
        assert their_floor <= my_floor, where
        if mine.split(".")[0] in APART and top in APART:
            assert mine.split(".")[0] == top, f"{where}: sideways"
        if my_key in ROOMS and their_key in ROOMS:
            assert my_key == their_key, f"{where}: from room to room"
        if my_key in ("dreamlab.recipe", "dreamlab.run") and top in APART:
            assert mine == TABLES or name.startswith(ENGINE), f"{where}: only {TABLES} knows the tables"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_heavy_or_unsafe_at_module_level(path: Path) -> None:
    for name, line in imports(path):
        assert name.split(".")[0] not in FORBIDDEN, f"{path}:{line}: {name} runs code from data"
    if path.parts[-2] == "benchmarks":
        return
    allowed = {"dreamlab.toybox.sheet": {"PIL"}}.get(module_name(path), set())
    for name, line in imports(path, module_level_only=True):
        assert name.split(".")[0] not in HEAVY - allowed, (
            f"{path}:{line}: import {name} inside the function that needs it"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), f"{path}: first line"
    assert len(text.splitlines()) <= 600
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 90, f"{path}:{node.lineno}: {node.name} is too long"


def test_a_class_has_a_name_of_its_own() -> None:
    """Structures that kernels are handed are private to their op."""
    found: dict[str, list[str]] = {}
    for path in FILES:
        if path.relative_to(ROOT).parts[0] not in ("benchmarks", "cuda_ext"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    twice = {name: paths for name, paths in found.items() if len(paths) > 1}
    assert not twice, f"classes of one name: {twice}"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": os.environ.get("HOME", "/")} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)


def test_importing_everything_needs_no_gpu_network_or_extras() -> None:
    """With the network and every optional package refused, all modules import, and `import dreamlab` not even torch."""
    modules = [module_name(path) for path in FILES if "benchmarks" not in path.parts and path.stem != "__main__"]
    code = f"""
import importlib, socket, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {OPTIONAL!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
def refuse(*a, **k): raise OSError('network')
socket.socket.connect = refuse
import dreamlab
assert 'torch' not in sys.modules, 'import dreamlab loads torch'
for name in {modules!r}: importlib.import_module(name)
assert 'torch._dynamo' not in sys.modules, 'the compiler of torch takes a second to load'
heavy = {HEAVY - {"PIL"}!r} & {{m.split('.')[0] for m in sys.modules}}
assert not heavy, heavy
"""
    done = run(code, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr


def test_the_repository_names_no_place_of_a_machine() -> None:
    """No absolute path of a home or work folder, in any tracked text file."""
    import re

    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout
    pattern = re.compile(r"(?<![A-Za-z0-9_./])/(work|farm|root|home|Users)/[A-Za-z]")
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        if path.suffix in BINARY or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not pattern.search(line), f"{name}:{number}: {line.strip()[:80]}"
