# SPDX-License-Identifier: Apache-2.0
"""Triangles that engines, printers and simplifiers can do something with: one winding, turned outward, small holes
closed, no floaters that the scene's own pictures do not show, no parts that nobody can see.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cuda_ext.antialias import edge_neighbours
from dreamlab.core.files import Json
from dreamlab.core.triangles import areas
from dreamlab.core.types import Mesh
from renderers.surface.clean import parts_of, signed_volumes, used
from renderers.surface.draw import Surface, look, vertex_normals
from renderers.surface.pictures import Shots, joined_by_place
from renderers.surface.winding import walk

RIM = 24  # edges of a hole that is closed
SPECK = 1e-3  # share of the largest part's area below which a part goes unasked
DENIED = 0.5  # share of a part's pixels outside the scene's silhouettes that makes it a floater
SPLITS = 200  # edges that get a vertex in their middle, at most
SHOWN = 6  # pixels over all views that a part must have to be there at all


def repaired(mesh: Mesh, shots: Shots | None) -> tuple[Mesh, Json]:
    """A surface without textures, and what was done to it. With `shots` parts are judged by what is seen."""
    start = sound(mesh)
    facts: Json = {"dropped_faces": len(mesh.faces) - len(start.faces)}
    faces, turned = unified(start.vertices, start.faces)
    facts["turned_faces"] = turned
    start, facts["closed_holes"] = filled(unpinched(replace(start, faces=faces)))
    # A hole's lid winds against its rim, so it needs no second look; parts that are inside out are turned whole.
    faces = outward(start.vertices, start.faces)
    kept = worth_keeping(start.vertices, faces, shots)
    facts["removed_parts"] = int(torch.unique(parts_of(faces, len(start.vertices))[~kept]).numel())
    whole = used(replace(start, faces=faces[kept]))
    if not any(facts.values()) and len(whole.vertices) == len(mesh.vertices):
        return replace(mesh, normals=vertex_normals(mesh.vertices, mesh.faces)), facts  # in the order that it had
    return replace(whole, normals=vertex_normals(whole.vertices, whole.faces)), facts


def sound(mesh: Mesh) -> Mesh:
    """Vertices of equal place as one; without triangles that are not finite, have no area, or lie twice."""
    finite = torch.isfinite(mesh.vertices).all(1)
    faces = mesh.faces[finite[mesh.faces].all(1)]
    vertices = torch.where(finite[:, None], mesh.vertices, 0.0)
    places, faces, place = joined_by_place(vertices, faces)
    count = torch.zeros(len(places), 1).index_add(0, place, finite[:, None].float()).clamp(min=1)
    colours = torch.zeros_like(places).index_add(0, place, torch.nan_to_num(mesh.colours) * finite[:, None]) / count
    a, b, c = faces.unbind(1)
    faces = faces[(a != b) & (b != c) & (c != a) & (areas(places, faces) > 0)]
    faces = without_doubles(faces)
    return used(Mesh(places, faces, colours, vertex_normals(places, faces)))


def without_doubles(faces: Tensor) -> Tensor:
    """Of triangles with the same corners, one; none where as many look one way as the other: a pocket without room."""
    if not len(faces):
        return faces
    low, middle, high = faces.sort(1).values.unbind(1)
    pair = torch.unique((low << 32) + middle, return_inverse=True)[1]
    group = torch.unique((pair << 32) + high, return_inverse=True)[1]
    # An even permutation of sorted corners winds up, an odd one down.
    a, b, c = faces.unbind(1)
    up = torch.where((a < b).int() + (b < c).int() + (c < a).int() == 2, 1, -1)
    net = torch.zeros(int(group.max()) + 1, dtype=torch.int64).index_add(0, group, up)
    row = torch.arange(len(faces))
    wins = up == net.sign()[group]
    first = torch.full_like(net, len(faces)).scatter_reduce(0, group[wins], row[wins], "amin")
    return faces[first[group] == row]


def unified(vertices: Tensor, faces: Tensor) -> tuple[Tensor, int]:
    """Faces of which neighbours wind the same way, as far as they can (a Moebius strip cannot), turned so that most of
    a part's area stays as it was; and how many were turned."""
    other = edge_neighbours(faces).long()
    against = (other >= 0) & (faces.roll(-1, 1) == faces.roll(-1, 1).flatten()[other.clamp(min=0)])
    if not bool(against.any()):  # no two of them run along an edge the same way
        return faces, 0
    turned, part, _ = walk(faces)
    area = areas(vertices, faces).double().numpy()
    flipped = np.bincount(part, area * turned) > 0.5 * np.bincount(part, area)
    flip = torch.from_numpy(turned ^ flipped[part])
    return torch.where(flip[:, None], faces.flip(1), faces), int(flip.sum())


def outward(vertices: Tensor, faces: Tensor) -> Tensor:
    """The same, with connected parts turned whole that enclose a negative volume and lie in no other part's inside:
    the largest such part is the outside of everything; a cave in a shell stays what it is."""
    part = parts_of(faces, len(vertices))
    volume = torch.bincount(part, signed_volumes(vertices, faces))
    if not bool((volume < 0).any()):
        return faces
    low, high = _boxes(vertices, faces, part)
    inside = ((low[:, None] >= low[None]) & (high[:, None] <= high[None])).all(-1)
    inside &= ~torch.eye(len(volume), dtype=torch.bool) & (volume.abs()[:, None] < volume.abs()[None])
    wrong = (volume < 0) & ~inside.any(1)
    return torch.where(wrong[part][:, None], faces.flip(1), faces)


def _boxes(vertices: Tensor, faces: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    corners, index = vertices[faces], part[:, None].expand(-1, 3)
    empty = corners.new_full((int(part.max()) + 1, 3), torch.inf)
    low = empty.scatter_reduce(0, index, corners.amin(1), "amin")
    return low, (-empty).scatter_reduce(0, index, corners.amax(1), "amax")


def filled(mesh: Mesh) -> tuple[Mesh, int]:
    """With lids on holes of at most RIM edges: triangles from the rim to its middle; and how many there were."""
    open_ = edge_neighbours(mesh.faces) < 0
    if not bool(open_.any()):
        return mesh, 0
    rims = _rims(*(mesh.faces.roll(shift, 1)[open_].tolist() for shift in (1, -1)))  # a lid runs the other way round
    if not rims:
        return mesh, 0
    lids: list[tuple[int, int, int]] = []
    middles: list[list[int]] = []
    for rim in rims:
        if len(rim) == 3:
            lids.append((rim[0], rim[1], rim[2]))
            continue
        middle = len(mesh.vertices) + len(middles)
        middles.append(rim)
        lids += [(rim[i - 1], rim[i], middle) for i in range(len(rim))]
    vertices, colours = (
        torch.cat([values, *(values[rim].mean(0, keepdim=True) for rim in middles)])
        for values in (mesh.vertices, mesh.colours)
    )
    faces = torch.cat([mesh.faces, torch.tensor(lids, dtype=mesh.faces.dtype)])
    return Mesh(vertices, faces, colours, vertex_normals(vertices, faces)), len(rims)


def _rims(tails: list[int], heads: list[int]) -> list[list[int]]:
    """Closed walks of 3 to RIM vertices along the open edges, each vertex with one way on."""
    follow: dict[int, int] = {}
    branching: set[int] = set()
    for tail, head in zip(tails, heads, strict=True):
        branching |= {tail} & follow.keys()
        follow[tail] = head
    found: list[list[int]] = []
    walked = set(branching)
    for first in follow:
        rim: list[int] = []
        here = first
        while here not in walked and here in follow and len(rim) <= RIM:
            walked.add(here)
            rim.append(here)
            here = follow[here]
        if here == first and 3 <= len(rim) <= RIM:
            found.append(rim)
    return found


def unpinched(mesh: Mesh) -> Mesh:
    """Without edges that more than two triangles share: what touches them is cut out, and the rims that are left, one
    of each sheet that met there, get lids. Where that leaves more open edges than before, nothing is done."""
    from renderers.surface.finish.health import edges_of

    edges, count, _ = edges_of(mesh.faces)
    if not bool((count > 2).any()):
        return mesh
    pinched = torch.zeros(len(mesh.vertices), dtype=torch.bool)
    pinched[edges[count > 2].flatten()] = True
    made, _ = filled(used(replace(mesh, faces=mesh.faces[~pinched[mesh.faces].any(1)])))
    was, now = (int((edges_of(faces)[1] != 2).sum()) for faces in (mesh.faces, made.faces))
    return made if now < was else mesh


def parted(mesh: Mesh) -> Mesh:
    """Sheets of a closed surface that touch along edges, with vertices of their own there: of the triangles around an
    edge each goes on in the one across the solid between them. So every edge is of two triangles, and nothing moves.
    Where both sheets hang together at both ends of the edge, each but one gets a vertex in its middle."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    one, other = (half for half in _partners(mesh).unbind(1))
    rows, columns = torch.cat([one, _after(one)]).numpy(), torch.cat([_after(other), other]).numpy()
    corners = mesh.faces.flatten()
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(corners),) * 2)
    whose = connected_components(graph, directed=False)[1]  # [3 F] which vertex each corner is
    first = corners[torch.from_numpy(np.unique(whose, return_index=True)[1])]
    faces = torch.from_numpy(whose.astype(np.int64)).reshape(-1, 3)
    made = Mesh(mesh.vertices[first], faces, mesh.colours[first], mesh.normals[first])
    for _ in range(SPLITS):
        ends = torch.stack([made.faces.flatten(), made.faces.roll(-1, 1).flatten()], 1).sort(1).values
        _, index, count = ends.unique(dim=0, return_inverse=True, return_counts=True)
        met = _partners(made)
        met = met[count[index[met[:, 0]]] > 2]
        if not len(met):
            break
        made = _halved(made, *met[0].tolist())
    return made


def _after(half: Tensor) -> Tensor:
    """The corner that follows a corner (3 face + place) in its triangle."""
    return half // 3 * 3 + (half + 1) % 3


def _halved(mesh: Mesh, one: int, other: int) -> Mesh:
    """With a vertex in the middle of an edge, for the two triangles with the half edges `one` and `other` alone."""
    a, b = mesh.faces.flatten()[[one, int(_after(torch.tensor(one)))]].tolist()
    middle = len(mesh.vertices)
    faces, more = mesh.faces.clone(), []
    for half in (one, other):
        row, place = divmod(half, 3)
        new = faces[row].clone()
        faces[row, (place + 1) % 3], new[place] = middle, middle
        more.append(new)
    vertices, colours, normals = (
        torch.cat([values, values[[a, b]].mean(0, keepdim=True)])
        for values in (mesh.vertices, mesh.colours, mesh.normals)
    )
    return Mesh(vertices, torch.cat([faces, torch.stack(more)]), colours, normals)


def _partners(mesh: Mesh) -> Tensor:
    """[N, 2] half edges (3 face + corner) of a closed surface, each with the one that its triangle goes on in."""
    tails, heads = mesh.faces.flatten(), mesh.faces.roll(-1, 1).flatten()
    key = torch.minimum(tails, heads) * len(mesh.vertices) + torch.maximum(tails, heads)
    order = key.argsort(stable=True)
    _, count = key[order].unique_consecutive(return_counts=True)
    starts = count.cumsum(0) - count
    pairs = [order[starts[count == 2, None] + torch.arange(2)]]
    for start, many in zip(starts[count > 2].tolist(), count[count > 2].tolist(), strict=True):
        around = order[start : start + many]
        ahead = tails[around] < heads[around]
        met = _joined(mesh, around[ahead].tolist(), around[~ahead].tolist())
        pairs.append(torch.tensor(met, dtype=order.dtype).reshape(-1, 2))
    return torch.cat(pairs)


def _joined(mesh: Mesh, ahead: list[int], back: list[int]) -> list[tuple[int, int]]:
    """Half edges (3 face + corner) along an edge and against it, each with its partner; none where there is none."""
    if len(ahead) != len(back):
        return []
    flat = mesh.faces.flatten()
    a, b = mesh.vertices[flat[ahead[0]]], mesh.vertices[flat[ahead[0] // 3 * 3 + (ahead[0] + 1) % 3]]
    along = torch.nn.functional.normalize(b - a, dim=0)
    far = torch.tensor([half // 3 * 3 + (half + 2) % 3 for half in (*ahead, *back)])
    out = mesh.vertices[flat[far]] - a
    x = torch.nn.functional.normalize(out[0] - (out[0] @ along) * along, dim=0)
    angle = torch.atan2(out @ torch.linalg.cross(along, x), out @ x)
    # What is solid lies behind a triangle: clockwise of one along the edge, the other way of one against it.
    gap = torch.remainder(angle[: len(ahead), None] - angle[None, len(ahead) :], 2 * torch.pi)
    partner = gap.argmin(1).tolist()
    return [(half, back[i]) for half, i in zip(ahead, partner, strict=True)] if len({*partner}) == len(back) else []


def worth_keeping(vertices: Tensor, faces: Tensor, shots: Shots | None) -> Tensor:
    """[F] bool: faces of parts that are no specks, that some view shows, and that the scene's silhouettes do not deny.
    The largest part that is seen always stays."""
    part = parts_of(faces, len(vertices))
    area = torch.bincount(part, areas(vertices, faces).double())
    kept = area >= SPECK * area.max()
    if shots is not None and len(area) > 1:
        view = look(Surface.of(vertices, faces), shots.cameras, shots.size)
        whose = part[view.raster.triangle.reshape(-1)[view.hit].long() - 1]
        seen = torch.bincount(whose, minlength=len(area))
        missing = (shots.alpha.reshape(-1)[view.hit] < 0.5).double()
        denied = torch.bincount(whose, missing, len(area))
        shown = (seen >= SHOWN) & (denied <= DENIED * seen)
        kept &= shown | (seen == seen.max())
    return (kept if bool(kept.any()) else area == area.max())[part]
