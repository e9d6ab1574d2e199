# SPDX-License-Identifier: Apache-2.0
"""The columns of a program of signed-distance primitives, and what its numbers mean; `cuda_ext.reference.sdf` says how
they are evaluated. Needs nothing, so that whoever only lists objects need not load torch."""

from __future__ import annotations

ROW, PART = 40, 12  # numbers per row and per part
KIND, OP, SMOOTH, PART_ID, FOLD, FOLD_COUNT, ROUND, SCALE, PARAMS = range(9)  # columns; PARAMS: 8 numbers from 8 on
FRAME, LOCAL = 16, 28  # columns of A (9, row-major), a (3) and of B (9), b (3)
NONE, SPHERE, ELLIPSOID, BOX, CYLINDER, CAPSULE, FRUSTUM, ROUND_CONE, TORUS, ARC, HALF_SPACE, PRISM, PYRAMID, STAR = (
    range(14)
)
UNION, CUT, KEEP, GROUP = range(4)
NO_FOLD, MIRROR_X, MIRROR_Z, MIRROR_XZ, AROUND_Y, AROUND_Z = range(6)
PLAIN, STRIPES, CHECKS, SPOTS = range(4)  # patterns
# Columns of a part: linear base colour (3), linear second colour (3), pattern, its period, roughness, metallic.
BASE, SECOND, PATTERN, PERIOD, ROUGHNESS, METALLIC = 0, 3, 6, 7, 8, 9
# Columns of a light: direction to the key (3), key (3), sky (3), ground (3), lamp at the camera, occlusion.
WRAP = 0.25  # how far the key light reaches around the terminator
METAL_LOSS = 0.4  # of diffuse light, what metal has less
LIGHT, KEY, SKY, GROUND, HEAD, OCCLUSION = 14, 3, 6, 9, 12, 13
