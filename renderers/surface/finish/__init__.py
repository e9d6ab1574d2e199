# SPDX-License-Identifier: Apache-2.0
"""From any scene to a finished asset: extracted, repaired, decimated, fitted to the scene's pictures, unwrapped, baked.

Every step is bounded in time and memory and has simpler ways behind it; what was done, why, and what it kept of the
scene's pictures is in the report. Nothing here is a reason to come home without a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dreamlab.core.bounded import GIB
from dreamlab.core.errors import Diverged, OutOfMemory
from dreamlab.core.files import Json
from dreamlab.core.types import Frames, Mesh, Scene
from renderers.surface.atlas import Atlas, methods, unwrap
from renderers.surface.clean import fewer_faces
from renderers.surface.extraction import extract
from renderers.surface.finish.baking import GUTTER, METALLIC, ROUGHNESS, baked, laid_out, shaded
from renderers.surface.finish.fit import carried, fitted
from renderers.surface.finish.health import health, slivers
from renderers.surface.finish.journal import Journal, Way
from renderers.surface.finish.parcel import packed, unpacked
from renderers.surface.finish.repair import repaired, sound
from renderers.surface.finish.simplify import LEAST, SPARE, decimated
from renderers.surface.pictures import FINER, Shots, hardened, over_black, taken_of
from renderers.surface.views import SIZE, VIEWS, all_around, device_of

__all__ = ["METALLIC", "ROUGHNESS", "FinishSettings", "Finished", "finish"]

TAKEN = 40  # pictures that a surface is fitted to and painted with
ENOUGH = (30.0, 0.97)  # dB and IoU that a surface has by itself when nothing is left to fit
COARSEST = 16  # cells a side of the last grid that is tried
SLIVERS = 0.01  # share of them that a surface may have and be left alone
SMALLEST = 256  # texels a side of the last texture that is tried


@dataclass(frozen=True)
class FinishSettings:
    """What is asked for."""

    resolution: int = 96  # cells a side of the grid that a surface is found on
    faces: int = 40_000  # at most
    texture: int = 1024  # texels a side; 0: colours of vertices
    fit: bool = True  # vertices and colours are drawn to the scene's pictures
    seconds: float = 300.0  # of wall time for each way of each step
    memory: int = 8 * GIB  # for each of them, beyond what the process has


class Finished(NamedTuple):
    """What came of it, on the host."""

    mesh: Mesh
    steps: list[Json]  # name, way, why, seconds, psnr, iou of each
    health: Json
    views: Frames  # of the scene, as `over_black` has them: VIEWS of FINER * SIZE pixels a side


def finish(scene: Scene, settings: FinishSettings) -> Finished:
    """The scene's surface with textures, as far as they can be had."""
    journal = Journal(settings.seconds, settings.memory)
    warm()
    mesh, whole = _extracted(scene, settings, journal)
    views = over_black(scene, VIEWS, FINER * SIZE)
    journal.truth = truth = Shots(all_around(VIEWS), *hardened(views)).pooled(FINER)
    if whole:
        journal.truth = None  # a material is shown under light, and nothing of the shape changes
        mesh = _dressed(mesh, journal)
        return Finished(mesh, journal.steps, health(mesh), views)
    journal.measure(mesh)
    shots = taken_of(scene, TAKEN, picture_size(settings.texture))
    mesh = _repaired(mesh, shots, journal)
    fine, mesh = _decimated(mesh, settings, journal)
    if settings.fit:
        fine, mesh = _fitted(fine, mesh, shots, truth, journal)
    if settings.texture:
        mesh = _textured(fine, mesh, shots, settings.texture, journal)
    return Finished(mesh, journal.steps, health(mesh), views)


def warm() -> None:
    """What the children will import, once and not in each of them."""
    import fast_simplification  # noqa: F401
    import scipy.ndimage
    import scipy.sparse.csgraph
    import scipy.spatial  # noqa: F401
    from skimage.measure import marching_cubes  # noqa: F401


def picture_size(texels: int) -> int:
    """Pixels a side of the pictures that a texture is painted from: a multiple of those that are compared."""
    return SIZE * max(FINER, min(texels // (4 * SIZE), 10))


def _extracted(scene: Scene, settings: FinishSettings, journal: Journal) -> tuple[Mesh, bool]:
    """The surface, and whether it is to be kept as it is; on a coarser grid when memory or time does not suffice."""
    host = device_of(scene).type == "cpu"

    def at(resolution: int) -> Way:
        def work() -> tuple[Mapping[str, Tensor], Json]:
            try:
                mesh = extract(scene, resolution)
            except Diverged as error:
                return {}, {"diverged": str(error)}
            return packed(mesh), {}

        return Way(f"grid of {resolution}", work)

    sizes = [settings.resolution]
    while sizes[-1] > COARSEST:
        sizes.append(max(sizes[-1] // 2, COARSEST))
    done = journal.first("extract", [at(size) for size in sizes], apart=host)
    if done is None:
        raise OutOfMemory(f"no surface could be extracted: {journal.steps[-1]['why']}; lower export.resolution")
    if "diverged" in done.facts:
        raise Diverged(str(done.facts["diverged"]))
    mesh = unpacked(done.tensors)
    if not len(mesh.faces):
        raise Diverged("empty geometry: the surface has no triangles; train longer, or raise export.resolution")
    return mesh, mesh.textures is not None


def _repaired(mesh: Mesh, shots: Shots, journal: Journal) -> Mesh:
    def with_(judges: Shots | None) -> Way:
        def work() -> tuple[Mapping[str, Tensor], Json]:
            made, facts = repaired(mesh, judges)
            return packed(made), facts

        return Way("repaired" if judges is not None else "repaired, unseen", work)

    merged = Way("merged", lambda: (packed(sound(mesh)), {}))
    return journal.mesh("repair", [with_(shots), with_(None), merged], mesh)


def _decimated(mesh: Mesh, settings: FinishSettings, journal: Journal) -> tuple[Mesh, Mesh]:
    """The surface as it was, and with fewer triangles. Of what marching cubes makes a quarter is enough: flat places
    have as many as edges, and slivers along the grid besides."""
    count = min(settings.faces, max(len(mesh.faces) // SPARE, LEAST))
    if len(mesh.faces) <= count and slivers(mesh.vertices, mesh.faces) < SLIVERS:
        journal.skip("decimate", f"{len(mesh.faces)} triangles of good shape are few enough")
        return mesh, mesh
    ways = [
        Way("quadric, edges turned", lambda: (packed(decimated(mesh, count)), {})),
        Way("quadric", lambda: (packed(fewer_faces(mesh, count)), {})),
    ]
    return mesh, journal.mesh("decimate", ways, mesh)


def _fitted(fine: Mesh, mesh: Mesh, shots: Shots, truth: Shots, journal: Journal) -> tuple[Mesh, Mesh]:
    before = journal.kept
    if before is not None and before.psnr >= ENOUGH[0] and before.iou >= ENOUGH[1]:
        journal.skip("fit", f"the surface is its own: {before.psnr:.1f} dB, IoU {before.iou:.3f}")
        return fine, mesh

    def work() -> tuple[Mapping[str, Tensor], Json]:
        with torch.enable_grad():
            made = fitted(mesh, shots.pooled(shots.size // SIZE))
        return packed(made), {}

    # A child cannot use autograd when the parent's has threads for a GPU.
    done = journal.first("fit", [Way("pictures", work)], apart=not torch.cuda.is_initialized())
    if done is None:
        return fine, mesh
    made = unpacked(done.tensors)
    journal.measure(made)
    if before is not None and journal.kept is not None and journal.kept.psnr < before.psnr:
        journal.undo("unfitted", f"the fit came to {journal.kept.psnr:.2f} dB, without it there are {before.psnr:.2f}")
        journal.measure(mesh)
        return fine, mesh
    return carried(fine, mesh.vertices, made.vertices), made


def _textured(fine: Mesh, mesh: Mesh, shots: Shots, size: int, journal: Journal) -> Mesh:
    """With texture coordinates and textures; as it is, with colours at its vertices, where that cannot be had."""

    def laid(method: str) -> Way:
        def work() -> tuple[Mapping[str, Tensor], Json]:
            return unwrap(mesh.vertices, mesh.faces, size, method, GUTTER * size)._asdict(), {}

        return Way(method, work)

    done = journal.first("unwrap", [laid(method) for method in methods()])
    if done is None:
        journal.skip("bake", "no texture coordinates: colours stay at the vertices")
        return mesh
    atlas = Atlas(**done.tensors)

    def painted(texels: int) -> Way:
        def work() -> tuple[Mapping[str, Tensor], Json]:
            made, facts = baked(laid_out(mesh, atlas, texels), fine, shots)
            return packed(made), facts

        return Way(f"{texels} texels", work)

    sizes = [size]
    while sizes[-1] > SMALLEST:
        sizes.append(sizes[-1] // 2)
    return journal.mesh("bake", [painted(each) for each in sizes], mesh, otherwise="colours stay at the vertices")


def _dressed(mesh: Mesh, journal: Journal) -> Mesh:
    """A mesh that has its textures keeps them and gains occlusion and tangents."""
    journal.skip("decimate", "the mesh has textures of its own: its triangles and atlas stay")
    return journal.mesh("bake", [Way("occlusion", lambda: (packed(shaded(mesh)), {}))], mesh)
