# SPDX-License-Identifier: Apache-2.0
"""A picture of a file as Blender's Cycles draws it under an environment: run by an interpreter that has `bpy`.

    python blender_render.py model.glb environment.npy OUT.png '{"eye": [x, y, z], "fov_deg": 40, "size": 96, ...}'

The eye is a point of the file's world (+Y up) and looks at its origin. The environment's rows go down from +Y, and its
middle column is +Z, seen from inside.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import bpy
import numpy as np
from mathutils import Vector

sys.path.insert(0, str(Path(__file__).parent))
from blender_look import OPEN


def environment(path, scene):
    """Blender's own convention has +X in the middle: of ours, that is a quarter further to the left."""
    linear = np.load(path)
    turned = np.roll(linear, linear.shape[1] // 4, axis=1)[::-1]
    image = bpy.data.images.new("environment", linear.shape[1], linear.shape[0], float_buffer=True)
    image.pixels = np.concatenate([turned, np.ones_like(turned[..., :1])], -1).reshape(-1).astype(np.float32)
    image.pack()
    world = bpy.data.worlds.new("world")
    world.use_nodes = True
    node = world.node_tree.nodes.new("ShaderNodeTexEnvironment")
    node.image = image
    world.node_tree.links.new(node.outputs["Color"], world.node_tree.nodes["Background"].inputs["Color"])
    scene.world = world


def camera(scene, eye, fov_deg):
    made = bpy.data.cameras.new("camera")
    made.angle = math.radians(fov_deg)
    thing = bpy.data.objects.new("camera", made)
    scene.collection.objects.link(thing)
    thing.location = (eye[0], -eye[2], eye[1])
    thing.rotation_euler = (-Vector(thing.location)).to_track_quat("-Z", "Y").to_euler()
    scene.camera = thing


def colour_by_attribute(mesh):
    """What a user does to see the colours of a PLY: a material whose base colour is the attribute."""
    made = bpy.data.materials.new("colours")
    made.use_nodes = True
    node = made.node_tree.nodes.new("ShaderNodeVertexColor")
    surface = made.node_tree.nodes["Principled BSDF"]
    surface.inputs["Roughness"].default_value = 0.8
    made.node_tree.links.new(node.outputs["Color"], surface.inputs["Base Color"])
    mesh.materials.append(made)


def main(path, light, out, words):
    wanted = json.loads(words)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    OPEN[Path(path).suffix](path)
    for thing in bpy.data.objects:
        if thing.type == "MESH" and not thing.data.materials:
            colour_by_attribute(thing.data)
    scene = bpy.context.scene
    environment(light, scene)
    camera(scene, wanted["eye"], wanted["fov_deg"])
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = wanted["samples"]
    scene.cycles.use_denoising = False
    scene.cycles.max_bounces = 0  # light from the environment alone, as in the picture beside
    scene.cycles.pixel_filter_type = "BOX"
    scene.render.film_transparent = True
    scene.render.resolution_x = scene.render.resolution_y = wanted["size"]
    scene.render.resolution_percentage = 100
    scene.view_settings.view_transform = "Standard"
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    scene.render.filepath = out
    bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
