# SPDX-License-Identifier: Apache-2.0
"""What optimisers remember of a network's parameters, as named tensors that a file can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

SLOTS = ("momentum", "step", "exp_avg", "exp_avg_sq")
PREFIX = "optimiser."
Optimisers = Sequence[torch.optim.Optimizer]


def moments(net: nn.Module, optimisers: Optimisers) -> dict[str, Tensor]:
    """PREFIX + slot + name of the parameter -> its moment."""
    found: dict[str, Tensor] = {}
    for name, parameter in net.named_parameters():
        for each in optimisers:
            found |= {f"{PREFIX}{slot}.{name}": value for slot, value in each.state.get(parameter, {}).items()}
    return found


def remember(net: nn.Module, optimisers: Optimisers, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimisers back what `moments` said."""
    homes = {id(p): each for each in optimisers for group in each.param_groups for p in group["params"]}
    for name, parameter in net.named_parameters():
        if found := {slot: tensors[key] for slot in SLOTS if (key := f"{PREFIX}{slot}.{name}") in tensors}:
            homes[id(parameter)].state[parameter] = {
                slot: value.to(parameter.device).contiguous(memory_format=_format(parameter, slot))
                for slot, value in found.items()
            }


def _format(parameter: Tensor, slot: str) -> torch.memory_format:
    """Moments lie in memory like their parameter: another order of summing would change the last bits."""
    flat = slot == "step" or parameter.is_contiguous()
    return torch.contiguous_format if flat else torch.channels_last
