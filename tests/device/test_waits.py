# SPDX-License-Identifier: Apache-2.0
"""How often the host waits for the device in one step: as often as `dreamlab.run.waits` allows and says why.

Most is counted on the `pretend` device, where our ops do not wait; what the kernels of a GPU add to that is counted
where they are emulated, for Gaussians and a field.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import pytest

import configs
from cuda_ext import room
from dreamlab import recipe
from dreamlab.recipe.tables import SCENES as KNOWN
from dreamlab.recipe.tables import SYSTEMS, TABLES
from dreamlab.run import train, waits
from dreamlab.run.assemble import Assembler
from dreamlab.run.telemetry import Ring
from tests.device.pretend import the_device
from tests.device.pretend import waits as waiting
from tests.device.runs import MOVING, SCENES, recipe_of
from tests.device.test_rules import PICTURED, RECIPES
from tests.second_device import second_device
from tests.sync_counter import syncs

STEPS = 4  # what changes a scene is due in every second one of these recipes
MARCH = 1  # of a field's: how many samples there are is read by the kernel's wrapper
KINDS = {
    "adaptive": "gaussians",
    "mcmc": "gaussians",
    "control": "gaussians4d",
    "mlp": "gaussians4d",
    "hexplane": "gaussians4d",
    "field": "field",
    "field_latent": "field",
    "field_distance": "field",
    "field4d": "field4d",
    "hyper_field": "hyper_field",
    "dmtet": "dmtet",
    "mesh": "mesh",
    "mesh_hash": "mesh",
    "mesh4d": "mesh4d",
}


def counted(text: str, *overrides: str, steps: int = STEPS) -> list[list[str]]:
    """What waited, and where, in each step after the first; our ops apart."""
    found = []
    with the_device() as device:
        assembler = Assembler(recipe.load(text, TABLES, overrides=("stages.0.steps=400", *overrides)), device)
        stage = assembler.stage(0, {})
        ring = Ring(train.METRICS, steps, assembler.device)
        for i in range(steps):
            with waiting() as now:
                train.step(stage, i, ring)
            found.append(now)
    return found[1:]


def counted_with_kernels(text: str) -> list[list[str]]:
    """The same with the kernels of a GPU, which know how much room to take after some passes."""
    found = []
    with second_device(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assembler = Assembler(recipe.load(text, TABLES, overrides=("stages.0.steps=400",)), "cuda")
        stage = assembler.stage(0, {})
        ring = Ring(train.METRICS, room.PASSES + STEPS, assembler.device)
        for i in range(room.PASSES + STEPS):
            with syncs(only_on_device=True) as now:
                train.step(stage, i, ring)
            found.append([f"{what} at {where}" for what, where in now])
    return found[-2:]


def report(found: list[str]) -> str:
    return "\n".join(f"{count} x {what}" for what, count in Counter(found).most_common())


def at_most(found: list[list[str]], allowed: waits.Waits, more: int = 0) -> None:
    """No step waits more often than allowed, and what is allowed is needed."""
    quiet, busy = min(found, key=len), max(found, key=len)
    assert len(quiet) <= allowed.always + more, report(quiet)
    assert len(busy) <= allowed.always + allowed.seldom + more, report(busy)
    assert len(quiet) == allowed.always + more, f"{allowed} is more than is needed: lower it"


def scene(kind: str) -> str:
    return recipe_of(SCENES[kind], kind in MOVING)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_waits_as_often_as_allowed(kind: str, one_thread: None) -> None:
    ours = MARCH if "field" in KINDS[kind] else 0
    at_most(counted(scene(kind)), waits.SCENES[KINDS[kind]], (waits.MOVING_TRUTH if kind in MOVING else 0) - ours)


@pytest.mark.parametrize("kind", ["adaptive", "field"])
def test_the_kernels_of_a_gpu_add_nothing(kind: str, one_thread: None) -> None:
    at_most(counted_with_kernels(scene(kind)), waits.SCENES[KINDS[kind]])


def test_a_field_of_fixed_samples_waits_for_nothing(one_thread: None) -> None:
    at_most(counted(scene("field_sky")), waits.NOTHING)


def test_objects_wait_as_their_kinds_do(one_thread: None) -> None:
    kinds = [waits.SCENES[kind] for kind in ("gaussians", "field", "dmtet", "mesh")]
    total = waits.Waits(sum(kind.always for kind in kinds), "", sum(kind.seldom for kind in kinds))
    at_most(counted(scene("several")), total, -MARCH)


def test_shadows_wait_twice_for_every_node(one_thread: None) -> None:
    found = counted(scene("mesh_shadows"))[0]
    walk = Counter(each for each in found if "light/rays" in each)
    assert len(walk) == waits.SHADOWS and len(set(walk.values())) == 1, report(found)
    assert len(found) - sum(walk.values()) <= waits.SCENES["mesh"].always + waits.SHADED, report(found)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_rule_waits_as_often_as_allowed(name: str, one_thread: None) -> None:
    """The scenes here wait for nothing."""
    text = Path(configs.find(RECIPES.get(name, name))).read_text(encoding="utf-8")
    found = counted(text, "stages.0.size=12", "stages.0.scene.count=24", *PICTURED.get(name, ()), steps=2)
    at_most(found, waits.RULES.get(name, waits.NOTHING), 2 * waits.MOVING_TRUTH if name == "video" else 0)


def test_every_kind_of_scene_has_an_allowance() -> None:
    assert set(waits.SCENES) | {"several"} == set(KNOWN) and set(waits.RULES) <= set(SYSTEMS)
