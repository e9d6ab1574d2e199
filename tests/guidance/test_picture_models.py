# SPDX-License-Identifier: Apache-2.0
"""What holds of every family that looks at pictures: rows are answered apart from each other, precisions agree, and the
network is asked in the precision it runs in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import turntable
from dreamlab.core.types import Condition, Prompt
from guidance.deepfloyd import DeepFloyd
from guidance.fewstep import FewStep
from guidance.flux import Flux
from guidance.flux2 import Klein
from guidance.sd import StableDiffusion
from guidance.sd3 import StableDiffusion3
from guidance.sdxl import StableDiffusionXL
from guidance.zimage import ZImage
from tests.guidance.pretrained import frames, made, spied

Folder = Callable[..., Path]
FAMILIES: dict[str, tuple[Any, str, dict[str, object]]] = {
    "sd": (StableDiffusion, "sd15", {"size": 64}),
    "sd21v": (StableDiffusion, "sd21v", {"size": 64}),
    "sdxl": (StableDiffusionXL, "sdxl", {}),
    "deepfloyd": (DeepFloyd, "if1m", {}),
    "lcm": (FewStep, "sd15-lcm", {"size": 64}),
    "sd3": (StableDiffusion3, "sd3", {}),
    "sd35m": (StableDiffusion3, "sd35m", {}),
    "flux": (Flux, "flux1-dev", {"size": 64, "words": 32}),
    "klein": (Klein, "flux2-klein-4b", {"size": 64, "words": 48}),
    "z-image": (ZImage, "zimage", {"size": 64, "words": 64}),
}


def built(family: str, random_folder: Folder, **settings: object) -> Any:
    kind, name, own = FAMILIES[family]
    return made(kind, random_folder(name), **own, **settings)


def noisy(model: Any, count: int) -> Tensor:
    side = model.side // model.codec.factor
    shape = (count, model.codec.channels, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def told(model: Any, texts: tuple[str, ...]) -> Condition:
    """Rows of different texts in one condition, as the engine batches branches."""
    each = [model.condition(Prompt(text), turntable(1), frames(1))["text"].rows for text in texts]
    return Condition({name: torch.cat([rows[name] for rows in each]) for name in each[0]})


TEXTS = ("a red mushroom with a white stem", "a duck", "")


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_other_texts_and_times_do_not_touch_each_other(family: str, random_folder: Folder) -> None:
    model = built(family, random_folder)
    z, condition = noisy(model, 3), told(model, TEXTS)
    t = torch.tensor([1, 25, 45]) if family == "lcm" else torch.tensor([30, 500, 950])
    whole = model.predict(z, t, condition)
    assert whole.shape == z.shape and whole.dtype == torch.float32 and torch.isfinite(whole).all()
    for i in range(3):
        alone = Condition({name: rows[i : i + 1] for name, rows in condition.rows.items()})
        torch.testing.assert_close(
            model.predict(z[i : i + 1], t[i : i + 1], alone), whole[i : i + 1], rtol=1e-3, atol=1e-4
        )
    turned = Condition({name: rows.roll(1, 0) for name, rows in condition.rows.items()})
    assert (model.predict(z, t, turned) - whole).abs().amax((1, 2, 3)).min() > 1e-4, "a text is not heard"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_agrees_and_is_what_the_network_is_asked_in(
    family: str, dtype: torch.dtype, random_folder: Folder
) -> None:
    exact, half = (built(family, random_folder, dtype=name) for name in ("float32", str(dtype).removeprefix("torch.")))
    # Some networks round their time to bfloat16 before they multiply it by a thousand: a time that it can hold.
    middle = exact.clock.time[len(exact.table) // 4 : -len(exact.table) // 4]
    t = (middle - middle.bfloat16().float()).abs().argmin()[None] + len(exact.table) // 4
    z = noisy(exact, 1)
    expected = exact.predict(z, t, told(exact, TEXTS[:1]))
    with spied(half.net) as calls:
        found = half.predict(z, t, told(half, TEXTS[:1]))
    assert {value.dtype for value in half.module.parameters()} == {dtype}
    assert found.dtype == torch.float32
    given = calls[0][0]
    (state,) = [given[name] for name in ("sample", "hidden_states", "x") if name in given]
    assert (state[0] if isinstance(state, list) else state).dtype == dtype
    times = given.get("timestep", given.get("t"))
    assert times.dtype == torch.float32, "times are rounded before the network does it"
    assert (found - expected).norm() / expected.norm() < (0.1 if dtype == torch.bfloat16 else 0.02)
