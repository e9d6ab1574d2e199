# SPDX-License-Identifier: Apache-2.0
"""What tests of pretrained families share: a model of a tiny folder, views, and the calls of a library's network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dreamlab.core.cameras import turntable
from dreamlab.core.types import Condition, Frames, Prompt
from guidance.latent.model import LatentModel

PROMPT = Prompt("a red mushroom", "ugly")


def made(kind: Any, folder: Path, **settings: object) -> Any:
    """The family's model of a folder, in float32 on the host."""
    return kind.build(kind.Settings(**{"model": str(folder), "dtype": "float32", **settings}), None).to("cpu")


def frames(count: int, size: int = 16) -> Frames:
    blank = torch.zeros(count, size, size, 1)
    return Frames(blank.expand(-1, -1, -1, 3), blank, blank, torch.zeros(count, 3))


def asked(model: LatentModel, count: int = 1, prompt: Prompt = PROMPT) -> dict[str, Condition]:
    return dict(model.condition(prompt, turntable(count), frames(count)))


@contextmanager
def spied(net: nn.Module) -> Iterator[list[tuple[dict[str, Any], Any]]]:
    """Arguments by name and result of every call of a network."""
    calls: list[tuple[dict[str, Any], Any]] = []
    inner = net.forward
    signature = inspect.signature(inner)

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        kept = {name: value.clone() if isinstance(value, Tensor) else value for name, value in given.items()}
        result = inner(*args, **kwargs)
        calls.append((kept, result))
        return result

    net.forward = forward  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        net.forward = inner  # type: ignore[method-assign]


def keeper(kept: list[Tensor]) -> Callable[..., dict[str, Tensor]]:
    """A pipeline's callback that keeps the latents after every step."""

    def keep(_: object, step: int, time: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        kept.append(values["latents"].clone())
        return values

    return keep


def gradient_is_that_of_differences(model: LatentModel, straight: Callable[[Tensor], Tensor]) -> None:
    """`encode`'s gradient in float32 against differences in float64 of `straight`, from pictures [1, 3, S, S] in
    [-1, 1] to latents, of the library's own networks."""
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(1, model.side, model.side, 3, generator=generator)
    along = torch.randn(rgb.shape, generator=generator)
    leaf = rgb.clone().requires_grad_()
    z = model.encode(leaf)
    towards = torch.randn(z.shape, generator=generator)
    (z * towards).sum().backward()

    def value(step: float) -> float:
        picture = 2 * (rgb.double() + step * along.double()).permute(0, 3, 1, 2) - 1
        with torch.no_grad():
            return float((straight(picture) * towards.double()).sum())

    step = 1e-5
    slope = (value(step) - value(-step)) / (2 * step)
    assert leaf.grad is not None
    assert (leaf.grad * along).sum().item() == pytest.approx(slope, rel=1e-3)
    assert (z * towards).sum().item() == pytest.approx(value(0.0), rel=1e-4)
    assert torch.equal(model.encode(rgb), model.encode(rgb)), "a sample of the posterior, not its mode"
