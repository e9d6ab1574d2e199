# SPDX-License-Identifier: Apache-2.0
"""What torch hands the backward of an op: the context of its forward, and what it was called with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.autograd.function import FunctionCtx

Inputs = tuple[Any, ...]  # the arguments of an op, or its results, in order


class Context(FunctionCtx):
    """Tensors that were saved, and whatever else the forward wrote on it."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

        def __setattr__(self, name: str, value: object) -> None: ...
