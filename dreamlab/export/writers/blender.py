# SPDX-License-Identifier: Apache-2.0
"""FBX, Alembic and .blend through Blender, a program of the user's: it opens our GLB and saves it again."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from dreamlab.core.errors import InputError
from dreamlab.core.programs import blender, lacking_blender
from dreamlab.export.glb import gltf_of
from dreamlab.export.painted import painted
from dreamlab.export.product import Files, Product

SECONDS = 300.0
_SCRIPT = Path(__file__).with_name("in_blender.py")


def found() -> list[str]:
    """The beginning of a command that runs our script in Blender; nothing where there is none."""
    program = blender()
    if not program:
        return []
    if Path(program).name.startswith("python"):
        return [program, "-I", str(_SCRIPT)]
    return [program, "--background", "--factory-startup", "--python-exit-code", "1", "--python", str(_SCRIPT), "--"]


def through_blender(made: Product, kind: str) -> Files:
    """`model.kind`, saved by Blender; InputError in one line where it cannot."""
    command = found()
    if not command:
        raise InputError(f"{kind}: {lacking_blender()}")
    # What this process's Python may import is not what Blender's may.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.glb"), Path(folder, f"model.{kind}")
        # The materials of an FBX show no colours of vertices.
        source.write_bytes(gltf_of(painted(made) if kind == "fbx" else made).glb())
        try:
            done = subprocess.run(
                [*command, str(source), str(target)],
                env=inherited,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"{kind}: Blender was not done after {SECONDS:.0f} s; try a coarser mesh") from None
        except OSError as error:
            raise InputError(f"{kind}: {command[0]} does not start ({error.strerror}); {lacking_blender()}") from None
        if done.returncode == 0 and target.is_file():
            return {target.name: target.read_bytes()}
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    last = f"exit code {done.returncode}" + "".join(f", {line[:200]}" for line in said)
    raise InputError(f"{kind}: Blender ({command[0]}) failed ({last}); is it of version 4.2 or newer?")
