# SPDX-License-Identifier: Apache-2.0
"""Moving whole programs about, and two of them as one."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext.reference import sdf as layout
from dreamlab.toybox.program import Program

FRAME, SHIFT = slice(layout.FRAME, layout.FRAME + 9), slice(layout.FRAME + 9, layout.FRAME + 12)


def transformed(
    programs: Program, turn: Tensor | None = None, shift: Tensor | None = None, scale: float = 1.0
) -> Program:
    """Every program after p -> scale * turn p + shift; `turn` [3, 3] or [K, 3, 3] rotation, `shift` [3] or [K, 3]."""
    rows, parts = programs.rows.clone(), programs.parts.clone()
    turn = torch.eye(3).to(rows) if turn is None else turn.to(rows)
    shift = torch.zeros(3).to(rows) if shift is None else shift.to(rows)
    turn, shift = turn.expand(len(rows), 3, 3), shift.expand(len(rows), 3)
    to_old = rows[..., FRAME].unflatten(-1, (3, 3)) @ turn.transpose(1, 2)[:, None] / scale
    rows[..., SHIFT] -= (to_old @ shift[:, None, :, None])[..., 0]
    rows[..., FRAME] = to_old.flatten(-2)
    rows[..., layout.SCALE] *= scale
    rows[..., layout.SMOOTH] *= scale
    parts[..., layout.PERIOD] *= scale
    centre = scale * (turn @ programs.bound[:, :3, None])[..., 0] + shift
    return Program(rows, parts, torch.cat([centre, scale * programs.bound[:, 3:]], 1))


def join(first: Program, second: Program) -> Program:
    """Both objects in one program; the second's part ids follow the first's."""
    rows = second.rows.clone()
    rows[..., layout.PART_ID] += first.parts.shape[1]
    rows[:, 0, layout.OP], rows[:, 0, layout.SMOOTH] = layout.GROUP, 0.0
    between = second.bound[:, :3] - first.bound[:, :3]
    far = between.norm(dim=1)
    near, other = first.bound[:, 3], second.bound[:, 3]
    radius = torch.maximum(torch.maximum((far + near + other) / 2, near), other)
    along = ((radius - near) / far.clamp(min=1e-9)).clamp(0, 1)  # at an end where one ball holds the other
    centre = first.bound[:, :3] + along[:, None] * between
    bound = torch.cat([centre, radius[:, None] + 1e-4], 1)
    return Program(torch.cat([first.rows, rows], 1), torch.cat([first.parts, second.parts], 1), bound)
