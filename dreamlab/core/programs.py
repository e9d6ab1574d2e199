# SPDX-License-Identifier: Apache-2.0
"""Programs of others that some exports go through: which are found, and what to do about those that are not."""

from __future__ import annotations

import os
import shutil

BLENDER = "DREAMLAB_BLENDER"  # names Blender's program, or a Python that has the package bpy
INSTALL_PACKER = "neither gltf-transform nor gltfpack is found (npm install --global @gltf-transform/cli)"


def blender() -> str:
    """The program that runs a script in Blender; nothing where there is none."""
    named = os.environ.get(BLENDER, "")
    return (shutil.which(named) if named else shutil.which("blender")) or ""


def lacking_blender() -> str:
    """One line for those who have no Blender."""
    if blender():
        return ""
    named = os.environ.get(BLENDER)
    if named:
        return f"{BLENDER} names {named!r}, which is no program here; give Blender's, or a Python that has bpy"
    return f"Blender is not found: install it (https://www.blender.org/download), or name its program in {BLENDER}"


def packer() -> str:
    """The program that makes a GLB smaller; nothing where none is."""
    return shutil.which("gltf-transform") or shutil.which("gltfpack") or ""
