# SPDX-License-Identifier: Apache-2.0
"""Clouds of Gaussians moved as a whole: scaled, turned with their harmonics, put somewhere, joined; and what of a cloud
is fit for a file.

A colour that depends on the direction d turns with its cloud: f'(d) = f(R^T d). Harmonics of one degree turn among
themselves, so a square matrix per degree does it; it is found from as many directions as determine it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cuda_ext.reference.splat import MIN_ALPHA, sh_basis
from dreamlab.core.files import Json
from dreamlab.core.rotation import matrix, product
from dreamlab.core.types import Splats

SH0 = 0.28209479177387814  # the constant harmonic
FARTHEST = 1e4  # metres from the origin: farther rows of a diverged scene would spoil a viewer's bounds
THINNEST = 1e-7  # metres
_DIRECTIONS = 64  # on a spiral; 25 would determine degree 4


def degree_of(splats: Splats) -> int:
    return math.isqrt(splats.harmonics.shape[1]) - 1


def turn_of_harmonics(turn: Tensor, degree: int) -> Tensor:
    """[K, K] that takes coefficients of a cloud to those of the cloud turned by `turn` [3, 3]."""
    count = (degree + 1) ** 2
    row = torch.arange(_DIRECTIONS, dtype=torch.float64)
    z = (2 * row + 1) / _DIRECTIONS - 1
    around = row * math.pi * (3 - math.sqrt(5))
    flat = (1 - z * z).sqrt()
    d = torch.stack([flat * around.cos(), flat * around.sin(), z], -1)
    found: Tensor = torch.linalg.lstsq(sh_basis(d, count), sh_basis(d @ turn.double(), count)).solution
    return found.to(turn)


def placed(splats: Splats, scale: float, quat: Tensor, shift: Tensor) -> Splats:
    """Each point p at scale * turn p + shift, `quat` [4] wxyz being the turn."""
    turn = matrix(quat)
    degree = degree_of(splats)
    harmonics = splats.harmonics
    if degree:
        harmonics = torch.einsum("ij,njc->nic", turn_of_harmonics(turn, degree), harmonics)
    return Splats(
        scale * splats.means @ turn.T + shift,
        product(quat.expand_as(splats.quats), splats.quats),
        scale * splats.scales,
        splats.opacity,
        harmonics,
        splats.compensated,
    )


def rows_of(splats: Splats, rows: Tensor) -> Splats:
    """Some of them."""
    s = splats
    return Splats(s.means[rows], s.quats[rows], s.scales[rows], s.opacity[rows], s.harmonics[rows], s.compensated)


def to_degree(splats: Splats, degree: int) -> Splats:
    """With harmonics of exactly this degree: zeros added, or the finest left out."""
    wanted, found = (degree + 1) ** 2, splats.harmonics.shape[1]
    kept = splats.harmonics[:, :wanted]
    more = kept.new_zeros(len(kept), max(wanted - found, 0), 3)
    return replace(splats, harmonics=torch.cat([kept, more], 1))


def joined_clouds(parts: Sequence[Splats]) -> Splats:
    """One cloud of several, of the highest of their degrees."""
    degree = max(degree_of(part) for part in parts)
    full = [to_degree(part, degree) for part in parts]
    return Splats(
        torch.cat([part.means for part in full]),
        torch.cat([part.quats for part in full]),
        torch.cat([part.scales for part in full]),
        torch.cat([part.opacity for part in full]),
        torch.cat([part.harmonics for part in full]),
        parts[0].compensated,
    )


def sound(splats: Splats) -> tuple[Splats, Json]:
    """Without rows that no viewer can draw or anybody would see: not finite, without a direction, beyond FARTHEST, more
    transparent than a picture of 8 bits shows. None is thinner than THINNEST or larger than the whole cloud."""
    s = splats
    columns = (s.means, s.quats, s.scales, s.opacity[:, None], s.harmonics.flatten(1))
    finite = torch.stack([column.isfinite().all(1) for column in columns]).all(0)
    turned = s.quats.norm(dim=1) > 1e-12
    near = s.means.abs().amax(1) <= FARTHEST
    shown = s.opacity >= MIN_ALPHA
    keep = finite & turned & near & shown & (s.scales > 0).all(1)
    kept = rows_of(s, keep)
    unit = torch.nn.functional.normalize(kept.quats, dim=1)
    kept = replace(kept, quats=unit, opacity=kept.opacity.clamp(max=1))
    facts: Json = {"gaussians": len(kept.means), "dropped": int((~keep).sum())}
    if len(kept.means):
        extent = float((kept.means.amax(0) - kept.means.amin(0)).norm())
        most = max(extent, float(kept.scales.median()))  # of a single Gaussian: itself
        facts["capped"] = int((kept.scales > most).any(1).sum())
        kept = replace(kept, scales=kept.scales.clamp(THINNEST, most))
    return kept, facts
