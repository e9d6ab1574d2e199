# SPDX-License-Identifier: Apache-2.0
"""DreamLab in Blender: a panel in the 3D view's sidebar that lists runs, imports them with materials and animation,
makes new ones from a prompt, and gives the selected mesh new textures without touching it.

Nothing blocks: jobs run in threads and processes (`work.py`), a timer looks at them twice a second. A studio on this
computer is asked first, if Blender may use the network; else, or without one, the command line does the work.
"""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

import bpy
from bpy.props import CollectionProperty, IntProperty, StringProperty

from . import folders, work

JOBS: list[work.Job] = []
_handled: set[int] = set()
EVERY = 0.5  # seconds between two looks


class Preferences(bpy.types.AddonPreferences):
    bl_idname = __package__

    root: StringProperty(name="Run folders", subtype="DIR_PATH", default=str(Path.home() / "dreamlab" / "runs"))
    command: StringProperty(name="Command", default="dreamlab", description="how DreamLab is started on this computer")
    url: StringProperty(name="Studio", default="http://127.0.0.1:7860", description="a studio on this computer")

    def draw(self, context: bpy.types.Context) -> None:
        for name in ("root", "command", "url"):
            self.layout.prop(self, name)
        if not bpy.app.online_access:
            self.layout.label(text="Online access is off: the command line is used, never the studio", icon="INFO")


class Settings:
    """What the preferences say; their defaults where the add-on runs without any (as a plain module)."""

    def __init__(self) -> None:
        found = bpy.context.preferences.addons.get(__package__)
        own = found.preferences if found else None
        self.root = Path(own.root if own else Path.home() / "dreamlab" / "runs")
        self.command = shlex.split(own.command if own else "dreamlab")
        self.url = own.url if own else "http://127.0.0.1:7860"


class RunItem(bpy.types.PropertyGroup):
    prompt: StringProperty()
    model: StringProperty()
    picture: StringProperty()
    state: StringProperty()


class RunList(bpy.types.UIList):
    bl_idname = "DREAMLAB_UL_runs"

    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index=0, flag=0):  # type: ignore[no-untyped-def]
        layout.label(text=item.prompt, icon="MESH_DATA")


class Refresh(bpy.types.Operator):
    bl_idname, bl_label = "dreamlab.refresh", "Refresh"
    bl_description = "Look for run folders again"

    def execute(self, context: bpy.types.Context) -> set[str]:
        items = context.window_manager.dreamlab_runs
        items.clear()
        for found in folders.runs(Settings().root):
            item = items.add()
            item.name = item.prompt = found.prompt
            item.model, item.state = str(found.model), found.state
            item.picture = str(found.picture or "")
        return {"FINISHED"}


def bring(model: Path) -> list[bpy.types.Object]:
    """Import a file with materials and animation; the objects that came."""
    before = set(bpy.data.objects)
    kind = model.suffix.lower()
    if kind in (".glb", ".gltf"):
        bpy.ops.import_scene.gltf(filepath=str(model))
    elif kind == ".obj":
        bpy.ops.wm.obj_import(filepath=str(model))
    else:
        bpy.ops.wm.ply_import(filepath=str(model))
    return [each for each in bpy.data.objects if each not in before]


class Import(bpy.types.Operator):
    bl_idname, bl_label = "dreamlab.import_run", "Import"
    bl_description = "Bring the asset of the chosen run into the scene"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return 0 <= context.window_manager.dreamlab_index < len(context.window_manager.dreamlab_runs)

    def execute(self, context: bpy.types.Context) -> set[str]:
        item = context.window_manager.dreamlab_runs[context.window_manager.dreamlab_index]
        if not Path(item.model).is_file():
            self.report({"ERROR"}, f"{item.model} is gone; refresh the list")
            return {"CANCELLED"}
        came = bring(Path(item.model))
        self.report({"INFO"}, f"{len(came)} objects from {item.model}")
        return {"FINISHED"}


def begin(job: work.Job) -> None:
    JOBS.append(job.start())
    if not bpy.app.timers.is_registered(look):
        bpy.app.timers.register(look, first_interval=EVERY)


class Generate(bpy.types.Operator):
    bl_idname, bl_label = "dreamlab.generate", "Generate"
    bl_description = "Make an asset of the prompt; it is imported when it is done"

    def execute(self, context: bpy.types.Context) -> set[str]:
        prompt, settings = context.window_manager.dreamlab_prompt.strip(), Settings()
        if len(prompt) < 2:
            self.report({"ERROR"}, "Write a prompt first, e.g. a red mushroom with a white stem")
            return {"CANCELLED"}
        begin(generating(prompt, settings))
        return {"FINISHED"}


def generating(prompt: str, settings: Settings) -> work.Job:
    """By the studio where one answers, else by the command line."""
    if bpy.app.online_access and work.local(settings.url) and work.studio_there(settings.url):
        return work.Asked(prompt, settings.url, {"prompt": prompt})
    command = [*settings.command, "dream", "--out", str(settings.root), prompt]
    return work.Command(prompt, command, settings.root.parent)


class Texture(bpy.types.Operator):
    bl_idname, bl_label = "dreamlab.texture", "Texture selected"
    bl_description = "Give the active mesh new textures by the prompt; its vertices, UVs, rig and animation stay"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.active_object is not None and context.active_object.type == "MESH"

    def execute(self, context: bpy.types.Context) -> set[str]:
        prompt, settings = context.window_manager.dreamlab_prompt.strip(), Settings()
        if len(prompt) < 2:
            self.report({"ERROR"}, "Write a prompt first: what the mesh is, and its colours")
            return {"CANCELLED"}
        target = context.active_object
        folder = Path(tempfile.mkdtemp(prefix="dreamlab-"))
        give(target, folder / "selected.glb")
        made = folder / "textured.glb"
        command = [*settings.command, "texture", str(folder / "selected.glb"), prompt, "-o", str(made)]
        job = work.Command(f"texture {target.name}: {prompt}", command, folder)
        job.target, job.made = target.name, made  # type: ignore[attr-defined]
        begin(job)
        return {"FINISHED"}


def give(target: bpy.types.Object, path: Path) -> None:
    """Write one object alone, as it stands in its own space."""
    chosen = list(bpy.context.selected_objects)
    for each in chosen:
        each.select_set(False)
    target.select_set(True)
    bpy.ops.export_scene.gltf(filepath=str(path), use_selection=True, export_animations=False, export_yup=True)
    for each in chosen:
        each.select_set(True)


def dress(target: bpy.types.Object, made: Path) -> int:
    """Take the materials of a textured copy, slot by slot; nothing else of it stays. How many."""
    came = bring(made)
    source = next((each for each in came if each.type == "MESH"), None)
    count = 0
    if source is not None:
        taken = [slot.material for slot in source.material_slots]
        while len(target.material_slots) < len(taken):
            target.data.materials.append(None)
        for slot, material in zip(target.material_slots, taken, strict=False):
            slot.material, count = material, count + 1
        if not target.data.uv_layers and source.data.uv_layers:  # it had none: those that the texture was made for
            target.data = source.data.copy()
    for each in came:
        bpy.data.objects.remove(each, do_unlink=True)
    return count


class Cancel(bpy.types.Operator):
    bl_idname, bl_label = "dreamlab.cancel", "Cancel"
    bl_description = "Stop the job; a run keeps its checkpoint and can be resumed"
    index: IntProperty()

    def execute(self, context: bpy.types.Context) -> set[str]:
        if 0 <= self.index < len(JOBS):
            JOBS[self.index].cancel()
        return {"FINISHED"}


def look() -> float | None:
    """The timer: import what has ended, redraw, and go on while anything is on its way."""
    for job in JOBS:
        if job.state in work.ENDED and id(job) not in _handled:
            _handled.add(id(job))
            if job.state == "succeeded":
                finish(job)
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()
    return EVERY if any(job.state not in work.ENDED for job in JOBS) else None


def finish(job: work.Job) -> None:
    """Bring what a job has made into the scene."""
    target = bpy.data.objects.get(getattr(job, "target", ""))
    if target is not None:
        job.said = f"{dress(target, job.made)} materials"  # type: ignore[attr-defined]
        return
    found = folders.assets(job.result) if job.result is not None and job.result.is_dir() else []
    for asset in found:
        bring(asset.model)
    bpy.ops.dreamlab.refresh()


class Panel(bpy.types.Panel):
    bl_idname, bl_label = "DREAMLAB_PT_panel", "DreamLab"
    bl_space_type, bl_region_type, bl_category = "VIEW_3D", "UI", "DreamLab"

    def draw(self, context: bpy.types.Context) -> None:
        manager, layout = context.window_manager, self.layout
        layout.prop(manager, "dreamlab_prompt", text="")
        row = layout.row(align=True)
        row.operator("dreamlab.generate", icon="OUTLINER_OB_LIGHT")
        row.operator("dreamlab.texture", icon="TEXTURE")
        for i, job in enumerate(JOBS[-4:], max(len(JOBS) - 4, 0)):
            row = layout.row()
            row.label(text=f"{job.what[:40]}: {job.state} {round(100 * job.progress)} %")
            if job.state not in work.ENDED:
                row.operator("dreamlab.cancel", text="", icon="X").index = i
            elif job.state == "failed":
                layout.label(text=job.said[:90], icon="ERROR")
        layout.separator()
        layout.template_list("DREAMLAB_UL_runs", "", manager, "dreamlab_runs", manager, "dreamlab_index")
        row = layout.row(align=True)
        row.operator("dreamlab.refresh", icon="FILE_REFRESH")
        row.operator("dreamlab.import_run", icon="IMPORT")


CLASSES = (Preferences, RunItem, RunList, Refresh, Import, Generate, Texture, Cancel, Panel)


def register() -> None:
    for each in CLASSES:
        bpy.utils.register_class(each)
    manager = bpy.types.WindowManager
    manager.dreamlab_runs = CollectionProperty(type=RunItem)
    manager.dreamlab_index = IntProperty()
    manager.dreamlab_prompt = StringProperty(name="Prompt", description="e.g. a red mushroom with a white stem")


def unregister() -> None:
    for job in JOBS:
        job.cancel()
    if bpy.app.timers.is_registered(look):
        bpy.app.timers.unregister(look)
    for name in ("dreamlab_runs", "dreamlab_index", "dreamlab_prompt"):
        delattr(bpy.types.WindowManager, name)
    for each in reversed(CLASSES):
        bpy.utils.unregister_class(each)
