# SPDX-License-Identifier: Apache-2.0
"""What Blender makes of files: run by an interpreter that has `bpy`, with a folder for what is found and the files to
open, one after the other (`0.json` and `0.npz` for the first). It knows nothing of the product.

    python blender_look.py FOLDER model.glb model.obj
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bpy
import numpy as np

OPEN = {
    ".glb": lambda path: bpy.ops.import_scene.gltf(filepath=path),
    ".gltf": lambda path: bpy.ops.import_scene.gltf(filepath=path),
    ".obj": lambda path: bpy.ops.wm.obj_import(filepath=path),
    ".ply": lambda path: bpy.ops.wm.ply_import(filepath=path),
    ".stl": lambda path: bpy.ops.wm.stl_import(filepath=path),
    ".usdz": lambda path: bpy.ops.wm.usd_import(filepath=path),
    ".fbx": lambda path: bpy.ops.import_scene.fbx(filepath=path),
    ".abc": lambda path: bpy.ops.wm.alembic_import(filepath=path),
    ".blend": lambda path: bpy.ops.wm.open_mainfile(filepath=path),
}


def source(socket):
    """From a socket back to what feeds it: names of nodes and of their outputs, ending in a picture or an attribute."""
    found = []
    while socket.is_linked:
        link = socket.links[0]
        node = link.from_node
        entry = {"node": node.bl_idname, "output": link.from_socket.name}
        if node.bl_idname == "ShaderNodeTexImage":
            entry |= {"picture": list(node.image.size), "space": node.image.colorspace_settings.name}
            entry |= {"mean": np.array(node.image.pixels[:]).reshape(-1, node.image.channels).mean(0).tolist()}
        if node.bl_idname in ("ShaderNodeVertexColor", "ShaderNodeAttribute"):
            entry["attribute"] = getattr(node, "layer_name", "") or getattr(node, "attribute_name", "")
        found.append(entry)
        linked = [each for each in node.inputs if each.is_linked and each.name in ("Color", "Image", "Value")]
        if not linked or node.bl_idname == "ShaderNodeTexImage":
            break
        socket = linked[0]
    return found


def material(made):
    surface = [node for node in made.node_tree.nodes if node.bl_idname == "ShaderNodeBsdfPrincipled"]
    assert len(surface) == 1, [node.bl_idname for node in made.node_tree.nodes]
    inputs = {}
    for socket in surface[0].inputs:
        if socket.is_linked:
            inputs[socket.name] = source(socket)
        elif socket.name in ("Base Color", "Roughness", "Metallic", "Alpha"):
            value = socket.default_value
            inputs[socket.name] = list(value) if hasattr(value, "__len__") else float(value)
    return {"name": made.name, "inputs": inputs}


def points_of(thing):
    """Corners in the world, as the modifiers, shape keys and skeletons of this frame put them."""
    shown = thing.evaluated_get(bpy.context.evaluated_depsgraph_get())
    mesh = shown.to_mesh()
    flat = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", flat)
    world = np.array(shown.matrix_world)
    return flat.reshape(-1, 3) @ world[:3, :3].T + world[:3, 3]


def look(path):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.scene.render.fps = 24
    OPEN[Path(path).suffix](path)
    scene = bpy.context.scene
    helpers = bpy.data.collections.get("glTF_not_exported")  # the importer's shapes of bones
    things = [thing for thing in bpy.data.objects if helpers is None or thing.name not in helpers.objects]
    meshes = [thing for thing in things if thing.type == "MESH"]
    found = {
        "version": bpy.app.version_string,
        "objects": [{"name": thing.name, "type": thing.type} for thing in things],
        "meshes": {},
        "actions": {each.name: [float(x) for x in each.frame_range] for each in bpy.data.actions},
        "told": scene.get("dreamlab") or next((thing.get("dreamlab") for thing in meshes), None),
        "metres": scene.unit_settings.scale_length,
    }
    kept = {}
    caches = any(each.type == "MESH_SEQUENCE_CACHE" for thing in meshes for each in thing.modifiers)
    spans = [*found["actions"].values()] or ([[0.0, 48.0]] if caches else [[1.0, 1.0]])
    begin, end = round(min(span[0] for span in spans)), round(max(span[1] for span in spans))
    frames = sorted({begin, (begin + end) // 2, end})
    for thing in meshes:
        mesh = thing.data
        found["meshes"][thing.name] = {
            "vertices": len(mesh.vertices),
            "triangles": sum(len(face.vertices) - 2 for face in mesh.polygons),
            "uv": [layer.name for layer in mesh.uv_layers],
            "colours": [[each.name, each.domain, each.data_type] for each in mesh.color_attributes],
            "materials": [material(each) for each in mesh.materials if each is not None],
            "modifiers": [each.type for each in thing.modifiers],
            "frames": frames,
        }
        if mesh.color_attributes:
            first = mesh.color_attributes[0]
            values = np.empty(4 * len(first.data), np.float32)
            first.data.foreach_get("color_srgb", values)
            kept[f"{thing.name}/colours"] = values.reshape(-1, 4)[:, :3]
        corners = np.empty(len(mesh.loops), np.int32)
        mesh.loops.foreach_get("vertex_index", corners)
        kept[f"{thing.name}/corners"] = corners
        for frame in frames:
            scene.frame_set(frame)
            kept[f"{thing.name}/{frame}"] = points_of(thing)
    return found, kept


def main(folder, *paths):
    for i, path in enumerate(paths):
        found, kept = look(path)
        Path(folder, f"{i}.json").write_text(json.dumps(found, indent=1))
        np.savez(Path(folder, f"{i}.npz"), **kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
