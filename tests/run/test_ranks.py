# SPDX-License-Identifier: Apache-2.0
"""Several processes on one run: the gradients, the statistics and the checkpoints of a single one.

Two processes over gloo are begun once and go through all cases; the same cases run here, in one process. Round
Gaussians have no gradient by which way they turn but what rounding leaves, of which Adam would make whole steps:
`lr_quats: 0`, and that gradient is not compared.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamlab.core.errors import Interrupted
from dreamlab.recipe import load
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler, BuiltStage
from dreamlab.run.checkpoint import committed, read_at
from dreamlab.run.folder import Run
from dreamlab.run.ranks import ALONE, Alone, Ranks
from dreamlab.run.signals import StopSignal
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, Tick, step, train
from tests.conftest import threads

ORACLE = "guidance: {kind: oracle, others: 1}"


def recipe(scene: str, system: str = "sds", more: str = "", views: int = 3, guidance: str = ORACLE) -> str:
    """Three views of two ranks: one has two of them."""
    return f"""
prompt: a red mushroom with a white stem
stages:
  - name: shape
    scene: {scene}
    terms: [{{{guidance}, system: {system}}}]
    steps: 40
    views: {views}
    size: 16
    {more}
"""


GROWING = "densify: {kind: adaptive, begin: 0, end: 1, every: 2, gradient: 0.00001, cap: 100}"
FIELD = "levels: 3, log2_entries: 9, occupancy: 8, hidden: 8"
CASES = {
    "gaussians": recipe(
        "{kind: gaussians, count: 48, lr_quats: 0}", more="regularisers: {opacity: 0.1, scale_mean: 0.5}"
    ),
    "growing": recipe(f"{{kind: gaussians, count: 48, lr_quats: 0, {GROWING}}}"),
    "field": recipe(
        f"{{kind: field, {FIELD}, normals: analytic, noise: 0.5, background: {{kind: solid}}, shading: {{lit: 0.75}}}}",
        more="regularisers: {z_variance: 0.1, distortion: 0.1, orient: 0.1, entropy: 0.1, opaque: 0.1}",
    ),
}
CASES |= {
    # Two particles of three in each step, one on each rank; the rule's own network sees both.
    "particles": recipe(
        f"{{kind: gaussians, count: 32, lr_quats: 0, {GROWING}}}",
        "{kind: vsd, width: 8}",
        "particles: 3\n    at_once: 2\n    regularisers: {opaque: 0.1, scale_mean: 0.5}",
        4,
    ),
    # A generator of four prompts, two of them in each step.
    "prompts": recipe(
        f"{{kind: hyper_field, {FIELD}, code: 8, hyper: 8, refresh: 1}}",
        "asd",
        "at_once: 2\n    regularisers: {z_variance: 0.1}\nprompts: [a blue mug, a green pear, a white dice]",
        4,
    ),
    # A rule that trains its network on all views, while the views that it sees are drawn.
    "vsd": recipe("{kind: gaussians, count: 32, lr_quats: 0}", "{kind: vsd, width: 8}"),
    "bootstrapped": recipe(
        "{kind: gaussians, count: 32, lr_quats: 0}", "{kind: bootstrapped, width: 8, cycle: 4, dream: 0.5, polish: 1}"
    ),
    "sampled": recipe("{kind: gaussians, count: 32, lr_quats: 0}").replace("system: sds", "system: sds, sample: 2"),
    # Views of a ring that the rule normalises together, and pictures that hold one against the other.
    "ring": recipe(
        "{kind: gaussians, count: 32, lr_quats: 0}",
        "{kind: mvdream, group: 2}",
        "cameras: {ring: 2}\n    background: random",
        4,
    ),
}
STEPS = 4
LONG = CASES["field"].replace("steps: 40", "steps: 9") + "keeping: {log: 1, checkpoint: 9, preview: 9}"
ONE, TWO = 3, 6  # steps up to which one process trains, then two, then one again


def trace(text: str, ranks: Alone, steps: int = STEPS) -> dict[str, Tensor]:
    """The gradients of the first step, and everything a checkpoint would hold after some."""
    found: dict[str, Tensor] = {}
    built = Assembler(load(text, TABLES), "cpu", ranks=ranks).stage(0)
    move = built.optimiser.step

    def noted(*arguments: object) -> Tensor:
        for name, group in built.scene.groups().items():
            if group.tensor.grad is not None and f"grad.{name}" not in found:
                found[f"grad.{name}"] = group.tensor.grad.clone()
        return move(*arguments)  # type: ignore[arg-type]

    built.optimiser.step = noted  # type: ignore[method-assign]
    ring = Ring(METRICS, steps, "cpu")
    for i in range(steps):
        step(built, i, ring)
    return found | kept(built) | {"metrics": torch.tensor([list(row.values()) for row in ring.drain()])}


def kept(built: BuiltStage) -> dict[str, Tensor]:
    parts = {"scene": built.scene.state_dict(), "optimiser": built.optimiser.state_dict()}
    parts |= {"streams": built.streams.state_dict(), "system": built.terms[0].system.state_dict()}
    return {f"{part}.{name}": value.clone() for part, state in parts.items() for name, value in state.items()}


def work(rank: int, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for name, text in CASES.items():
        ranks = Ranks(rank, 2)
        found = trace(text, ranks)
        save_file(found | {"sent": torch.tensor(ranks.sent)}, f"{folder}/{name}.{rank}.safetensors")
    goes_on(Path(folder, "run"), Ranks(rank, 2), TWO - 1)
    dist.destroy_process_group()


def goes_on(folder: Path, ranks: Alone, until: int | None) -> None:
    """A run trained on from where it stands; at a step the last of its processes is asked to stop. Alone it stops
    there, one of two has to tell the other in the next."""
    stop = StopSignal()

    def tick(now: Tick) -> None:
        if now.done == until and ranks.rank == ranks.count - 1:
            stop.request()

    run = ranks.own(Run(folder))
    wanted = load(LONG, TABLES)
    with contextlib.nullcontext() if until is None else pytest.raises(Interrupted):
        train(run, wanted, Assembler(wanted, "cpu", ranks=ranks), tick, stop)


Both = Callable[[str], list[dict[str, Tensor]]]


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have gone through all cases, and through a part of a run."""
    folder = tmp_path_factory.mktemp("ranks")
    run = Run.create(folder, LONG, "a mushroom", [])
    run.path.rename(folder / "run")
    with threads(1):
        goes_on(folder / "run", ALONE, ONE)
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=work, args=(rank, str(folder))) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(400)
    assert [worker.exitcode for worker in workers] == [0, 0]
    with threads(1):
        goes_on(folder / "run", ALONE, None)
    return folder


@pytest.fixture(scope="module")
def both(worked: Path) -> Both:
    """What each of two processes came to, by case."""
    return lambda name: [load_file(worked / f"{name}.{rank}.safetensors") for rank in range(2)]


@pytest.fixture(scope="module")
def single() -> Callable[[str], dict[str, Tensor]]:
    """The same of this one process."""
    known: dict[str, dict[str, Tensor]] = {}

    def of(name: str) -> dict[str, Tensor]:
        if name not in known:
            with threads(1):
                known[name] = trace(CASES[name], ALONE)
        return known[name]

    return of


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_gradients_of_one(
    both: Both, single: Callable[[str], dict[str, Tensor]], name: str
) -> None:
    alone = {key: value for key, value in single(name).items() if key.startswith("grad.")}
    assert any(not key.endswith("quats") for key in alone)
    for found in both(name):
        assert {key for key in found if key.startswith("grad.")} == set(alone)
        for key, value in alone.items():
            if key.endswith("quats"):
                continue
            error = (found[key] - value).abs().max() / value.abs().max().clamp(min=1e-30)
            assert error < 1e-6, key


@pytest.mark.parametrize("name", CASES)
def test_both_hold_the_same_to_the_bit(both: Both, name: str) -> None:
    first, second = both(name)
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_come_to_the_checkpoint_of_one(
    both: Both, single: Callable[[str], dict[str, Tensor]], name: str
) -> None:
    alone, (found, _) = single(name), both(name)
    assert found.keys() - alone.keys() == {"sent"}
    for key, value in alone.items():
        if key.startswith(("scene.", "system.", "streams.", "optimiser.count")):
            near(found[key], value, key)


def near(found: Tensor, value: Tensor, what: str) -> None:
    """To 1e-6, of what is larger than one in proportion."""
    assert found.shape == value.shape, what
    if value.is_floating_point():
        assert (found - value).abs().max() <= 1e-6 * value.abs().max().clamp(min=1), what
    else:
        assert torch.equal(found, value), what


def test_growing_changes_the_count_and_prompts_and_particles_share_a_step(
    single: Callable[[str], dict[str, Tensor]],
) -> None:
    """What the cases above are worth."""
    assert len(single("growing")["scene.means"]) != 48
    moved = {key.split(".")[1] for key in single("particles") if key.startswith("grad.")}
    assert len(moved) >= 2
    assert single("particles")["system.flat"].abs().sum() > 0


def test_a_run_goes_on_with_two_processes_and_with_one_again(worked: Path, tmp_path: Path) -> None:
    """The one that is asked to stop is not the one that writes; both stop after that step."""
    run = Run.create(tmp_path, LONG, "a mushroom", [])
    with threads(1):
        goes_on(run.path, ALONE, None)
    made = [event["path"] for event in Run(worked / "run").events() if event["kind"] == "checkpoint"]
    assert made == [f"step_{step:06d}" for step in (ONE, TWO, 9)]
    mixed, alone = (read_at(folder / "ckpt", 9) for folder in (worked / "run", run.path))
    assert mixed is not None and alone is not None
    assert mixed.parts.keys() == alone.parts.keys() and mixed.meta == alone.meta
    for part in ("scene", "streams"):
        for name, value in alone.parts[part].items():
            near(mixed.parts[part][name], value, name)
    previews = sorted(path.name for path in (worked / "run" / "previews").iterdir())
    assert previews == ["step_000009.png"] and len(committed(worked / "run" / "ckpt")) == 2
