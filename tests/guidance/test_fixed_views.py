# SPDX-License-Identifier: Apache-2.0
"""Models of fixed views drive a scene through the engine, beside the picture they follow, from a folder alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from configs import find
from dreamlab import recipe
from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.errors import InputError
from dreamlab.core.streams import derive
from dreamlab.core.types import Condition, Prompt
from dreamlab.recipe import Recipe
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.folder import Run
from dreamlab.run.train import train
from guidance.dreamt import DRAWERS, Dreamt
from guidance.latent.sampling import Sampling, drawn
from guidance.sv3d import StableOrbit
from guidance.zero123plus import Zero123Plus
from systems.photometric import known
from tests.guidance.pretrained import frames, made
from tests.guidance.test_zero123 import reference
from tests.guidance.video.common import save_picture

pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")
pytest.importorskip("transformers", reason="transformers is not installed (extra `models`)")

SMALL = ["stages.0.steps=2", "stages.0.size=16"]


def small(name: str, model: Path, size: int, picture: Path, *more: str) -> Recipe:
    """A recipe as it comes, with a tiny model."""
    own = {"model": model, "size": size, "dtype": "float32"}
    how = [f"stages.0.terms.1.guidance.{key}={value}" for key, value in own.items()]
    save_picture(picture)
    return recipe.load(find(f"paper/{name}"), TABLES, overrides=[*SMALL, *how, *more, f"image.file={picture}"])


@pytest.mark.parametrize(
    ("name", "layout", "size"),
    [
        ("zero123plus", "zero123plus", 32),
        ("sv3d", "sv3d-p", 64),
        ("zero123plus-views", "zero123plus", 32),
        ("sv3d-views", "sv3d-p", 64),
    ],
)
def test_the_recipe_takes_two_steps(
    name: str,
    layout: str,
    size: int,
    random_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its views are drawn beside the picture's own, and both terms are heard."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    more = ["stages.0.terms.1.guidance.steps=2"] if name.endswith("-views") else []
    wanted = small(name, random_folder(layout), size, tmp_path / "given.png", *more)
    run = Run.create(tmp_path / "run", recipe.dump(wanted), wanted.prompt, ["dreamlab"], {})
    before = {name: group.tensor.clone() for name, group in Assembler(wanted, "cpu").stage(0).scene.groups().items()}
    scene = train(run, wanted, Assembler(wanted, "cpu", run.path))
    metrics = [event for event in run.events() if event["kind"] == "metrics"]
    assert metrics[-1]["healthy"] == 1
    assert (metrics[-1]["grad_rms"] > 0) is not name.endswith("-views")  # of latents, in which pictures have no part
    after = {name: group.tensor for name, group in scene.groups().items()}
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved and all(torch.isfinite(value).all() for value in after.values())


def six(groups: int = 1) -> Cameras:
    return orbit([30.0, 90.0, 150.0, 210.0, 270.0, 330.0] * groups, [20.0, -10.0] * 3 * groups, 3.7, 30.0)


def test_views_are_dreamt_once_and_the_model_is_gone(
    random_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model's own sampler draws, each view for its camera, at the frames' size; by its seed."""
    given = Prompt("unheard", image=reference(azimuth=0.0, size=80))
    folder = random_folder("zero123plus")
    how = {"model": str(folder), "size": 32, "dtype": "float32", "steps": 3, "cfg": 3.0, "seed": 5}
    built, kind = list[weakref.ref[Zero123Plus]](), DRAWERS["zero123plus"]
    inner = kind.build

    def build(settings: object, worlds: None) -> Zero123Plus:
        made = inner(settings, worlds)
        built.append(weakref.ref(made))
        return made

    monkeypatch.setattr(kind, "build", build)
    mine = Dreamt.build(Dreamt.Settings(**how), None).to("cpu")
    assert not built
    seen = mine.condition(given, six(2), frames(12, 24))["truth"].rows["rgb"]
    again = mine.condition(given, six(2), frames(12, 24))["truth"].rows["rgb"]
    gc.collect()
    assert len(built) == 1 and built[0]() is None and torch.equal(seen, again)
    assert seen.shape == (12, 24, 24, 3) and torch.equal(seen[:6], seen[6:])
    drawer = made(kind, folder, size=32)
    told = drawer.condition(given, six(), frames(6))
    stream = torch.Generator().manual_seed(derive(5, "drawing"))
    z = drawn(drawer, told["text"], told["null"], (1, 4, 12, 8), stream, Sampling(3, 3.0))
    whole = drawer.codec.decode(z / 0.75 + 0.22)[0].permute(1, 2, 0) * 0.8 + 0.5
    third = F.interpolate(
        whole[32:64, :32].permute(2, 0, 1)[None].clamp(0, 1), (24, 24), mode="bilinear", antialias=True
    )
    torch.testing.assert_close(seen[2], third[0].permute(1, 2, 0), rtol=1e-4, atol=1e-4)
    other = Dreamt.build(Dreamt.Settings(**{**how, "seed": 6}), None)
    assert (other.condition(given, six(), frames(6, 24))["truth"].rows["rgb"] - seen[:6]).abs().max() > 1e-2
    with pytest.raises(InputError, match="dreamt: follows a picture and the prompt has none"):
        mine.condition(Prompt("unheard"), six(), frames(6))
    with pytest.raises(InputError, match="dreamt: looks at 6 views together, and 4 came"):
        mine.condition(given, six()[:4], frames(4))
    with pytest.raises(InputError, match="the known picture has no alpha; leave out the weight"):
        known({"rgb": seen}, "alpha")


def answering(name: str, folder: Path, dtype: str = "float32") -> tuple[Any, Tensor, Condition]:
    """A tiny model, noisy latents for it, and what it is told."""
    kind, more = (Zero123Plus, {"size": 32}) if name == "zero123plus" else (StableOrbit, {"size": 64, "frames": 3})
    model = made(kind, folder, dtype=dtype, **more)
    views = six() if name == "zero123plus" else orbit([120.0, 240.0, 0.0], 20.0)
    given = Prompt("unheard", image=reference(azimuth=0.0, size=80))
    shape = (1, 4, 12, 8) if name == "zero123plus" else (3, 4, 8, 8)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return model, z, model.condition(given, views, frames(len(views)))["text"]


@pytest.mark.parametrize("name", ["zero123plus", "sv3d-p"])
def test_half_precision_answers_nearly_the_same(name: str, random_folder: Callable[..., Path]) -> None:
    """Every input of the network is cast, and its answer is float32 again."""
    said = []
    for dtype in ("float32", "bfloat16"):
        model, z, told = answering(name, random_folder(name), dtype)
        said.append(model.predict(z, torch.full((len(z),), 400), told))
    assert said[1].dtype == torch.float32
    assert 0 < (said[1] - said[0]).norm() < 0.05 * said[0].norm()


@pytest.mark.parametrize("name", ["zero123plus", "sv3d-p"])
def test_a_trained_copy_begins_as_the_model_and_learns(name: str, random_folder: Callable[..., Path]) -> None:
    """VSD's: every addition to attention is heard, in both passes of Zero123++ and in both parts of SV3D."""
    model, z, told = answering(name, random_folder(name))
    t, copy = torch.full((len(z),), 400), model.adapter(2)
    params = {key: value.requires_grad_() for key, value in copy.start().items()}
    said = copy.apply(params, z, t, told, torch.randn(len(z), 16))
    torch.testing.assert_close(said, model.predict(z, t, told), rtol=1e-4, atol=1e-5)
    said.square().sum().backward()
    ups = {key: value.grad for key, value in params.items() if not key.startswith("camera")}
    heard = [key for key, grad in ups.items() if grad is not None and grad.abs().max() > 0]
    assert len(heard) == len(ups) // 2  # of a product of two, one of which is zeros at first
