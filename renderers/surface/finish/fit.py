# SPDX-License-Identifier: Apache-2.0
"""Vertices and colours drawn to the scene's own pictures: some dozen steps of gradient descent through the rasteriser.

What a level of a density loses is its outline, by a pixel here and there, and the colours that lie a little off the
level. Both have a gradient: colours by interpolation, outlines by antialiasing. A Laplacian holds the triangles.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from cuda_ext.adam import adam
from dreamlab.core.types import Mesh
from renderers.surface.draw import Neighbours, Surface, look, vertex_normals
from renderers.surface.pictures import Shots

STEPS, VIEWS = 48, 4
RATES = (0.002, 0.03)  # metres and colour a step
LAST = 0.05  # share of the rates at the end
SMOOTH = 3.0  # weight of the Laplacian (metres) beside squared errors per pixel of the object
FOLDED = 0.2  # a triangle whose normal turns farther (cosine) from its old one is put back with its vertices


def fitted(mesh: Mesh, shots: Shots, steps: int = STEPS) -> Mesh:
    """The same triangles, elsewhere and otherwise coloured."""
    start, around = Surface.of(mesh.vertices, mesh.faces), Neighbours.of(mesh.faces, len(mesh.vertices))
    vertices, colours = (value.detach().clone().requires_grad_() for value in (mesh.vertices, mesh.colours))
    moments = [(torch.zeros_like(each), torch.zeros_like(each), torch.zeros((), dtype=torch.int64))
               for each in (vertices, colours)]  # fmt: skip
    stream = torch.Generator().manual_seed(0)
    order: list[int] = []
    for step in range(steps):
        pace = LAST + (1 - LAST) * (1 + math.cos(math.pi * step / steps)) / 2
        if len(order) < VIEWS:
            order += torch.randperm(len(shots.cameras), generator=stream).tolist()
        index, order = order[:VIEWS], order[VIEWS:]
        loss = error(Surface(vertices, start.faces, start.neighbours), colours, shots.take(index))
        slopes = torch.autograd.grad(loss + SMOOTH * around.roughness(vertices), (vertices, colours))
        for value, slope, known, rate in zip((vertices, colours), slopes, moments, RATES, strict=True):
            adam(value.detach(), slope.contiguous(), *known, lr=rate * pace, betas=(0.8, 0.95))
    vertices, colours = unfolded(mesh.vertices, vertices.detach(), mesh.faces), colours.detach().clamp(0, 1)
    if not bool(torch.isfinite(vertices).all() & torch.isfinite(colours).all()):
        raise ValueError("the fit did not stay finite")
    return replace(mesh, vertices=vertices, colours=colours, normals=vertex_normals(vertices, mesh.faces))


def error(surface: Surface, colours: Tensor, shots: Shots) -> Tensor:
    """[] squared error of colours over white and of coverage, per pixel of the object."""
    view = look(surface, shots.cameras, shots.size)
    values = torch.cat([view.read(colours), torch.ones(len(view.hit), 1)], 1)
    blank = torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(len(shots.cameras), -1)
    wanted = torch.cat([shots.rgb, shots.alpha], -1)
    return (view.over(values, blank) - wanted).square().sum() / shots.alpha.sum().clamp(min=1)


def unfolded(before: Tensor, after: Tensor, faces: Tensor) -> Tensor:
    """`after`, but where a triangle has turned over its corners are where they were before."""
    normals = []
    for vertices in (before, after):
        a, b, c = vertices[faces].unbind(1)
        normals.append(torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1))
    bad = (normals[0] * normals[1]).sum(-1) < FOLDED
    rows = torch.unique(faces[bad])
    return after.index_copy(0, rows, before[rows])


def carried(fine: Mesh, before: Tensor, after: Tensor) -> Mesh:
    """The fine surface moved as the decimated one was, [V, 3] -> [V, 3]: it is still what that one stands for."""
    from scipy.spatial import cKDTree

    distance, near = cKDTree(before.numpy()).query(fine.vertices.numpy(), k=min(4, len(before)))
    distance = torch.from_numpy(distance).float().reshape(len(fine.vertices), -1, 1)
    weight = 1 / (distance.square() + 1e-8)
    shift = (after - before)[torch.from_numpy(near).reshape(len(fine.vertices), -1)]
    vertices = fine.vertices + (weight * shift).sum(1) / weight.sum(1)
    return replace(fine, vertices=vertices, normals=vertex_normals(vertices, fine.faces))
