# SPDX-License-Identifier: Apache-2.0
"""From a finished scene to files: the asset in each format, checked against the scene as another program reads it, and
pictures of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dreamlab.core.bounded import Unbounded
from dreamlab.core.files import Json, disk_errors
from dreamlab.core.text import slug
from dreamlab.core.types import Maker, Scene
from dreamlab.export import check
from dreamlab.export.drawing import Viewed
from dreamlab.export.making import Ready, all_files, asked, make
from dreamlab.export.motion import notes
from dreamlab.export.origin import origin_of
from dreamlab.export.pictures import save_pictures
from dreamlab.export.placing import Placing, metres
from dreamlab.export.png import png_bytes
from dreamlab.export.readback import READ, read_back
from dreamlab.export.readback_motion import motion_back
from dreamlab.export.report import (
    REPORT,
    entries,
    formats_to_write,
    leftovers,
    merged,
    presets_to_write,
    read_report,
    record,
    step_of,
)
from dreamlab.export.splats.writers import splat_notes
from dreamlab.export.staging import Staged, complete
from dreamlab.recipe import Recipe
from dreamlab.run.folder import Run
from dreamlab.run.preview import save_between, save_preview
from renderers.surface import finish

Views = dict[Path, Viewed | None]  # of every asset, by its folder
CHECK, PICTURES = "check.png", "pictures"


def warm() -> None:
    """Import what an export needs and nothing before it did; its children then find it there."""
    import imageio_ffmpeg  # noqa: F401
    import trimesh.exchange.gltf
    import trimesh.visual  # noqa: F401
    from PIL import Image, ImageDraw, PngImagePlugin  # noqa: F401

    Image.preinit()
    finish.warm()


def assets(run: Run, recipe: Recipe, scene: Scene) -> Iterable[tuple[Path, str, Scene]]:
    """Folder, prompt and scene of everything the run made, in turn: of several prompts, each has a folder."""
    texts = (recipe.prompt, *recipe.prompts)
    if not isinstance(scene, Maker) or len(texts) == 1:
        return [(run.export, recipe.prompt, scene)]
    folders = [run.export / f"{i}-{slug(text)}" for i, text in enumerate(texts)]
    return zip(folders, texts, scene.each(), strict=True)


def export_mesh(
    run: Run,
    recipe: Recipe,
    scene: Scene,
    step: int,
    formats: Sequence[str] | None = None,
    views: Views | None = None,
) -> list[Path]:
    """Write the assets as they are at a step of the run; the report beside each says what it is made of and how far
    from the scene it is. Files of other formats that show another step are made anew. What was read back is left in
    `views` for those who draw it next."""
    became, wanted, paths = changes_of(run), formats or recipe.export.formats, list[Path]()
    with disk_errors("exporting", run.export):
        for folder, prompt, one in assets(run, recipe, scene):
            made = make(one, recipe, prompt, step, formats_to_write(folder, wanted, step))
            files, view = write(folder, prompt, one, made, step, wanted, became, run)
            paths += files
            if views is not None:
                views[folder] = view
            for preset in presets_to_write(folder, recipe.export.preset, step):
                paths += write(folder / preset, prompt, one, made, step, wanted, became, run, preset)[0]
    return paths


def write(
    folder: Path,
    prompt: str,
    scene: Scene,
    made: Ready,
    step: int,
    wanted: Sequence[str],
    became: list[Json],
    run: Run,
    preset: str = "none",
) -> tuple[list[Path], Viewed | None]:
    """All files of one asset into its folder, all of them or none."""
    staged, new = Staged(folder), Json()
    formats, lines = asked(formats_to_write(folder, wanted, step), made.product)
    found = all_files(formats, made.product, preset, lines)
    lines += notes(made.motion, found) + splat_notes(made.product.splats, found)
    for kind, files in found.items():
        staged.add(files)
        new |= entries(files, step, kind)
    facts: Json = {
        "prompt": prompt,
        "changes": became,
        "steps": made.steps,
        "placing": made.where.plain(),
        "motion": made.motion,
        "levels": made.levels,
        "mesh": made.health | report_of(made),
    }
    try:
        names = [name for files in found.values() for name in files]
        looked = None if checked(folder, names, step) else opened(staged.at, names, made.where, scene)
    except Unbounded as error:
        lines.append(str(error))
        looked = None
    if looked is not None:
        name, view = looked
        facts["check"], picture = check.check(scene, view, made.steps, made.views)
        facts["check"]["file"] = name
        kept = {key: facts["check"][key] for key in ("psnr", "silhouette_iou", "views")}
        facts["changes"] = [*became, {"now": "export", **kept}]
        pictures = {CHECK: png_bytes(torch.from_numpy(picture) / 255)}
        staged.add(pictures)
        new |= entries(pictures, step, PICTURES)
        (lines.append if "below" in facts["check"] else run.log)(check.line(facts["check"]))
    gone = leftovers(folder, found, new)
    staged.add({REPORT: merged(folder, new, gone, notes=lines, **facts)})
    for line in lines:
        run.warn(line)
    paths = [path for path in staged.commit(gone) if path.name != REPORT]
    return paths, None if looked is None else looked[1]


def opened(folder: Path, names: Iterable[str], where: Placing, scene: Scene) -> tuple[str, Viewed] | None:
    """The first of the files that shows a surface, as another program reads it, brought back into the scene's world."""
    name = next((name for suffix in READ for name in names if name == f"model{suffix}"), None)
    if name is None:
        return None
    mesh, moves = read_back(folder / name), motion_back(folder / name)
    if moves is not None:
        moves = replace(moves, points=where.back(moves.points))
    return name, Viewed.beside(scene, replace(mesh, vertices=where.back(mesh.vertices)), moves)


def checked(folder: Path, names: Iterable[str], step: int) -> bool:
    """Whether a file of this step that tells more than these has been held against the scene already."""
    report = read_report(folder)
    known = report.get("check", {}).get("file", "")
    better = READ[: READ.index(Path(known).suffix)] if Path(known).suffix in READ else ()
    mine = {Path(name).suffix for name in names}
    return bool(known) and known not in names and not mine & set(better) and step_of(report, known) == step


def report_of(made: Ready) -> Json:
    """What users ask for first."""
    mesh = made.product.mesh
    return {"vertices": len(mesh.vertices), "triangles": len(mesh.faces), "metres": metres(mesh)}


def export_pictures(
    run: Run, recipe: Recipe, scene: Scene, step: int, device: torch.device, views: Views | None = None
) -> list[Path]:
    """What people look at, of every asset: the file beside the scene; for several prompts also a sheet of all, and what
    lies between them."""
    s, paths = recipe.export, []
    with disk_errors("writing pictures", run.export):
        for folder, prompt, one in assets(run, recipe, scene):
            folder.mkdir(exist_ok=True, parents=True)
            complete(folder)
            file = shown(folder, step, one) if views is None else views[folder]
            made = save_pictures(folder, s, one, file, device, origin_of(recipe, prompt, step))
            record(folder, made, step, PICTURES)
            paths += made
        if isinstance(scene, Maker) and recipe.prompts:
            every, between = run.export / "contact.png", run.export / "between.png"
            save_preview(scene, every, device, s.size)
            save_between(scene, between, device, s.size)
            record(run.export, [every, between], step, PICTURES)
            paths += [every, between]
    return paths


def shown(folder: Path, step: int, scene: Scene) -> Viewed | None:
    """The file in the folder that shows this step, if there is one that can be read."""
    report = read_report(folder)
    names = [name for name in report.get("files", {}) if step_of(report, name) == step and (folder / name).is_file()]
    try:
        found = opened(folder, names, Placing.of(report.get("placing", {})), scene)
    except Unbounded:
        return None
    return None if found is None else found[1]


def changes_of(run: Run) -> list[Json]:
    """What every change of representation in the run kept of the pictures before it."""
    # A stage that is rolled back says it again.
    became = {(e["stage"], e.get("object")): e for e in run.events() if e["kind"] == "became" and "stage" in e}
    keys = ("source", "was", "stage", "object", "now", "psnr", "silhouette_iou", "views")
    return [{key: event[key] for key in keys if key in event} for event in became.values()]
