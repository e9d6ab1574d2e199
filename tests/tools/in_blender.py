# SPDX-License-Identifier: Apache-2.0
"""Runs inside Blender's Python: the add-on registered, a run imported, a mesh textured by a command, all answers as one
line of JSON. Arguments: the add-on's folder, a folder of runs, the command, a prompt."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
import time
from pathlib import Path

import bpy

addon, root, command, prompt = sys.argv[sys.argv.index("--") + 1 :]
bpy.ops.wm.read_factory_settings(use_empty=True)
spec = importlib.util.spec_from_file_location("blender_dreamlab", Path(addon) / "__init__.py",
                                              submodule_search_locations=[addon])  # fmt: skip
assert spec is not None and spec.loader is not None
module = importlib.util.module_from_spec(spec)
sys.modules["blender_dreamlab"] = module
spec.loader.exec_module(module)
module.register()


class Given(module.Settings):
    def __init__(self) -> None:
        super().__init__()
        self.root, self.command = Path(root), shlex.split(command)


module.Settings = Given
said = {}
manager = bpy.context.window_manager
bpy.ops.dreamlab.refresh()
said["runs"] = [[item.prompt, item.state, Path(item.model).name] for item in manager.dreamlab_runs]
bpy.ops.dreamlab.import_run()
said["objects"] = [[each.type, len(each.data.vertices)] for each in bpy.data.objects if each.type == "MESH"]
said["materials"] = len(bpy.data.materials)

bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.mesh.primitive_cube_add()
cube = bpy.context.active_object
cube.name = "mine"
before = [list(v.co) for v in cube.data.vertices], [list(uv.uv) for uv in cube.data.uv_layers[0].data]
manager = bpy.context.window_manager
manager.dreamlab_prompt = prompt
began = time.monotonic()
bpy.ops.dreamlab.texture()
said["blocked"] = time.monotonic() - began
job = module.JOBS[-1]
job.wait(100)
while module.look() is not None:
    time.sleep(0.1)
after = [list(v.co) for v in cube.data.vertices], [list(uv.uv) for uv in cube.data.uv_layers[0].data]
said["job"] = [job.state, job.said]
said["untouched"] = before == after
said["dressed"] = [slot.material.name if slot.material else None for slot in cube.material_slots]
said["left"] = [each.name for each in bpy.data.objects]
said["images"] = sum(image.size[0] > 0 for image in bpy.data.images)

manager.dreamlab_prompt = prompt
bpy.ops.dreamlab.generate()
job = module.JOBS[-1]
job.wait(100)
while module.look() is not None:
    time.sleep(0.1)
said["generated"] = [job.state, len([each for each in bpy.data.objects if each.type == "MESH"])]
manager.dreamlab_prompt = ""
try:
    bpy.ops.dreamlab.generate()
except RuntimeError as error:
    said["empty"] = str(error)
module.unregister()
print("SAID " + json.dumps(said))
