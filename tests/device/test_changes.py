# SPDX-License-Identifier: Apache-2.0
"""Every scene that may become another does so on the second device, looks there as it looks on the CPU, and learns."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import orbit
from dreamlab.core.types import Scene
from dreamlab.recipe.tables import SCENES as KINDS
from renderers.become import Kept, become, can_become
from tests.device.pretend import left_behind, the_device
from tests.device.runs import CLOUD, SCENES, cheap, scene_of

__all__ = ["cheap"]
# One of each kind, and those that are taken over in another way: other sizes, other materials.
SMALL = {
    "gaussians": CLOUD,
    "gaussians4d": SCENES["control"],
    "field": SCENES["field"],
    "field4d": SCENES["field4d"],
    "hyper_field": SCENES["hyper_field"],
    "dmtet": SCENES["dmtet"],
    "dmtet of half its cells": SCENES["dmtet"].replace("resolution: 8", "resolution: 16"),
    "mesh": SCENES["mesh"].replace("shading: pbr", "shading: flat"),
    "mesh of a hash grid": SCENES["mesh_hash"],
    "mesh4d": SCENES["mesh4d"],
    "several": "{kind: several, objects: {a: {scene: " + CLOUD + "}}}",
}
FROM = {
    "dmtet of half its cells": ("dmtet",),
    "mesh of a hash grid": ("field", "mesh"),
    "mesh4d": ("gaussians", "mesh"),
}  # all others: from every kind
KIND = {name: words.split("kind: ")[1].split(",")[0] for name, words in SMALL.items()}
PAIRS = [
    (source, target)
    for source, target in itertools.product(SMALL, SMALL)
    if can_become(KIND[source], KIND[target])
    and source in FROM.get(target, SMALL)
    and not (source == target and KIND[source] not in ("dmtet", "mesh"))
]


def changed(source: str, target: str, device: str) -> tuple[Scene, Tensor, Kept | None]:
    """A scene that took over, and its picture."""
    (before, _), (after, stream) = (scene_of(SMALL[name], device) for name in (source, target))
    made, kept = become(before, after, stream)
    frames = made.render(orbit([20.0]).to(device), 8, torch.ones(1, 3, device=device))
    frames.rgb.sum().backward()
    assert any(group.tensor.grad is not None for group in made.groups().values())
    return made, frames.rgb.detach().cpu(), kept


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_change_on_the_device(source: str, target: str, cheap: None, one_thread: None) -> None:
    _, expected, kept = changed(source, target, "cpu")
    with the_device() as device:
        made, found, also = changed(source, target, device)
        assert [name for name in left_behind(made, "") if "grid.corners" not in name] == []
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert (kept is None) == (also is None)


def test_every_kind_is_here() -> None:
    assert set(KIND.values()) == set(KINDS)
