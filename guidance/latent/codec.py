# SPDX-License-Identifier: Apache-2.0
"""Pictures to latents and back: the model's own autoencoder, a tiny one, or the one's values with the other's gradient.

The latent of a picture is the mode of the posterior, z = (mode - shift) scale: a sample would add noise of its own to
every step. Of a distillation step the encoder's backward pass is the dearest part after the network; the tiny encoder
(TAESD) costs a ninth of it. How well its gradient agrees is not known in general, so it is measured on the first
frames and said, and below a floor the exact one is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from guidance.latent.memory import Ladder, in_turn

WAYS = ("exact", "hybrid", "tiny")


class _Again(torch.autograd.Function):
    """A frozen network of which the input alone is kept for the way back, where it is asked once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.network = network
        ctx.save_for_backward(x)
        return network(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            (found,) = torch.autograd.grad(ctx.network(leaf), leaf, grad)
        return found, None


class Codec:
    """Latents of pictures [B, 3, H, W] in [-1, 1]; networks of diffusers, frozen."""

    together: int = 1  # pictures that are encoded as one

    def __init__(self, vae: Any, tiny: Any = None, way: str = "exact", floor: float = 0.0) -> None:
        self.vae, self.tiny, self.way, self.floor = vae, tiny, way, floor
        config = vae.config
        self.scale = float(config.scaling_factor)
        self.shift = float(getattr(config, "shift_factor", None) or 0.0)
        self.factor = 2 ** (len(config.block_out_channels) - 1)  # pixels of a latent's side
        self.channels = int(config.latent_channels)
        self._judged = way == "exact"

    def to(self, device: torch.device) -> None:
        for net in (self.vae, self.tiny):
            if net is not None:
                arranged(net, device)

    def encode(self, pictures: Tensor, ladder: Ladder) -> Tensor:
        """z [B, C, h, w] float32, differentiable."""
        x = pictures.to(self.vae.dtype).contiguous(memory_format=layout_on(pictures.device))
        if not self._judged:
            self._judge(x)
        if self.way == "tiny":
            return self.by_tiny(x).float()
        if self.way == "hybrid":
            with torch.no_grad():
                exact = self._exact(x, ladder)
            cheap = self.by_tiny(x)
            return (cheap + (exact - cheap).detach()).float()
        return self._exact(x, ladder).float()

    def _exact(self, x: Tensor, ladder: Ladder) -> Tensor:
        if not torch.is_grad_enabled() or not (ladder.recompute or ladder.singly):
            return self.by_vae(x)

        def kept_as_picture(one: Tensor) -> Tensor:
            made: Tensor = _Again.apply(one, self.by_vae)
            return made

        return in_turn(kept_as_picture, x, self.together) if ladder.singly else kept_as_picture(x)

    def by_vae(self, x: Tensor) -> Tensor:
        mode: Tensor = self.vae.encode(x).latent_dist.mode()
        return (mode - self.shift) * self.scale

    def by_tiny(self, x: Tensor) -> Tensor:
        """Its latents are scaled already."""
        made: Tensor = self.tiny.encode(x).latents
        return made

    def decode(self, z: Tensor) -> Tensor:
        """[B, C, h, w] -> pictures in [-1, 1], for looking."""
        with torch.no_grad():
            made: Tensor = self.vae.decode((z / self.scale + self.shift).to(self.vae.dtype)).sample
        return made.float()

    def _judge(self, x: Tensor) -> None:
        self._judged = True
        cosine = self.agreement(x)
        said = f"tiny encoder: its gradient agrees with the exact one's to a cosine of {cosine:.3f}"
        if cosine < self.floor:
            self.way = "exact"
            said += f", below {self.floor:g}: the exact encoder is used"
        warnings.warn(said, stacklevel=3)

    def agreement(self, x: Tensor) -> float:
        """Cosine between the two gradients at the pictures, of one direction in latent space drawn once."""
        found = []
        for encode in (self.by_vae, self.by_tiny):
            leaf = x.detach()[:1].requires_grad_()
            with torch.enable_grad():
                z = encode(leaf)
                generator = torch.Generator().manual_seed(0)
                towards = torch.randn(z.shape, generator=generator).to(z)
                (grad,) = torch.autograd.grad((z * towards).sum(), leaf)
            found.append(grad.float().flatten())
        return float(torch.nn.functional.cosine_similarity(found[0], found[1], dim=0))


def arranged(net: Any, device: torch.device) -> Any:
    """The network on the device, the weights of its convolutions over pictures in that device's layout."""
    net.to(device)
    for weight in net.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=layout_on(device))
    return net


def layout_on(device: torch.device) -> torch.memory_format:
    """Channels last on CUDA. On the CPU nothing is faster by it, and torch's group norm then takes the variance as the
    difference of two large numbers: before a plain background an autoencoder's latents were wrong by a hundredth."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
