# SPDX-License-Identifier: Apache-2.0
"""Actions: exact trajectories over one period, time in [0, 1].

spinning  a limb that turns (blades, rotor, wheels) about its own axle, else the whole object about +Y; a full
          turn, or what `Joint.sweep_deg` says (a quarter for four equal blades)
bouncing  up and down twice: height 0.5 * 4 u (1 - u) with u = 2 t mod 1 (free fall, in units of the sketch)
nodding   the head about its neck, else the whole about its middle: 18 sin(4 pi t) degrees about X
rocking   the whole about the point under it on the ground: 14 sin(2 pi t) degrees about Z
waving    wings or arms about their shoulders: 28 sin(4 pi t) degrees about Z, both sides mirrored
rolling   forward along +Z by 0.8 (t - 1/2); what is round turns with it by way / radius
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from dreamlab.toybox.category import Category, Joint, draft
from dreamlab.toybox.colours import Finish
from dreamlab.toybox.program import OBJECT_RADIUS, Program, Row, Sketch, apply, rotation, stack
from dreamlab.toybox.shapes import finishes

ACTIONS = ("spinning", "bouncing", "nodding", "rocking", "waving", "rolling")
BASIC = ("spinning", "bouncing", "nodding", "rocking")  # what every object can do


def _about(row: Row, pivot: Sequence[float], turn_deg: tuple[float, float, float]) -> Row:
    """The row after a turn about `pivot` in object space."""
    turn = rotation(turn_deg)
    turned = apply(turn, pivot)
    return row.moved(turn, [p - q for p, q in zip(pivot, turned, strict=True)])


def _degrees(axis: str, angle: float) -> tuple[float, float, float]:
    return (angle if axis == "x" else 0.0, angle if axis == "y" else 0.0, angle if axis == "z" else 0.0)


def can(category: Category, action: str) -> bool:
    return action in BASIC or action in category.joints


def pose(sketch: Sketch, category: Category, action: str, time: float) -> Sketch:
    """The sketch at `time` of an action."""
    centre, _ = sketch.measure()
    below = sketch.reach((0.0, -1.0, 0.0))
    joint = category.joints.get(action)
    moved = []
    for row in sketch.rows:
        mine = joint is None or row.limb == joint.limb
        if action == "bouncing":
            u = (2 * time) % 1.0
            row = row.moved(rotation((0, 0, 0)), (0.0, 2.0 * u * (1 - u), 0.0))
        elif action == "rocking":
            row = _about(row, (centre[0], -below, centre[2]), (0, 0, 14 * math.sin(2 * math.pi * time)))
        elif action == "spinning" and mine:
            pivot, axis, sweep = (joint.pivot, joint.axis, joint.sweep_deg) if joint else (centre, "y", 360.0)
            row = _about(row, pivot, _degrees(axis, sweep * time))
        elif action == "nodding" and mine:
            row = _about(row, joint.pivot if joint else centre, (18 * math.sin(4 * math.pi * time), 0, 0))
        elif action == "waving" and joint and mine:
            row = row.swung(joint.pivot, rotation((0, 0, 28 * math.sin(4 * math.pi * time))))
        elif action == "rolling" and joint:
            row = _roll(row, joint, mine, 0.8 * (time - 0.5))
        moved.append(row)
    return Sketch(moved)


def _roll(row: Row, joint: Joint, mine: bool, way: float) -> Row:
    """Forward by `way`; the limb turns about its axle at the joint's height, which is its radius above the ground."""
    if mine and joint.radius:
        row = _about(row, joint.pivot, (math.degrees(way / joint.radius), 0, 0))
    return row.moved(rotation((0, 0, 0)), (0.0, 0.0, way))


def animate(
    category: Category,
    action: str,
    times: Sequence[float],
    chosen: Mapping[str, Finish | str] | None = None,
    seed: int = 0,
) -> Program:
    """One program per time [T]; all share one scale, so that the motion is the action's alone."""
    if not can(category, action):
        able = [name for name in ACTIONS if can(category, name)]
        raise ValueError(f"a {category.name} cannot be {action}; it can be {', '.join(able)}")
    sketch, looks = draft(category, seed), finishes(category, chosen or {})
    measured = [pose(sketch, category, action, i / 8).measure() for i in range(8)]
    centre = [sum(c[j] for c, _ in measured) / 8 for j in range(3)]
    radius = max(math.dist(c, centre) + r for c, r in measured)
    frames = [pose(sketch, category, action, t).pack(looks, measured=(centre, radius)) for t in times]
    if not frames:
        raise ValueError("animate: give at least one time in [0, 1]")
    programs = stack(frames)
    bound = torch.tensor([[0.0, 0.0, 0.0, OBJECT_RADIUS * 1.02]]).expand(
        len(programs), 4
    )  # between the 8 measured times
    return Program(programs.rows, programs.parts, bound.contiguous())
