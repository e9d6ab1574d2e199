# SPDX-License-Identifier: Apache-2.0
"""A whole frozen network that learns all the same: its weights are a function's arguments, as LoRA's additions are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


class Whole:
    """The parameters of a network that learn, chosen by name; it starts as the frozen network."""

    def __init__(self, net: nn.Module, wanted: Callable[[str], bool]) -> None:
        self.net = net
        self.places = {name: name.rpartition(".")[::2] for name, _ in net.named_parameters() if wanted(name)}

    def start(self) -> dict[str, Tensor]:
        """A copy, in float32 whatever the network runs in."""
        return {name: self.net.get_parameter(name).detach().float().clone() for name in self.places}

    @contextmanager
    def added(self, params: Mapping[str, Tensor]) -> Iterator[None]:
        """The network answers with these weights inside the block; nothing of it is changed after."""
        frozen = {name: self.net.get_parameter(name) for name in self.places}
        try:
            self._put({name: params[name].to(value.dtype) for name, value in frozen.items()})
            yield
        finally:
            self._put(frozen)

    def _put(self, values: Mapping[str, Tensor]) -> None:
        # Past `nn.Module`'s own door, which lets leaves in alone: these tensors carry the graph to the arguments.
        for name, (module, key) in self.places.items():
            table: dict[str, Tensor | None] = self.net.get_submodule(module).__dict__["_parameters"]
            table[key] = values[name]
