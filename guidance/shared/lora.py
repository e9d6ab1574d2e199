# SPDX-License-Identifier: Apache-2.0
"""Low-rank additions to the linear layers of a frozen network (Hu et al. 2021, LoRA, arXiv:2106.09685).

y = W x + B A x, A [rank, in] drawn with deviation 1 / rank, B [out, rank] zero: it starts as the frozen network. The
additions are a function's arguments, put in by hooks for the length of one call: nothing of the network is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Lora:
    """Which layers of a network have additions, and their start."""

    def __init__(self, net: nn.Module, rank: int, wanted: Callable[[str], bool]) -> None:
        named = dict(net.named_modules())
        self.layers = {n: m for n, m in named.items() if isinstance(m, nn.Linear) and wanted(n)}
        if not self.layers:
            raise ValueError("none of the network's linear layers was chosen")
        self.rank = rank

    def start(self) -> dict[str, Tensor]:
        """The same every time."""
        generator = torch.Generator().manual_seed(0)
        found = {}
        for name, layer in self.layers.items():
            down = torch.randn(self.rank, layer.in_features, generator=generator) / self.rank
            found[f"{name}.down"] = down.to(layer.weight.device)
            found[f"{name}.up"] = torch.zeros(layer.out_features, self.rank, device=layer.weight.device)
        return found

    @contextmanager
    def added(self, params: Mapping[str, Tensor]) -> Iterator[None]:
        """The network answers with these additions inside the block."""

        def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
            def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
                down, up = (params[f"{name}.{part}"].to(output.dtype) for part in ("down", "up"))
                return output + F.linear(F.linear(inputs[0], down), up)

            return add

        handles = [layer.register_forward_hook(hook(name)) for name, layer in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
