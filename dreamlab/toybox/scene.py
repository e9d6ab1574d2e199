# SPDX-License-Identifier: Apache-2.0
"""Moving whole programs about, and two objects in one scene by their relation."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext.reference import sdf as layout
from dreamlab.toybox.program import OBJECT_RADIUS, Program

FRAME, SHIFT = slice(layout.FRAME, layout.FRAME + 9), slice(layout.FRAME + 9, layout.FRAME + 12)
SMALL = 0.55  # size of the first object beside the one it stands on
GAP = 0.06  # between objects side by side


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
    along = ((radius - near) / far.clamp(min=1e-9)).clamp(min=0)
    centre = first.bound[:, :3] + along[:, None] * between
    bound = torch.cat([centre, radius[:, None] + 1e-4], 1)
    return Program(torch.cat([first.rows, rows], 1), torch.cat([first.parts, second.parts], 1), bound)


def reach(program: Program, direction: tuple[float, float, float], across: float = 0.9) -> float:
    """How far one object extends along an axis: the first hit of a grid of parallel rays from beyond it."""
    axis = torch.tensor(direction)
    side = torch.linalg.cross(axis, torch.tensor([0.3, 0.5, 0.8]))
    side = side / side.norm()
    other = torch.linalg.cross(axis, side)
    steps = torch.linspace(-across, across, 33)
    grid = (steps[:, None, None] * side + steps[None, :, None] * other).reshape(1, -1, 3)
    return 2.0 - _descend(program, grid + 2.0 * axis, -axis)


def _descend(program: Program, origin: Tensor, direction: Tensor) -> float:
    """The shortest way from any origin [1, N, 3] to the surface."""
    bound = torch.tensor([[0.0, 0.0, 0.0, 2.0]])
    way, _ = layout.trace(program.rows, bound, origin, direction.expand_as(origin).contiguous())
    return float(way.min())


def arrange(first: Program, relation: str, second: Program) -> Program:
    """One scene in the ball of radius OBJECT_RADIUS: `first` (smaller when it stands on it) in relation to `second`."""
    scale, shift = beside(first, relation, second)
    first = first if scale == 1.0 else transformed(first, scale=scale)
    scene = join(transformed(first, shift=torch.tensor(shift)), second)
    scale = OBJECT_RADIUS / float(scene.bound[0, 3])
    return transformed(scene, shift=-scale * scene.bound[0, :3], scale=scale)


def beside(first: Program, relation: str, second: Program) -> tuple[float, tuple[float, float, float]]:
    """The scale, and then the shift, that bring `first` into a relation to `second`, both about their own origins.

    "left of" and "right of" are the viewer's, who sees both from the front (+Z): left is -X. "next to" is "right of".
    """
    scale = SMALL if relation == "on" else 1.0
    first = first if scale == 1.0 else transformed(first, scale=scale)
    if relation == "on":
        top = 2.0 - _descend(second, torch.tensor([[[0.0, 2.0, 0.0]]]), torch.tensor([0.0, -1.0, 0.0]))
        return scale, (0.0, top + reach(first, (0.0, -1.0, 0.0)), 0.0)
    axis = {"left of": (-1.0, 0.0, 0.0), "in front of": (0.0, 0.0, 1.0), "behind": (0.0, 0.0, -1.0)}.get(
        relation, (1.0, 0.0, 0.0)
    )
    back = (-axis[0], 0.0, -axis[2])
    way = reach(second, axis) + GAP + reach(first, back)
    floor = reach(first, (0.0, -1.0, 0.0)) - reach(second, (0.0, -1.0, 0.0))
    return scale, (way * axis[0], floor, way * axis[2])
