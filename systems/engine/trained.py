# SPDX-License-Identifier: Apache-2.0
"""What a rule trains of its own: parameters in one flat tensor, their Adam, and both in checkpoints.

A network here is a function of its parameters, `net.apply(params, ...)`, so that a small network of ours and the
trainable adapter of a large frozen one (`core.types.Adapter`) are driven alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from cuda_ext.adam import adam
from dreamlab.core.errors import InputError
from dreamlab.core.types import Adapter, Adapting, Guidance


def adapter_of(guidance: Guidance, rank: int) -> Adapter:
    """The adapter of a guidance whose card says that it has one."""
    assert isinstance(guidance, Adapting)
    return guidance.adapter(rank)


class Trained:
    """Parameters under Adam; a step whose loss or gradient is not finite changes nothing."""

    def __init__(self, start: Mapping[str, Tensor], betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.shapes = {name: value.shape for name, value in start.items()}
        self.flat = torch.cat([value.detach().reshape(-1) for value in start.values()])
        self.first, self.second = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.count = torch.zeros((), dtype=torch.int64, device=self.flat.device)
        self.betas = betas

    def params(self, flat: Tensor | None = None) -> dict[str, Tensor]:
        """Views of the parameters, by name."""
        flat = self.flat if flat is None else flat
        pieces = flat.split([shape.numel() for shape in self.shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def leaf(self) -> Tensor:
        """The parameters as one tensor that takes a gradient; `params(leaf)` are its views."""
        return self.flat.detach().requires_grad_()

    def learn(
        self, loss: Tensor, leaf: Tensor, rate: float, add_up: Callable[..., Sequence[Tensor]] | None = None
    ) -> None:
        """One step of Adam; `add_up`: the loss is a part of the whole, whose other parts others have."""
        (grad,) = torch.autograd.grad(loss, leaf)
        loss = loss.detach()
        if add_up is not None:
            loss, grad = add_up(loss, grad)
        broken = ~(torch.isfinite(loss) & torch.isfinite(grad).all())
        adam(
            self.flat, grad, self.first, self.second, self.count, lr=rate, betas=self.betas, eps=1e-8, skip=broken
        )  # fmt: skip

    def state_dict(self) -> dict[str, Tensor]:
        return {"flat": self.flat, "first": self.first, "second": self.second, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if state["flat"].shape != self.flat.shape:
            raise InputError(
                f"a rule's own network has {len(self.flat)} weights and the checkpoint holds {len(state['flat'])}: its "
                "settings, the stage's size or the guidance are others than those it was trained with; put them back"
            )
        for name in ("flat", "first", "second", "count"):
            setattr(self, name, state[name].to(self.flat.device).clone())
