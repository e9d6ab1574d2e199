# SPDX-License-Identifier: Apache-2.0
"""What a guidance gives up when memory runs out, one thing after the other, none of which changes a number; and a
record of it, for a run that got slower should say why."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dreamlab.core.errors import OutOfMemory
from dreamlab.core.types import Condition

Network = Callable[[Tensor, Tensor, Condition], Tensor]


class Ladder:
    """Rows of one call of the network, and how the encoder of pictures keeps what its gradient needs."""

    def __init__(self, together: int, rows: int = 0, recompute: bool = False) -> None:
        self.together = together  # rows that cannot be taken apart
        self.rows = rows  # the most in one call; 0: all
        self.recompute = recompute  # the encoder's activations are made again in the backward pass
        self.singly = False  # pictures are encoded one after the other
        self.taken: list[str] = []  # what was given up, in order

    def relieve(self) -> str:
        """The next thing to give up after a step that did not fit; what it was, or nothing when all is given up."""
        if not self.recompute:
            self.recompute = True
            return self._took("the picture encoder's activations are recomputed")
        if not self.singly:
            self.singly = True
            return self._took("pictures are encoded one at a time")
        return ""

    def _took(self, what: str) -> str:
        self.taken.append(what)
        return what

    def call(self, network: Network, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        """The network over all rows, in pieces of whole groups if they do not fit at once."""
        while True:
            size = self._piece(len(z_t))
            try:
                pieces = torch.arange(len(z_t)).split(size)
                if len(pieces) == 1:
                    return network(z_t, t_index, condition)
                return torch.cat([network(z_t[p], t_index[p], condition.take(p)) for p in pieces])
            except torch.OutOfMemoryError:
                if size <= self.together:
                    raise OutOfMemory(
                        f"the diffusion model does not fit with {size} row{'s' * (size > 1)} at once; "
                        "use dtype: bfloat16, a smaller size or model, or offload: true"
                    ) from None
            # Outside of the handler: the exception's traceback keeps the failed call's tensors alive.
            self.rows = max(size // 2 // self.together, 1) * self.together
            self._took(f"the network sees at most {self.rows} rows at once")
            empty_cache()

    def _piece(self, rows: int) -> int:
        most = self.rows or rows
        return max(min(most, rows) // self.together, 1) * self.together


def empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_turn(encode: Callable[[Tensor], Tensor], pictures: Tensor, together: int = 1) -> Tensor:
    """One picture after the other, or one clip of `together`."""
    made: Sequence[Tensor] = [encode(picture) for picture in pictures.split(together)]
    return torch.cat(list(made))
