# SPDX-License-Identifier: Apache-2.0
"""`encode` of layout tcnn on tiny-cuda-nn (BSD-3-Clause, CUDA only), for those who ask for it; and its tables as ours.

Theirs goes on outside the unit cube, where ours stays at its border: positions are clamped on the way in. Its features
are the same but for the rounding of x scale + 1/2. It has no second derivative through the table's gradient.
"""

from __future__ import annotations

import functools
import math
from typing import Protocol

import torch
from torch import Tensor

from cuda_ext.check import require
from cuda_ext.reference import hashgrid as reference
from cuda_ext.reference.hashgrid import HashGrid

ULPS = 8  # the device's exp2 and its fused product may be off by so many where the host's are not


class Encoding(Protocol):
    """`tinycudann.Encoding`: a module whose only parameter is `params`."""

    params: Tensor


def config(grid: HashGrid) -> dict[str, str | int | float]:
    """`grid` as `tinycudann.Encoding(3, config)` takes it."""
    require(grid.layout == "tcnn", "hashgrid: tiny-cuda-nn knows tables of layout: tcnn alone")
    return {
        "otype": "HashGrid",
        "n_levels": grid.levels,
        "n_features_per_level": grid.features,
        "log2_hashmap_size": grid.log2_entries,
        "base_resolution": grid.base_resolution,
        "per_level_scale": grid.per_level_scale,
        "interpolation": "Smoothstep" if grid.smoothstep else "Linear",
    }


def params_of(table: Tensor) -> Tensor:
    """A table [rows, features] as the parameters of an `Encoding`: level after level, row after row."""
    return table.reshape(-1)


def table_of(params: Tensor, grid: HashGrid, skip: int = 0) -> Tensor:
    """The table of an `Encoding`'s parameters, of any precision; of a `NetworkWithInputEncoding`'s, `skip` those of the
    network, which come first."""
    require(grid.layout == "tcnn", "hashgrid: tiny-cuda-nn's tables are of layout: tcnn")
    count, needed = params.numel() - skip, grid.rows * grid.features
    require(count == needed, f"hashgrid: {count} parameters are no table of {grid.rows} rows of {grid.features}")
    return params.reshape(-1)[skip:].float().reshape(grid.rows, grid.features)


def unsettled(grid: HashGrid) -> list[int]:
    """Levels whose scale is a whole number but for rounding, and which are dense: of them tiny-cuda-nn's host and its
    device may disagree on how many vertices a row has, and so on the whole level."""
    if math.log2(grid.per_level_scale).is_integer():  # every power is exact
        return []
    near = [abs(scale - round(scale)) <= ULPS * 2**-24 * (scale + 1) for scale in grid.scales]
    return [i for i in range(1, grid.levels) if near[i] and grid.is_dense(round(grid.scales[i]) + 1)]


def encode(positions: Tensor, table: Tensor, grid: HashGrid, active: int, module: Encoding | None = None) -> Tensor:
    """See `cuda_ext.hashgrid.encode`: same arguments, already checked; `module` is the package's, made when missing."""
    module = _module(grid, positions.device) if module is None else module
    assert isinstance(module, torch.nn.Module)
    features = torch.func.functional_call(module, {"params": params_of(table)}, (positions.clamp(0, 1),))
    used = features[:, : active * grid.features].to(table.dtype)
    return torch.cat([used, used.new_zeros(len(used), (grid.levels - active) * grid.features)], 1)


def position_gradient(
    positions: Tensor, table: Tensor, grad: Tensor, grid: HashGrid, active: int, module: Encoding | None = None
) -> Tensor:
    """See `cuda_ext.hashgrid.position_gradient`."""
    encoder = functools.partial(encode, module=module)
    return reference.position_gradient(positions, table, grad, grid, active, encoder)


@functools.cache
def _module(grid: HashGrid, device: torch.device) -> Encoding:
    """One per grid and device, without parameters of its own."""
    import tinycudann

    for level in unsettled(grid):
        raise ValueError(
            f"hashgrid: level {level} ends on a whole number ({grid.scales[level]:g}) but for rounding, which "
            "tiny-cuda-nn does not settle; change finest or growth a little"
        )
    with torch.cuda.device(device):
        module: Encoding = tinycudann.Encoding(3, config(grid), dtype=torch.float32)
    count, needed = module.params.numel(), grid.rows * grid.features
    require(count == needed, f"hashgrid: tiny-cuda-nn made a table of {count} numbers, ours has {needed}")
    module.params = torch.nn.Parameter(torch.empty(0, device=device))
    return module
