# SPDX-License-Identifier: Apache-2.0
"""Colours of vertices as a texture, for formats and programs that show nothing else: each triangle has a square cell of
the picture for itself, in which its three colours run into each other as they do on the surface."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dreamlab.core.types import PLAIN, Mesh, Textures
from dreamlab.export.carried import moved_rows
from dreamlab.export.product import Product

_LEAST = 4  # texels of a cell's side: room for two smaller mip levels


def painted(made: Product) -> Product:
    """The same with textures, which it may have already; every corner becomes a vertex."""
    mesh = made.mesh
    if mesh.textures is not None:
        return made
    rows = mesh.faces.reshape(-1)
    uv, base = _cells(mesh.colours[mesh.faces])
    flat = torch.ones(*base.shape[:2], 1)
    own = Mesh(
        mesh.vertices[rows],
        torch.arange(len(rows)).reshape(-1, 3),
        mesh.colours[rows],
        mesh.normals[rows],
        uv,
        textures=Textures(base, *(value * flat for value in PLAIN)),
    )
    return replace(made, mesh=own, motion=moved_rows(made.motion, rows))


def _cells(colours: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates [3F, 2] and picture [T, T, 3] of corner colours [F, 3, 3]."""
    across = max(1, int(torch.tensor(float(len(colours))).sqrt().ceil()))
    size = 1 << (across * _LEAST - 1).bit_length()
    side = size // across
    cell = torch.arange(len(colours))
    first = side * torch.stack([cell % across, cell // across], -1)
    # Corners lie on the centres of texels, so bilinear look-ups between them are their linear mixture.
    corner = (side - 1) * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) + 0.5
    uv = (first[:, None] + corner) / size
    step = torch.arange(side) / (side - 1)
    b, c = step[None, :, None], step[:, None, None]
    one, two, three = (colours[:, i, None, None] for i in range(3))
    filled = (1 - b - c) * one + b * two + c * three  # [F, side, side, 3]
    picture = colours.mean((0, 1)).repeat(size, size, 1)
    low = torch.arange(side)
    picture[first[:, 1, None, None] + low[:, None], first[:, 0, None, None] + low] = filled.clamp(0, 1)
    return uv.reshape(-1, 2), picture
