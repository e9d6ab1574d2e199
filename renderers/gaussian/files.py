# SPDX-License-Identifier: Apache-2.0
"""A user's file of Gaussians as a cloud in our world: +Y up, front +Z.

GLB says its axes and SPZ is ours (right, up, back). PLY and `.splat` say nothing: most are as 3DGS trains them, right,
down, forward (`rdf`), which is ours turned by 180 degrees about X; a comment `axes:` of our own writer is believed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.foreign.apart import parsed
from dreamlab.core.foreign.files import checked_size
from dreamlab.core.foreign.headers import MOST_HEADER
from dreamlab.core.foreign.splat_parser import MOST_FILE
from dreamlab.core.foreign.splat_ply import axes_of
from dreamlab.core.rotation import from_matrix
from dreamlab.core.types import Splats
from renderers.gaussian.placed import joined_clouds, placed, rows_of

SUFFIXES = (".ply", ".splat", ".spz", ".glb")
ABOUT_X = (0.0, 1.0, 0.0, 0.0)  # wxyz: half a turn, from `rdf` to our axes and back
_TILT = 1e-3  # of a node's axes, that its matrix may be called a turn


def read_splats(path: Path, axes: str = "") -> Splats:
    """All Gaussians of a file; InputError says in one line what is wrong with it. `axes` (rdf or rub) is for files that
    do not tell: PLY and `.splat`."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"splats {path}: must be one of {', '.join(SUFFIXES)}")
    checked_size(path, "splats", MOST_FILE)
    found = {name: torch.from_numpy(array) for name, array in parsed("splats", path, "splats").items()}
    placing, compensated = found.pop("placing", None), found.pop("compensated", None)
    cloud = Splats(**found, compensated=compensated is not None and bool(compensated.all()))
    if placing is not None:
        return _in_the_world(cloud, placing, path)
    if suffix == ".ply" and not axes:
        with path.open("rb") as handle:
            axes = axes_of(handle.read(MOST_HEADER))
    if suffix != ".spz" and (axes or "rdf") == "rdf":
        return placed(cloud, 1.0, cloud.quats.new_tensor(ABOUT_X), cloud.means.new_zeros(3))
    return cloud


def _in_the_world(cloud: Splats, placing: Tensor, path: Path) -> Splats:
    """Each part where its node puts it [N, 4, 4]."""
    frames, row = torch.unique(placing.flatten(1), dim=0, return_inverse=True)
    parts = []
    for i, frame in enumerate(frames.view(-1, 4, 4)):
        own = rows_of(cloud, row == i)
        scale = frame[:3, :3].norm(dim=0)
        turn = frame[:3, :3] / scale.mean().clamp(min=1e-12)
        if (turn.T @ turn - torch.eye(3)).abs().max() > _TILT or torch.linalg.det(turn) < 0:
            raise InputError(f"splats {path}: a node scales its Gaussians unevenly or mirrors them; apply that first")
        parts.append(placed(own, float(scale.mean()), from_matrix(turn), frame[:3, 3]))
    return joined_clouds(parts)
