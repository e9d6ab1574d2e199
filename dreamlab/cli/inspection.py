# SPDX-License-Identifier: Apache-2.0
"""`inspect` and `list`: what is in a file, a run, or the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs import names
from cuda_ext.packages import able
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.files import disk_errors
from dreamlab.core.formats import ABOUT, missing
from dreamlab.core.table import Table
from dreamlab.core.text import did_you_mean

LISTS = ("systems", "scenes", "guidance", "recipes", "objects", "formats")


def describe(path: Path) -> list[str]:
    """A few lines on a run folder or a file."""
    if path.is_dir():
        from dreamlab.cli.run_lines import describe_run

        return describe_run(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or run folder")
    from dreamlab.intake.looking import described

    return described(path)


def measure(
    what: str, json_file: Path | None, scaling: bool = False, model: bool = False, plot: Path | None = None
) -> bool:
    """Run a bench by name; whether every floor was met."""
    from benchmarks import (
        export,
        gpu,
        index,
        kernels,
        prior,
        scale,
        scenes,
        soak,
        startup,
        step,
        studio,
        systems,
        workers,
    )
    from dreamlab.metrics.figures import report

    benches = {
        "export": export.parts,
        "gpu": gpu.measure,
        "index": index.measure,
        "kernels": lambda: kernels.modelled() if model else kernels.collect(kernels.names(), scaling),
        "prior": prior.measure,
        "scale": lambda: scale.measure(plot=plot),
        "scenes": scenes.measure,
        "soak": soak.measure,
        "startup": startup.measure,
        "step": step.measure,
        "studio": studio.measure,
        "systems": systems.measure,
        "workers": workers.measure,
    }
    if what not in benches:
        raise RecipeError(f"bench {what!r}{did_you_mean(what, benches)}")
    if (scaling or model) and what != "kernels":
        raise RecipeError(f"bench {what}: only `bench kernels` has --{'scaling' if scaling else 'model'}")
    if scaling and model:
        raise RecipeError("bench kernels: --scaling measures and --model does not; give one of them")
    if plot is not None and what != "scale":
        raise RecipeError(f"bench {what}: only `bench scale` has --plot")
    return report(benches[what](), json_file)


def draw_sheet(names: list[str], out: Path, seed: int, size: int) -> Path:
    """A labelled picture of objects of the world, each from a few sides."""
    from dreamlab.toybox.shapes import CATEGORIES
    from dreamlab.toybox.sheet import contact_sheet

    for name in names:
        if name not in CATEGORIES:
            raise InputError(
                f"toybox render: no object {name!r}{did_you_mean(name, CATEGORIES)}; see: dreamlab list objects"
            )
    if out.suffix.lower() != ".png":
        raise InputError(f"{out}: the sheet is a .png")
    with disk_errors("writing the sheet", out):
        return contact_sheet(out, names or None, seed, size=size)


def write_object(prompt: str, out: Path, seed: int, painted: bool) -> Path:
    """A true object of the world as a mesh file; gray unless `painted`."""
    import torch

    from dreamlab.core.files import write_atomic
    from dreamlab.core.text import slug
    from dreamlab.core.types import Mesh
    from dreamlab.export.glb import glb_bytes
    from dreamlab.export.writers.obj import obj_bytes
    from dreamlab.toybox.caption import programs_for
    from dreamlab.toybox.mesh import mesh
    from dreamlab.toybox.understand import understand
    from renderers.surface.draw import vertex_normals
    from renderers.surface.files import ply_bytes

    writers = {".glb": lambda it: glb_bytes(it, slug(prompt), {}), ".obj": lambda it: obj_bytes(it, slug(prompt))}
    writers[".ply"] = ply_bytes
    if out.suffix.lower() not in writers:
        raise InputError(f"{out}: a mesh is a .glb, .obj or .ply")
    found = mesh(programs_for(understand(prompt), seed), 128)
    colours = found.colours if painted else torch.full_like(found.colours, 0.7)
    made = Mesh(found.vertices, found.faces, colours, vertex_normals(found.vertices, found.faces))
    with disk_errors("writing the mesh", out):
        write_atomic(out, writers[out.suffix.lower()](made))
    return out


def listing(what: str) -> list[str]:
    """One line for each thing of a kind: name, what it is, its paper, its cost where it has one."""
    if what not in LISTS:
        raise RecipeError(f"list {what!r}{did_you_mean(what, LISTS)}")
    if what == "recipes":
        return [f"{name:<16} {line}" for name, line in names().items()]
    if what == "objects":
        from dreamlab.toybox.shapes import CATEGORIES

        return [f"{name:<16} parts: {', '.join(CATEGORIES[name].nameable)}" for name in sorted(CATEGORIES)]
    if what == "formats":
        lines = []
        for name, about in ABOUT.items():
            why = missing(name)
            lines.append(f"{name:<12} {about}" + (f" ({why})" if why else ""))
        return lines
    from dreamlab.hub.listing import summary
    from guidance import GUIDANCE
    from renderers import OPS, SCENES
    from systems import SYSTEMS

    tables: dict[str, Table[Any]] = {"systems": SYSTEMS, "scenes": SCENES, "guidance": GUIDANCE}
    lines = []
    for name in tables[what]:
        said = tables[what].spoken(name)
        more = f"; evaluations per view: {said.cost}" if said.cost else ""
        if what == "scenes" and (others := able(*OPS[name])):
            more = f"; backend: ours or {', '.join(others)}"
        if what == "guidance":
            weights = summary(name)
            more = f"; weights: {', '.join(weights)}" if weights else "; no weights"
        lines.append(f"{name:<16} {said.line} [{said.paper}{more}]")
    return lines
