# SPDX-License-Identifier: Apache-2.0
"""Programs of others that open our files: Blender and OpenUSD. Each is named when a test skips for want of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

HERE = Path(__file__).parent


class Look(NamedTuple):
    """What Blender shows of a file."""

    found: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def mesh(self) -> dict[str, Any]:
        """Of the one mesh in the file."""
        (only,) = self.found["meshes"].values()
        return dict(only)

    def array(self, key: str) -> np.ndarray:
        (name,) = self.found["meshes"]
        return self.arrays[f"{name}/{key}"]

    def inputs(self) -> dict[str, Any]:
        """Of the surface's shader: a value, or the way back to a picture or an attribute."""
        (material,) = self.mesh["materials"]
        return dict(material["inputs"])


def bpy_python() -> str:
    program = os.environ.get("DREAMLAB_BLENDER", "")
    if not Path(program).name.startswith("python") or shutil.which(program) is None:
        pytest.skip("needs Blender as a Python package: DREAMLAB_BLENDER names a Python that has bpy")
    return program


def run_bpy(script: str, *words: str | Path) -> str:
    """What a script of this folder says in Blender; what this process's Python may import is not what Blender's may."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [bpy_python(), "-I", str(HERE / script), *map(str, words)]
    done = subprocess.run(command, env=inherited, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def blender_looks(paths: Sequence[Path], folder: Path) -> list[Look]:
    """Files as Blender's importers read them with the settings they have."""
    run_bpy("blender_look.py", folder, *paths)
    looks = []
    for i in range(len(paths)):
        with np.load(folder / f"{i}.npz") as arrays:
            looks.append(Look(json.loads((folder / f"{i}.json").read_text()), dict(arrays)))
    return looks


def usd_errors(path: Path) -> list[str]:
    """What all validators of OpenUSD say of a file."""
    usd = pytest.importorskip("pxr.UsdValidation", reason="needs the package usd-core")
    from pxr import Usd

    registry = usd.ValidationRegistry()
    names = [each.name for each in registry.GetAllValidatorMetadata()]
    assert len(names) >= 30, names
    context = usd.ValidationContext([registry.GetOrLoadValidatorByName(name) for name in names])
    return [f"{error.GetName()}: {error.GetMessage()}" for error in context.Validate(Usd.Stage.Open(str(path)))]
