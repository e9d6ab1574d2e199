# SPDX-License-Identifier: Apache-2.0
"""From a surface that changes to one that moves: bones on the surface of time 0 are moved so that it comes to lie on
the surface of every later time, as rigidly as that allows.

Non-rigid iterative closest points (Amberg et al. 2007) with a graph of bones that stays as rigid as possible (Sorkine
and Alexa 2007): points seek the nearest of the other surface with alike colour and side, the other surface's points
seek them, and the bones follow both and their neighbours. Every time starts from where the one before it ended.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreamlab.core.errors import Diverged
from dreamlab.core.files import Json
from dreamlab.core.triangles import scattered
from dreamlab.core.types import Changing, LevelSet, Mesh, Skin
from dreamlab.export.skinning import distances, nearest_turn, quats_of, smooth_weights, spread, welded
from renderers.surface.extraction import surface

MOMENTS = 25  # of the motion, the first is time 0
CELLS = 64  # a side of the grid of later surfaces
BONES, NEIGHBOURS = 64, 6
POINTS = 3000  # of a surface, that seek the other's
ROUNDS = ((10.0, 6), (1.0, 6), (0.2, 8))  # stiffness, and how often points seek anew with it
COLOUR, SIDE = 0.3, 0.1  # metres that a full change of colour, or of side, counts
ALONG = 0.3  # of a point's way along the surface it seeks: samples lie anywhere on it
FAR = 4.0  # times the middle distance: such a pair is a mistake


@dataclass(frozen=True)
class Sampled:
    """Points all over a surface, with all that makes them alike."""

    points: Tensor  # [P, 3]
    normals: Tensor  # [P, 3]
    colours: Tensor  # [P, 3]

    @staticmethod
    def of(mesh: Mesh) -> Sampled:
        spots = scattered(mesh.vertices, mesh.faces, POINTS, torch.Generator().manual_seed(0))
        normals = normalize(spots.read(mesh.normals), dim=1)
        return Sampled(spots.read(mesh.vertices), normals, spots.read(mesh.colours))

    def features(self) -> Tensor:
        return torch.cat([self.points, SIDE / 2 * self.normals, COLOUR * self.colours], 1)


@dataclass(frozen=True)
class Graph:
    """Bones [K, 3], who is near whom [K, N], and which four carry each sample."""

    bones: Tensor
    near: Tensor
    index: Tensor  # [P, 4]
    weight: Tensor  # [P, 4]

    def dense(self) -> Tensor:
        """[P, K]"""
        return torch.zeros(len(self.index), len(self.bones)).scatter_add_(1, self.index, self.weight)

    def moved(self, points: Tensor, turn: Tensor, place: Tensor) -> Tensor:
        own = points[:, None] - self.bones[self.index]
        there = torch.einsum("pkij,pkj->pki", turn[self.index], own) + place[self.index]
        return (self.weight[..., None] * there).sum(1)

    def turned(self, normals: Tensor, turn: Tensor) -> Tensor:
        blended = torch.einsum("pk,pkij,pj->pi", self.weight, turn[self.index], normals)
        return normalize(blended, dim=1)


def registered(scene: Changing, mesh: Mesh, moments: int = MOMENTS) -> tuple[Skin | None, Json]:
    """A skin of the mesh's vertices, and how far from the scene's later surfaces it takes them."""
    level = _level_of(scene, mesh)
    times = torch.linspace(0, 1, moments)
    places, row, corners = welded(mesh.vertices, mesh.faces)
    bones = spread(places, BONES)
    index, weight = smooth_weights(distances(places, corners, bones))
    still = Sampled.of(mesh)
    nearest = torch.cdist(still.points, places).argmin(1)
    near = torch.cdist(bones, bones).topk(min(NEIGHBOURS + 1, len(bones)), largest=False).indices[:, 1:]
    graph = Graph(bones, near, index[nearest], weight[nearest])
    turn, place = torch.eye(3).expand(len(bones), 3, 3), bones
    turns, found, off, gone = [turn], [place], [], []
    for time in times[1:]:
        try:
            if scene.loops and float(time) == 1.0:
                turn, place = turns[0], found[0]
            else:
                there = Sampled.of(_surface_at(scene, float(time), level))
                turn, place = _follow(graph, still, there, turn, place)
                off.append(_apart(graph.moved(still.points, turn, place), there))
        except Diverged:  # nothing is there: it stays where it was
            gone.append(float(time))
        turns.append(turn)
        found.append(place)
    quats = quats_of(torch.stack(turns))
    skin = Skin(times, bones, index[row], weight[row], torch.stack(found) - bones, quats)
    size = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())
    error = max(off, default=0.0)
    facts: Json = {"way": "registered bones", "keys": len(times), "bones": len(bones), "loops": scene.loops}
    facts |= {"error": sum(off) / max(len(off), 1), "error_most": error, "fraction": error / max(size, 1e-9)}
    return skin, facts | ({"empty_at": gone} if gone else {})


def _level_of(scene: Changing, mesh: Mesh) -> float | None:
    """At which level of the density the mesh lies: what chose it looked at pictures."""
    offer = scene.offer_at(CELLS, 0.0)
    if not isinstance(offer, LevelSet):
        return None
    size = torch.tensor(offer.values.shape) - 1
    at = 2 * (mesh.vertices - torch.tensor(offer.low)) / (offer.cell * size) - 1
    grid = offer.values.detach().cpu().float()[None, None]
    read = torch.nn.functional.grid_sample(grid, at.flip(-1)[None, None, None], align_corners=True)
    return float(read.median())


def _surface_at(scene: Changing, time: float, level: float | None) -> Mesh:
    with torch.no_grad():
        offer = scene.offer_at(CELLS, time)
        if not isinstance(offer, LevelSet) or level is None:
            raise Diverged("a surface that changes must be the level of a density")
        return surface(LevelSet(offer.values, offer.low, offer.cell, offer.colour, level))


def _follow(graph: Graph, still: Sampled, there: Sampled, turn: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Turns [K, 3, 3] and places [K, 3] of the bones that bring the samples onto another surface."""
    from scipy.spatial import cKDTree

    tree, weight = cKDTree(there.features().numpy()), graph.dense()
    for stiffness, rounds in ROUNDS:
        for _ in range(rounds):
            now = graph.moved(still.points, turn, place)
            seen = Sampled(now, graph.turned(still.normals, turn), still.colours)
            away, row = tree.query(seen.features().numpy())
            back, whose = cKDTree(seen.features().numpy()).query(there.features().numpy())
            source = torch.cat([torch.arange(len(now)), torch.from_numpy(whose)])
            target = torch.cat([torch.from_numpy(row), torch.arange(len(there.points))])
            length = torch.cat([torch.from_numpy(away), torch.from_numpy(back)])
            keep = length <= FAR * length.median()
            goal, mass = _goals(now, there, source[keep], target[keep])
            place = _places(graph, weight, still.points, turn, goal, mass, stiffness)
            turn = _turns(graph, still.points, place, goal, mass, stiffness)
    return turn, place


def _goals(now: Tensor, there: Sampled, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Where each sample is drawn to [P, 3], and how strongly [P]."""
    way = there.points[target] - now[source]
    normal = there.normals[target]
    across = (way * normal).sum(-1, keepdim=True) * normal
    wish = now[source] + across + ALONG * (way - across)
    mass = torch.zeros(len(now)).index_add_(0, source, torch.ones(len(source)))
    total = torch.zeros_like(now).index_add_(0, source, wish)
    return torch.where(mass[:, None] > 0, total / mass.clamp(min=1)[:, None], now), mass


def _places(
    graph: Graph, weight: Tensor, points: Tensor, turn: Tensor, goal: Tensor, mass: Tensor, stiffness: float
) -> Tensor:
    """Normal equations of the bones' places: samples at their goals, edges between bones as their turns have them."""
    count, spring = len(graph.bones), stiffness * float((mass[:, None] * weight.square()).sum(0).mean())
    own = points[:, None] - graph.bones[graph.index]
    without = goal - (graph.weight[..., None] * torch.einsum("pkij,pkj->pki", turn[graph.index], own)).sum(1)
    table, right = weight.T @ (mass[:, None] * weight), weight.T @ (mass[:, None] * without)
    k = torch.arange(count)[:, None].expand_as(graph.near).reshape(-1)
    j = graph.near.reshape(-1)
    edge = ((turn[k] + turn[j]) / 2 @ (graph.bones[k] - graph.bones[j])[..., None])[..., 0]
    for a, b, sign in ((k, j, 1.0), (j, k, -1.0)):
        right.index_add_(0, a, sign * spring * edge)
        table.index_put_((a, a), torch.full((len(a),), spring), accumulate=True)
        table.index_put_((a, b), torch.full((len(a),), -spring), accumulate=True)
    return torch.linalg.solve(table + 1e-6 * spring * torch.eye(count), right + 1e-6 * spring * graph.bones)


def _turns(graph: Graph, points: Tensor, place: Tensor, goal: Tensor, mass: Tensor, stiffness: float) -> Tensor:
    """Of each bone, what turns its neighbours and its samples most nearly to where they are."""
    before, after = graph.bones[graph.near] - graph.bones[:, None], place[graph.near] - place[:, None]
    pull = graph.weight * mass[:, None]
    spring = stiffness * float(pull.sum()) / len(graph.bones)
    table = spring * torch.einsum("kni,knj->kij", after, before)
    own, there = points[:, None] - graph.bones[graph.index], goal[:, None] - place[graph.index]
    each = torch.einsum("pk,pki,pkj->pkij", pull, there, own)
    table = table.index_add(0, graph.index.reshape(-1), each.reshape(-1, 3, 3))
    return nearest_turn(table)


def _apart(now: Tensor, there: Sampled) -> float:
    """The mean distance of two surfaces, across them, both ways."""
    pairs = torch.cdist(now, there.points)
    mine, theirs = pairs.argmin(1), pairs.argmin(0)
    ways = torch.cat([there.points[mine] - now, there.points - now[theirs]])
    normals = torch.cat([there.normals[mine], there.normals])
    return float((ways * normals).sum(-1).abs().mean())
