# SPDX-License-Identifier: Apache-2.0
"""Three and four processes on one run, with shares that are not equal, have the gradients of one; a run whose fourth
process dies goes on with two, and ends with one.

Four processes are begun once; three of them go through the same cases again, in float64, by the torch twins of the ops:
what is left between one process and several is then no rounding.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamlab.core.errors import Interrupted, RankLost
from dreamlab.recipe import load
from dreamlab.recipe.checks import views_together
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.checkpoint import read_at
from dreamlab.run.folder import Run
from dreamlab.run.ranks import ALONE, Alone, Ranks
from dreamlab.run.signals import StopSignal
from dreamlab.run.train import Tick, train
from tests.conftest import threads
from tests.run.test_ranks import FIELD, GROWING, near, recipe, trace

COUNTS, STEPS = (4, 3), 3
CLOSE = 1e-12  # of the largest gradient of a parameter; rounding was seen to leave 5e-15
ROUND = "kind: gaussians, count: 32, lr_quats: 0"  # see test_ranks
CASES = {
    # Seven views: one and three times two of four processes, three times two and one of three.
    "views": recipe(f"{{{ROUND}, {GROWING}}}", more="regularisers: {opacity: 0.1, scale_mean: 0.5}", views=7),
    "samples": recipe(
        f"{{kind: field, {FIELD}, normals: analytic, noise: 0.5, background: {{kind: solid}}, shading: {{lit: 0.75}}}}",
        more="regularisers: {z_variance: 0.1, distortion: 0.1, orient: 0.1, entropy: 0.1, opaque: 0.1}",
        views=7,
    ),
    # Fewer rows than processes go through the network.
    "sampled": recipe(f"{{{ROUND}}}", views=7).replace("system: sds", "system: sds, sample: 2"),
    # The views of five rings are shared one by one, the network's calls by rings.
    "rings": recipe(f"{{{ROUND}}}", "{kind: mvdream, group: 2}", "cameras: {ring: 2}\n    background: random", 10),
    # Four of five particles in a step, and four prompts: a process each, or one process has two.
    "particles": recipe(
        f"{{{ROUND}, {GROWING}}}",
        "{kind: vsd, width: 8}",
        "particles: 5\n    at_once: 4\n    regularisers: {opaque: 0.1, scale_mean: 0.5}",
        8,
    ),
    "prompts": recipe(
        f"{{kind: hyper_field, {FIELD}, code: 8, hyper: 8, refresh: 1}}",
        "asd",
        "at_once: 4\n    regularisers: {z_variance: 0.1}\nprompts: [a blue mug, a green pear, a white dice]",
        8,
    ),
}
SHARES = {"rings": ([2, 3, 2, 3], [3, 3, 4])}
SHARES |= dict.fromkeys(("particles", "prompts"), ([2, 2, 2, 2], [2, 2, 4]))
SHARES |= dict.fromkeys(("views", "samples", "sampled"), ([1, 2, 2, 2], [2, 2, 3]))
LONG = CASES["samples"].replace("steps: 40", "steps: 9") + "keeping: {log: 1, checkpoint: 2, keep: 9, preview: 9}"
DIES, LEAVES = 3, 6  # steps after which the fourth of four is gone, and two are asked to stop
GONE = 9


def together(folder: str, name: str, rank: int, count: int) -> Ranks:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
    store = dist.FileStore(f"{folder}/{name}", count)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
    return Ranks(rank, count)


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """One thread, in float64."""
    with threads(1):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    for count in COUNTS:
        if rank < count:
            ranks = together(folder, f"cases of {count}", rank, count)
            for name, text in CASES.items():
                with exactly():
                    found = trace(text, ranks, STEPS)
                save_file(found, f"{folder}/{name}.{rank}of{count}.safetensors")
    run = Path(folder, "run")
    with pytest.raises(RankLost):
        goes_on(run, together(folder, "run of 4", rank, 4), dies=DIES)
    if rank < 2:
        with pytest.raises(Interrupted):
            goes_on(run, together(folder, "run of 2", rank, 2), leaves=LEAVES)


def goes_on(folder: Path, ranks: Alone, dies: int = 0, leaves: int = 0) -> None:
    """A run trained on from its newest checkpoint; the last of its processes dies or is asked to stop at a step."""
    stop = StopSignal()

    def tick(now: Tick) -> None:
        if ranks.rank == ranks.count - 1 and now.done == dies:
            os._exit(GONE)
        if ranks.rank == ranks.count - 1 and now.done == leaves - 1:
            stop.request()

    wanted = load(LONG, TABLES)
    train(ranks.own(Run(folder)), wanted, Assembler(wanted, "cpu", ranks=ranks), tick, stop)


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    Run.create(folder, LONG, "a mushroom", []).path.rename(folder / "run")
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=work, args=(rank, str(folder))) for rank in range(4)]
    for worker in workers:
        worker.start()
    until = time.monotonic() + 250
    while any(each.is_alive() for each in workers) and time.monotonic() < until:
        if any(each.exitcode not in (None, 0, GONE) for each in workers):
            break
        time.sleep(0.05)
    for worker in workers:
        worker.kill()  # who waits for one that failed
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, GONE]
    return folder


@pytest.fixture(scope="module")
def single() -> Callable[[str], dict[str, Tensor]]:
    known: dict[str, dict[str, Tensor]] = {}

    def of(name: str) -> dict[str, Tensor]:
        if name not in known:
            with exactly():
                known[name] = trace(CASES[name], ALONE, STEPS)
        return known[name]

    return of


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", CASES)
def test_the_gradients_and_the_checkpoint_of_one(
    worked: Path, single: Callable[[str], dict[str, Tensor]], name: str, count: int
) -> None:
    alone = single(name)
    assert name != "views" or len(alone["scene.means"]) != 32, "it has grown"
    found, *others = (load_file(worked / f"{name}.{rank}of{count}.safetensors") for rank in range(count))
    assert found.keys() == alone.keys() and any(key.startswith("grad.") for key in alone)
    for key, value in alone.items():
        if key.startswith("grad.") and not key.endswith("quats"):
            assert value.dtype == torch.float64
            error = (found[key] - value).abs().max() / value.abs().max().clamp(min=1e-30)
            assert error < CLOSE, key
        elif key.startswith(("scene.", "system.", "streams.", "optimiser.count")):
            near(found[key], value, key)
    for other in others:
        torch.testing.assert_close(found, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_what_each_process_draws(name: str) -> None:
    """What the cases are worth."""
    stage = load(CASES[name], TABLES).stages[0]
    shares = [Ranks(0, count).shares(stage.views, views_together(stage)) for count in COUNTS]
    assert tuple(shares) == SHARES[name]


def test_of_four_one_dies_two_go_on_and_one_ends_it(worked: Path, tmp_path: Path) -> None:
    with threads(1):
        goes_on(worked / "run", ALONE)
        alone = Run.create(tmp_path, LONG, "a mushroom", [])
        goes_on(alone.path, ALONE)
    made = [event["path"] for event in Run(worked / "run").events() if event["kind"] == "checkpoint"]
    assert made == [f"step_{step:06d}" for step in (2, 4, LEAVES, 8, 9)]
    mixed, plain = (read_at(folder / "ckpt", 9) for folder in (worked / "run", alone.path))
    assert mixed is not None and plain is not None
    assert mixed.parts.keys() == plain.parts.keys() and mixed.meta == plain.meta
    for part in ("scene", "streams"):
        for name, value in plain.parts[part].items():
            near(mixed.parts[part][name], value, name)
