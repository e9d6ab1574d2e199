# SPDX-License-Identifier: Apache-2.0
"""Texture only: a user's asset kept beside the run that paints it, and given back with other materials.

The files as they were lie in `asset/` of the run folder; what is written lies in `painted/` under the asset's own name.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dreamlab.core.errors import InputError
from dreamlab.core.files import Json, write_atomic, write_json
from dreamlab.core.foreign.asset import ASSETS, ForeignAsset, read_asset
from dreamlab.core.foreign.files import read_bytes
from dreamlab.core.foreign.gltf import GltfFile
from dreamlab.core.foreign.headers import gltf_document
from dreamlab.core.foreign.mesh_parser import MOST_BESIDE, MOST_FILE, Beside
from dreamlab.core.foreign.obj import lines_of
from dreamlab.core.text import slug
from dreamlab.core.types import Scene, Textures
from dreamlab.export.png import png_bytes
from dreamlab.export.report import REPORT, entries, merged
from dreamlab.export.staging import Staged
from dreamlab.intake.gltf_patch import GltfPatch, NewPictures, bare_glb
from dreamlab.intake.obj_patch import patched_mtl, patched_obj
from dreamlab.run.folder import Run
from renderers.mesh import TexturedMesh
from renderers.surface.canvas import SUFFIX, OwnCanvas, own_textures
from renderers.surface.stretch import read_canvas

FOLDER, ABOUT, PAINTED = "asset", "asset.json", "painted"
MOST_SIDE = 2048  # texels of a picture that is written
MAPS = ("base", "rough_metal", "normal")


@dataclass(frozen=True)
class Original:
    """An asset as it came: its own file first, then those that it names, by their names there."""

    name: str
    files: Mapping[str, bytes]

    @property
    def kind(self) -> str:
        return Path(self.name).suffix.lower()


def taken(path: Path) -> Original:
    """A user's file and what lies beside it, of bounded size."""
    if path.suffix.lower() not in ASSETS:
        raise InputError(f"mesh {path}: must be one of {', '.join(ASSETS)}")
    data = read_bytes(path, "mesh", MOST_FILE)
    files = {path.name: data}
    beside = Beside(path.parent)
    for name in _named(path.name, data):
        try:
            files[name] = beside.get(name)
        except FileNotFoundError:
            continue
    if path.suffix.lower() == ".obj":
        for name in [name for name in files if name != path.name]:
            for picture in _pictures(files[name]):
                try:
                    files.setdefault(picture, beside.get(picture))
                except FileNotFoundError:
                    continue
    if sum(map(len, files.values())) > MOST_FILE + MOST_BESIDE:
        raise InputError(f"mesh {path}: it and the files beside it are too large together; at most {MOST_FILE} bytes")
    return Original(path.name, files)


def _named(name: str, data: bytes) -> list[str]:
    """Files that an asset names, as it names them."""
    from urllib.parse import unquote

    if name.lower().endswith(".gltf"):
        document = gltf_document(data)
        uris = [each.get("uri") for key in ("buffers", "images") for each in document.get(key, [])]
        return [unquote(uri) for uri in uris if isinstance(uri, str) and not uri.startswith("data:")]
    if name.lower().endswith(".obj"):
        found = (b" ".join(words[1:]) for _, words in lines_of(data) if words[0] == b"mtllib")
        return [each.decode("utf-8", "surrogateescape") for each in found]
    return []


def _pictures(library: bytes) -> list[str]:
    rows = (words for _, words in lines_of(library) if words[0].startswith((b"map_", b"norm", b"bump")))
    return [words[-1].decode("utf-8", "surrogateescape") for words in rows if len(words) > 1]


def keep(run: Run, given: Original) -> None:
    """The asset as it came, in the run's own folder."""
    folder = run.path / FOLDER
    folder.mkdir(exist_ok=True)
    for name, data in given.files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, data)
    write_json(run.path / ABOUT, {"file": given.name})


def kept(run: Run) -> Original:
    """What `keep` laid down."""
    try:
        name = json.loads((run.path / ABOUT).read_text("utf-8"))["file"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{run.path}: is no run of `texture`: {ABOUT} is missing or damaged") from None
    return taken(run.path / FOLDER / Path(str(name)).name)


def painted(
    given: Original,
    canvas: OwnCanvas,
    made: Textures,
    origin: Json,
    stem: str,
    maps: Sequence[str],
    shape: ForeignAsset,
) -> dict[str, bytes]:
    """The asset with the material `made` of the whole square: its files by name, the one to open first. `shape` is the
    asset as it was read."""
    slots = canvas.facts["slots"]
    textures = []
    for number, slot in enumerate(slots):
        usual = made.base.shape[0] // _side(len(slots))
        wide, high = slot.get("base_size") or (usual, usual)
        if slot["fresh"]:  # the old size was for the old coordinates
            wide = high = max(wide, high, usual)
        textures.append(own_textures(canvas, made, number, (min(wide, MOST_SIDE), min(high, MOST_SIDE))))
    if given.kind == ".obj":
        return _painted_obj(given, canvas, textures, stem, maps)
    glb = given.kind != ".gltf"
    if given.kind in (".glb", ".gltf"):
        data = given.files[given.name]
    else:  # no room for materials in the format: a GLB of the same triangles
        data = bare_glb(shape.points.numpy(), shape.faces.numpy(), stem)
    patch = GltfPatch.of(data, glb, stem)
    sets = _reseamed(
        patch, GltfFile(copy.deepcopy(patch.document), patch.binary or b"", given.files.__getitem__), canvas
    )
    for number, (slot, coat) in enumerate(zip(slots, textures, strict=True)):
        material = slot["material"]
        if material is None or (slot["fresh"] and any(o["of"] == slot["of"] and not o["fresh"] for o in slots)):
            material = patch.material(material, slot["name"])
            _wear(patch, canvas, number, material)
        pictures = {name: data for name, data in _files_of(coat, canvas, number).items() if name in maps}
        patch.dress(material, slot, NewPictures(f"{number}_{slug(slot['name'])}", pictures), sets.get(number))
    if canvas.facts["tinted"] and "base" in maps:
        patch.forget_colours({(part["mesh"], part["primitive"]) for part in canvas.facts["parts"]})
    patch.tell({"dreamlab": origin} if origin else {})
    main, beside = patch.finished()
    others = {} if glb else {name: data for name, data in given.files.items() if name != given.name}
    return {stem + (".glb" if glb else ".gltf"): main} | others | beside


def _side(count: int) -> int:
    return int(np.ceil(np.sqrt(count)))


def _files_of(coat: Textures, canvas: OwnCanvas, slot: int) -> dict[str, bytes]:
    """PNGs by what they show; beside roughness and metallic the red is 1 (occlusion, 3.9.3): there is none of ours."""
    base = coat.base
    alpha = canvas.alpha(slot, (base.shape[1], base.shape[0]))
    found = {"base": png_bytes(base if alpha is None else torch.cat([base, alpha], -1))}
    found["rough_metal"] = png_bytes(torch.cat([torch.ones_like(coat.roughness), coat.roughness, coat.metallic], -1))
    return found if coat.normal is None else found | {"normal": png_bytes(coat.normal)}


def _fresh(canvas: OwnCanvas) -> dict[tuple[int, int], str]:
    """The primitives that have new coordinates, and their part."""
    parts = canvas.facts["parts"]
    return {(parts[int(name)]["mesh"], parts[int(name)]["primitive"]): name for name in canvas.fresh}


def _reseamed(patch: GltfPatch, read: GltfFile, canvas: OwnCanvas) -> dict[int, int]:
    """New coordinates for every primitive that has them; the set's number by slot, one for all that wear it."""
    wanted: dict[int, list[tuple[tuple[int, int], str]]] = {}
    for place, name in _fresh(canvas).items():
        of = canvas.facts["parts"][int(name)]["slot"]
        slot = next(i for i, each in enumerate(canvas.facts["slots"]) if each["fresh"] and each["of"] == of)
        wanted.setdefault(slot, []).append((place, name))
    sets = {slot: max(patch.sets(*place) for place, _ in places) for slot, places in wanted.items()}
    for slot, places in wanted.items():
        for (mesh, primitive), name in places:
            turned = canvas.facts["parts"][int(name)].get("turned", False)
            patch.reseam(read, mesh, primitive, canvas.fresh[name].numpy(), turned, sets[slot])
    return sets


def _wear(patch: GltfPatch, canvas: OwnCanvas, slot: int, material: int) -> None:
    """Let the primitives of a slot wear a material that is new."""
    wanted, fresh = canvas.facts["slots"][slot], _fresh(canvas)
    for part in canvas.facts["parts"]:
        mesh, primitive = part["mesh"], part["primitive"]
        if part["slot"] == wanted["of"] and ((mesh, primitive) in fresh) == wanted["fresh"]:
            patch.document["meshes"][mesh]["primitives"][primitive]["material"] = material


def _painted_obj(
    given: Original, canvas: OwnCanvas, textures: Sequence[Textures], stem: str, maps: Sequence[str]
) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    named: dict[str, dict[str, str]] = {}
    for slot, coat in zip(canvas.facts["slots"], textures, strict=True):
        pictures = {"base": coat.base, "rough": coat.roughness, "metal": coat.metallic}
        pictures |= {} if coat.normal is None else {"normal": coat.normal}
        wanted = [kind for kind in pictures if kind in maps or (kind in ("rough", "metal") and "rough_metal" in maps)]
        own = named.setdefault(slot["name"], {})
        for kind in wanted:
            own[kind] = f"{stem}_{slug(slot['name'])}_{kind}.png"
            files[own[kind]] = png_bytes(pictures[kind])
    libraries = [given.files[name] for name in _named(given.name, given.files[given.name]) if name in given.files]
    kept_files: dict[str, bytes] = {}

    def copied(name: str) -> None:
        if name in given.files:
            kept_files[name] = given.files[name]

    library = patched_mtl(libraries, named, copied)
    fresh = canvas.fresh["0"].numpy() if canvas.fresh else None
    text = patched_obj(given.files[given.name], f"{stem}.mtl", fresh)
    return {f"{stem}.obj": text, f"{stem}.mtl": library} | kept_files | files


def give_back(
    run: Run, scene: Scene, step: int, origin: Json, maps: Sequence[str] = MAPS, stem: str = ""
) -> list[Path]:
    """Write the asset of a run with what its scene has learnt into the run's folder `painted`, as `stem` or under its
    own name."""
    canvases = sorted(run.path.glob(f"*{SUFFIX}"))
    if not isinstance(scene, TexturedMesh) or len(canvases) != 1:
        raise InputError(f"{run.path}: is no run that paints an asset")
    given, canvas = kept(run), read_canvas(canvases[0])
    shape = read_asset(run.path / FOLDER / given.name, "mesh")
    wanted = [name for name in maps if scene.settings.shading != "flat" or name == "base"]
    stem = stem or Path(given.name).stem
    files = painted(given, canvas, scene.textures().to("cpu"), origin, stem, wanted, shape)
    staged = Staged(run.path / PAINTED)
    staged.add(files)
    told = {name: value for name, value in canvas.facts.items() if name != "parts"}
    staged.add({REPORT: merged(run.path / PAINTED, entries(files, step, given.kind), asset=told)})
    return staged.commit()[: len(files)]


def target(given: Original, path: Path, output: Path) -> None:
    """Refuse at once a place whose name promises another format than the asset has."""
    suffix = given.kind if given.kind in (".gltf", ".obj") else ".glb"
    if output.suffix.lower() != suffix:
        raise InputError(f"-o {output}: {given.name} painted is a {suffix} file; name it {output.stem}{suffix}")
    if output.exists() and output.resolve() == path.resolve():
        raise InputError(f"-o {output}: is the file itself, which stays; choose another name")
    if not output.absolute().parent.is_dir():
        raise InputError(f"-o {output}: there is no folder {output.absolute().parent}")


def copy_out(paths: Sequence[Path], output: Path | None) -> Path:
    """The painted asset where it was asked for, with the files that it names beside it; what of those lies there and is
    another is not written over."""
    first = paths[0]
    if output is None:
        return first
    beside = [(path, output.parent / path.relative_to(first.parent)) for path in paths[1:]]
    for path, place in beside:
        ours = place.name.startswith((f"{output.stem}_", f"{output.stem}.mtl"))
        if not ours and place.exists() and place.read_bytes() != path.read_bytes():
            raise InputError(f"-o {output}: {place} is another file of that name; choose another folder")
    for path, place in beside:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, path.read_bytes())
    write_atomic(output, first.read_bytes())
    return output
