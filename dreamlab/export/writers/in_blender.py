# SPDX-License-Identifier: Apache-2.0
"""Run by Blender, not by us: open a GLB and save it as FBX, Alembic or a .blend file.

blender --background --factory-startup --python in_blender.py -- model.glb model.fbx
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

KEY = "dreamlab"  # as in the other formats
HELPERS = "glTF_not_exported"  # a collection of Blender's importer, with shapes of bones


def main(source: str, target: str) -> None:
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.fps = 24
    bpy.ops.import_scene.gltf(filepath=source)
    helpers = bpy.data.collections.get(HELPERS)
    for thing in list(helpers.objects) if helpers else []:
        bpy.data.objects.remove(thing)
    _tell(bpy, source)
    ends = [action.frame_range[1] for action in bpy.data.actions]
    scene.frame_start, scene.frame_end = (0, round(max(ends))) if ends else (1, 1)
    scene.frame_set(scene.frame_start)
    if target.endswith(".fbx"):
        _fbx(bpy, target, bool(ends))
    elif target.endswith(".abc"):
        bpy.ops.wm.alembic_export(
            filepath=target, start=scene.frame_start, end=scene.frame_end, vcolors=True, as_background_job=False
        )
    else:
        bpy.ops.file.pack_all()
        bpy.ops.wm.save_as_mainfile(filepath=target, compress=True)


def _tell(bpy: Any, source: str) -> None:
    """Where the asset comes from, as a property of the scene and of each mesh; FBX keeps the latter."""
    with Path(source).open("rb") as handle:
        size = int.from_bytes(handle.read(16)[12:], "little")
        handle.seek(20)
        origin = json.loads(handle.read(size))["asset"].get("extras")
    if origin:
        for thing in (bpy.context.scene, *(thing for thing in bpy.data.objects if thing.type == "MESH")):
            thing[KEY] = json.dumps(origin, separators=(",", ":"), sort_keys=True)


def _fbx(bpy: Any, target: str, moves: bool) -> None:
    for material in bpy.data.materials:
        _unpack(bpy, material.node_tree)
    for image in list(bpy.data.images):  # pictures are told apart by their files, which those from a GLB have not
        if image.size[0]:
            image.filepath_raw = str(Path(target).with_name(f"{image.name}.png"))
            image.file_format = "PNG"
            image.save()
    # Only what stands still may have its axes baked into the mesh; then Unity shows no turned root.
    # The actions of shape keys are no object's, so they are written as what the whole scene does.
    keyed = any(mesh.shape_keys for mesh in bpy.data.meshes)
    still = not any(thing.type == "ARMATURE" for thing in bpy.data.objects)
    bpy.ops.export_scene.fbx(
        filepath=target,
        path_mode="COPY",
        embed_textures=True,
        apply_scale_options="FBX_SCALE_ALL",
        bake_space_transform=still,
        add_leaf_bones=False,
        colors_type="SRGB",
        use_custom_props=True,
        bake_anim=moves,
        bake_anim_use_all_actions=not keyed,
        bake_anim_use_nla_strips=not keyed,
    )


def _unpack(bpy: Any, tree: Any) -> None:
    """FBX knows no channels of pictures: roughness and metallic get pictures of their own."""
    import numpy as np

    split = [node for node in tree.nodes if node.bl_idname == "ShaderNodeSeparateColor" and node.inputs[0].is_linked]
    for node in split:
        packed = node.inputs[0].links[0].from_node.image
        pixels = np.array(packed.pixels[:], np.float32).reshape(-1, 4)
        for output in node.outputs:
            for link in list(output.links):
                if link.to_node.bl_idname != "ShaderNodeBsdfPrincipled":
                    continue
                channel = pixels[:, ["Red", "Green", "Blue"].index(output.name)]
                image = bpy.data.images.new(f"{packed.name}_{link.to_socket.name.lower()}", *packed.size)
                image.colorspace_settings.name = "Non-Color"
                image.pixels = np.stack([channel] * 3 + [np.ones_like(channel)], 1).reshape(-1)
                shown = tree.nodes.new("ShaderNodeTexImage")
                shown.image = image
                tree.links.new(shown.outputs["Color"], link.to_socket)
                image.update()


if __name__ == "__main__":
    main(*sys.argv[-2:])
