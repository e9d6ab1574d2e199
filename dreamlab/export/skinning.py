# SPDX-License-Identifier: Apache-2.0
"""A skin fitted to a motion: bones on the surface, weights that are continuous over it, and the rigid motion of each
bone that takes the surface where it was seen to go.

weights  of the four nearest bones along the surface, exp(-d^2 / 2 r^2) less that of the fifth: a weight is zero before
         its bone leaves the four, so neighbouring points never jump between sets
bones    each in turn is moved rigidly so that sum_k w_k (R_k p + t_k) comes nearest to where the points are: a weighted
         Procrustes problem (smooth skinning decomposition, Le and Deng 2012, section 5), several rounds, every time by
         itself
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.rotation import from_matrix, in_line
from dreamlab.core.types import Skin

WEIGHTS = 4  # of a point, as every engine takes them
ROUNDS, ENOUGH = 30, 0.97  # at most, and of what is left of the squares: a round that leaves more is the last
REACH = 1.0  # of a bone's weight, in distances to its nearest fellow
PULL = 1e-3  # of a bone towards where it was, in weights: what moves nothing stays
LOOKED = 3.0  # how far ways along the surface are followed, in distances to the fifth bone
MOST = 8000  # points that move the bones, of all that they move
BRIDGE = 3.0  # how much longer the way through the air is than that along the surface, between parts


def spread(points: Tensor, count: int) -> Tensor:
    """[K, 3] of the points, each as far from those before it as can be; the first is the farthest from the middle."""
    distance = (points - points.mean(0)).norm(dim=1)
    chosen = [int(distance.argmax())]
    nearest = (points - points[chosen[0]]).norm(dim=1)
    for _ in range(min(count, len(points)) - 1):
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).norm(dim=1))
    return points[chosen]


def welded(points: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places [W, 3], the place of each point [V] and faces of places [F, 3]: seams of a texture repeat points."""
    plain = np.ascontiguousarray(points.numpy() + np.float32(0))  # -0 is 0
    _, first, row = np.unique(plain.view("V12")[:, 0], return_index=True, return_inverse=True)
    which = torch.from_numpy(row.reshape(-1))
    return points[torch.from_numpy(first)], which, which[faces]


def edges_of(faces: Tensor) -> Tensor:
    """[E, 2] once each."""
    pairs = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    low, high = pairs.sort(1).values.T
    count = int(high.max()) + 1 if len(high) else 1
    key = torch.unique(low * count + high)
    return torch.stack([key // count, key % count], 1)


def distances(places: Tensor, faces: Tensor, bones: Tensor) -> Tensor:
    """[W, K] from the bones along the surface's edges; straight, and BRIDGE times as long, where no edge leads."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra
    from scipy.spatial import cKDTree

    straight = torch.cdist(places, bones)
    if not len(faces):
        return straight
    away, start = cKDTree(places.numpy()).query(bones.numpy())
    a, b = edges_of(faces).T
    length = (places[a] - places[b]).norm(dim=1).double().clamp(min=1e-12).numpy()
    graph = coo_matrix((length, (a.numpy(), b.numpy())), (len(places), len(places)))
    beyond = straight.topk(min(WEIGHTS + 1, len(bones)), dim=1, largest=False).values[:, -1]
    limit = LOOKED * float(beyond[:: -(-len(places) // MOST)].quantile(0.99))
    ways = dijkstra(graph.tocsr(), directed=False, indices=start, limit=limit)
    along = torch.from_numpy(ways).T.to(places) + torch.from_numpy(away).to(places)
    # Edges go zigzag, so a way along them is longer than the surface's; straight it is no shorter than it can be.
    return torch.minimum(torch.maximum(along, straight), BRIDGE * straight)


def smooth_weights(distance: Tensor) -> tuple[Tensor, Tensor]:
    """Bones [W, 4] and weights [W, 4] of distances [W, K]."""
    reach = REACH * _apart(distance)
    k = min(WEIGHTS + 1, distance.shape[1])
    near, index = distance.topk(k, dim=1, largest=False)
    value = (-0.5 * (near / reach).square()).exp()
    if k <= WEIGHTS:
        return index, value / value.sum(1, keepdim=True).clamp(min=1e-30)
    # Relative to the nearest, so that nothing underflows far from all bones; continuous all the same.
    value = (-0.5 * (near.square() - near[:, :1].square()) / reach**2).exp()
    value = (value - value[:, -1:])[:, :WEIGHTS] + 1e-9 * (near[:, -1:] - near[:, :WEIGHTS] + 1e-6)
    return index[:, :WEIGHTS], value / value.sum(1, keepdim=True)


def _apart(distance: Tensor) -> float:
    """A typical distance between neighbouring bones: half of it is where the nearest two are equally far."""
    second = distance.topk(min(2, distance.shape[1]), dim=1, largest=False).values[:, -1]
    return max(float(second.median()), 1e-6)


def fit_skin(points: Tensor, faces: Tensor, times: Tensor, track: Tensor, bones: Tensor) -> Skin:
    """Of points [V, 3] that are at `track` [T, V, 3], track[0] being where they are now."""
    places, row, corners = welded(points, faces)
    index, weight = smooth_weights(distances(places, corners, bones))
    first = torch.zeros(len(places), dtype=torch.long)
    first[row.flip(0)] = torch.arange(len(row) - 1, -1, -1)
    some = torch.arange(0, len(places), -(-len(places) // MOST))
    turn, shift = _rigid(places[some], track[:, first[some]], index[some], weight[some], bones)
    return Skin(times, bones, index[row], weight[row], shift, quats_of(turn))


def _rigid(p: Tensor, track: Tensor, index: Tensor, weight: Tensor, bones: Tensor) -> tuple[Tensor, Tensor]:
    """Turns [T, K, 3, 3] and shifts [T, K, 3], for which the skinned points come nearest to the track [T, W, 3]."""
    count, times = len(bones), len(track)
    turn = torch.eye(3).expand(times, count, 3, 3).clone()
    shift = torch.zeros(times, count, 3)
    owners = [torch.nonzero(index == k) for k in range(count)]
    shown = torch.zeros_like(track)  # what the bones make of the points now
    for k, own in enumerate(owners):
        w = weight[own[:, 0], own[:, 1], None]
        local = p[own[:, 0]] - bones[k]
        start, turn[:, k], shift[:, k] = _start(track[:, own[:, 0]], local, w, bones[k])
        shown.index_add_(1, own[:, 0], w * start)
    left_over = math.inf
    for _ in range(ROUNDS):
        for k, own in enumerate(owners):
            if not len(own):
                continue
            rows, w = own[:, 0], weight[own[:, 0], own[:, 1], None]
            local = p[rows] - bones[k]
            before = w * (local @ turn[:, k].transpose(1, 2) + bones[k] + shift[:, k, None])
            left = track[:, rows] - shown[:, rows] + before  # what this bone alone should make, times its weight
            held = PULL * w.square().mean()
            mass = w.square().sum(0) + held
            centre = (w.square() * local).sum(0) / mass
            # The pull holds the bone's own place, at which `local` is 0.
            goal = ((w * left).sum(1) + held * (bones[k] + shift[:, k])) / mass
            a, b = local - centre, left - w * goal[:, None]
            turn[:, k] = nearest_turn(torch.einsum("nwi,wj->nij", b, w * a) + held * PULL * turn[:, k])
            shift[:, k] = goal - turn[:, k] @ centre - bones[k]
            after = w * (local @ turn[:, k].transpose(1, 2) + bones[k] + shift[:, k, None])
            shown.index_add_(1, rows, after - before)
        before_it, left_over = left_over, float((track - shown).square().mean())
        if left_over > ENOUGH * before_it:
            break
    return turn, shift


def _start(there: Tensor, local: Tensor, w: Tensor, bone: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A bone that moves as what it holds does on the whole: the points it makes [T, n, 3], turn, shift."""
    if not len(local):
        return there, torch.eye(3).expand(len(there), 3, 3), torch.zeros(len(there), 3)
    mass = w.sum(0).clamp(min=1e-12)
    centre, middle = (w * local).sum(0) / mass, (w * there).sum(1) / mass
    turn = nearest_turn(torch.einsum("nwi,wj->nij", there - middle[:, None], w * (local - centre)))
    shift = middle - turn @ centre - bone
    return local @ turn.transpose(1, 2) + (bone + shift)[:, None], turn, shift


def nearest_turn(table: Tensor) -> Tensor:
    """[T, 3, 3] the rotations nearest to any matrices (Kabsch 1976)."""
    u, _, v = torch.linalg.svd(table.double())
    sign = torch.linalg.det(u @ v)
    u = torch.cat([u[..., :2], u[..., 2:] * sign[:, None, None]], -1)
    return (u @ v).to(table)


def quats_of(turn: Tensor) -> Tensor:
    """[T, K, 4] wxyz of rotations [T, K, 3, 3]."""
    return in_line(from_matrix(turn))
