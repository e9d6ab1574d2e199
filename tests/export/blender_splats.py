# SPDX-License-Identifier: Apache-2.0
"""Run by the Python of a Blender 5.3 that reads Gaussians: `python blender_splats.py FOLDER`.

Imports what lies in the folder (splats.glb, .ply, .spz), writes the attributes that Blender has made of each to an
.npz beside it, and draws the GLB with Cycles from the camera in camera.json into cycles.png.
"""

import json
import sys
from pathlib import Path

import bpy
import mathutils
import numpy as np

WIDTHS = {"FLOAT": 1, "FLOAT_VECTOR": 3, "QUATERNION": 4, "FLOAT4": 4}
FIELDS = {"FLOAT": "value", "QUATERNION": "value", "FLOAT_VECTOR": "vector", "FLOAT4": "vector"}


def imported(path: Path) -> bpy.types.Object:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    if path.suffix == ".glb":
        bpy.ops.import_scene.gltf(filepath=str(path))
    elif path.suffix == ".ply":
        bpy.ops.wm.ply_import(filepath=str(path))
    else:
        bpy.ops.wm.spz_import(filepath=str(path))
    (found,) = bpy.data.objects
    assert found.type == "POINTCLOUD" and found.matrix_world == mathutils.Matrix.Identity(4)
    return found


def columns(cloud: bpy.types.Object) -> dict[str, np.ndarray]:
    made = {}
    for attribute in cloud.data.attributes:
        if attribute.data_type in WIDTHS:
            values = np.zeros(len(attribute.data) * WIDTHS[attribute.data_type], np.float32)
            attribute.data.foreach_get(FIELDS[attribute.data_type], values)
            made[attribute.name] = values.reshape(len(attribute.data), -1)
    return made


def draw(folder: Path) -> None:
    """The scene as it is now; a world of black that a camera does not see."""
    wanted = json.loads((folder / "camera.json").read_text())
    scene = bpy.context.scene
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.sensor_fit, camera.data.angle = "VERTICAL", wanted["fovy"]
    camera.matrix_world = mathutils.Matrix(wanted["camera_to_world"])
    scene.collection.objects.link(camera)
    scene.camera = camera
    scene.render.engine, scene.cycles.samples, scene.cycles.device = "CYCLES", wanted["samples"], "CPU"
    scene.cycles.transparent_max_bounces, scene.cycles.use_denoising = 64, False
    scene.render.resolution_x = scene.render.resolution_y = wanted["size"]
    scene.render.resolution_percentage = 100
    scene.render.film_transparent = True
    scene.view_settings.view_transform = wanted["view"]
    scene.render.image_settings.file_format, scene.render.image_settings.color_mode = "PNG", "RGBA"
    scene.render.filepath = str(folder / "cycles.png")
    bpy.ops.render.render(write_still=True)


def main(folder: Path) -> None:
    for name in ("splats.spz", "splats.ply", "splats.glb"):
        if (folder / name).exists():
            np.savez(folder / f"{name}.npz", **columns(imported(folder / name)))
    if (folder / "camera.json").exists():
        draw(folder)


main(Path(sys.argv[1]))
