# SPDX-License-Identifier: Apache-2.0
"""A GLB made smaller by programs that are installed: vertices by meshopt (EXT_meshopt_compression), textures as WebP
(EXT_texture_webp), or as KTX2 where an encoder with a licence to redistribute is (Khronos' `ktx`, which gltf-transform
calls). Readers need these extensions, so the plain file stays beside them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dreamlab.core.programs import packer
from dreamlab.export.product import Files

SECONDS = 120.0
_IN, _OUT = "<in>", "<out>"
# What is joined, simplified, resized or dropped is decided before.
_KEEP = [
    word for step in ("simplify", "join", "flatten", "palette", "instance", "prune") for word in (f"--{step}", "false")
]


def packed_files(glb: bytes) -> Files:
    """What can be made here; nothing where no program is."""
    found: dict[str, bytes] = {}
    program = packer()
    if Path(program).stem == "gltf-transform":
        options = [*_KEEP, "--compress", "meshopt", "--texture-compress"]
        found |= _made("model_packed.glb", glb, [program, "optimize", _IN, _OUT, *options, "webp"])
        if shutil.which("ktx") is not None:
            found |= _made("model_ktx2.glb", glb, [program, "optimize", _IN, _OUT, *options, "ktx2"])
    elif program:
        command = [program, "-cc", "-ce", "ext", "-kn", "-km", "-ke", "-i", _IN, "-o", _OUT]
        # The build of npm has no WebP; vertices are packed then, and textures stay as they are.
        found |= _made("model_packed.glb", glb, [*command, "-tw"]) or _made("model_packed.glb", glb, command)
    return found


def _made(name: str, glb: bytes, command: Sequence[str]) -> Files:
    """The file that a command writes, if it does."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "model.glb"), Path(folder, name)
        source.write_bytes(glb)
        words = [{_IN: str(source), _OUT: str(target)}.get(word, word) for word in command]
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return {}
        return {name: target.read_bytes()} if done.returncode == 0 and target.is_file() else {}
