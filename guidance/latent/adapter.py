# SPDX-License-Identifier: Apache-2.0
"""The trained copy of a pretrained network that VSD, BSD and ASD ask for: LoRA on its attention layers, and a camera.

The camera is heard as ProlificDreamer's is, added to the embedding of the time; one network serves both, for the frozen
call has no hooks. Hooks put on a compiled network are not seen by it, so the adapter calls the network as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamlab.core.types import Condition
from guidance.shared.lora import Lora
from guidance.shared.whole import Whole

if TYPE_CHECKING:
    from guidance.latent.model import LatentModel

# Of every attention in use: UNets', the joint ones' of SD3 and FLUX, IF's, Wan's.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
HIDDEN = 16  # numbers of a camera


def in_attention(name: str) -> bool:
    return name.endswith(tuple(f".{part}" for part in ATTENTION))


class NetAdapter:
    """Parameters are float32 whatever the network runs in."""

    def __init__(self, model: LatentModel, rank: int) -> None:
        net: nn.Module = model.module
        self.model = model
        self.own = Lora(net, rank, in_attention) if rank else Whole(net, lambda name: True)
        self.clock = net.get_submodule(model.time_part) if model.time_part else None

    def start(self) -> dict[str, Tensor]:
        found = self.own.start()
        if self.clock is None:
            return found
        width = cast(int, cast(nn.Linear, list(linears(self.clock))[-1]).out_features)
        generator = torch.Generator().manual_seed(1)
        first = torch.randn(width, HIDDEN, generator=generator) / HIDDEN**0.5
        camera = {
            "in": first,
            "out": torch.zeros(width, width),
        }  # adds nothing at first
        return found | {f"camera.{name}": value.to(self.model.device) for name, value in camera.items()}

    def apply(
        self, params: Mapping[str, Tensor], z_t: Tensor, t_index: Tensor, condition: Condition, camera: Tensor
    ) -> Tensor:
        with self.model.eager(), self.own.added(params), self._heard(params, camera):
            return self.model.eps(z_t, t_index, condition)

    @contextmanager
    def _heard(self, params: Mapping[str, Tensor], camera: Tensor) -> Iterator[None]:
        """The time's embedding carries the camera inside the block; one that is not told (zeros) adds nothing."""
        if self.clock is None:
            yield
            return

        def add(_: nn.Module, inputs: object, output: Tensor) -> Tensor:
            said = F.linear(F.silu(F.linear(camera, params["camera.in"])), params["camera.out"])
            return output + said.to(output.dtype)

        handle = self.clock.register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()


def linears(net: nn.Module) -> Iterator[nn.Module]:
    return (module for module in net.modules() if isinstance(module, nn.Linear))
