# SPDX-License-Identifier: Apache-2.0
"""`python -m dreamlab.jobs.engines.raytrain PROMPT|RUN --ranks N`: one run by several processes of Ray Train (v2).

Ray places the ranks, brings them together and begins all of them anew where one is lost; a run then goes on from its
newest checkpoint, as it would by hand, with as many ranks as there is room for (`--least`). Nothing else is Ray's: the
run folder is the same, and must be on a disk that the ranks share.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlab.core.errors import DreamError, InputError, Interrupted, RankLost
from dreamlab.core.files import Json
from dreamlab.core.text import shell, short
from dreamlab.jobs.engines import ray as engine
from dreamlab.jobs.states import ASKED_TO_STOP
from dreamlab.run.joining import PATIENCE

if TYPE_CHECKING:
    from dreamlab.run.folder import Run
    from dreamlab.run.train import Tick

RESTARTS = 3
BOOKS = "ray"  # what Ray Train notes down, in the run folder as long as it works
LEAVE = "leave"  # a file among that: the ranks are asked to stop
LEAVING_S, LOOK_S = 60.0, 0.2  # for ranks to leave the folder, with a checkpoint


def _rank(told: Json) -> Json:
    """One of the processes, in a thread of a worker of Ray's. What is wrong with the run itself would be wrong again:
    it is returned, and nothing is begun anew."""
    import ray.train
    import ray.train.torch
    import torch.distributed as dist

    from dreamlab import pipeline
    from dreamlab.run.folder import Run
    from dreamlab.run.ranks import Ranks
    from dreamlab.run.signals import StopSignal

    context = ray.train.get_context()
    ranks, run = Ranks(context.get_world_rank(), context.get_world_size()), Run.open(Path(told["run"]))
    device = str(ray.train.torch.get_device()) if told["gpus"] else "cpu"
    asked, leave = StopSignal(), run.path / BOOKS / LEAVE

    def look(tick: Tick) -> None:
        if leave.exists():
            asked.request()

    try:
        if ranks.rank == 0:
            _wait_for(run)
        files = pipeline.execute(run, device, look, asked, ranks=ranks)
    except RankLost:
        if ranks.rank == 0 or run.state().get("state") != "failed":
            raise
        return {}  # the first has said why
    except DreamError as error:
        dist.destroy_process_group()  # the others hear that this one is gone
        return {"error": str(error), "code": error.exit_code}
    return {"files": [str(path) for path in files]}


def _wait_for(run: Run) -> None:
    until = time.monotonic() + LEAVING_S
    while run.busy() and time.monotonic() < until:
        time.sleep(LOOK_S)


def fit(run: Run, ranks: int, least: int = 0, gpus: float = 0, restarts: int = RESTARTS) -> list[Path]:
    """A run from wherever it stands to its end, on the cluster that this process has joined; the files it made. Where
    there is no room for all ranks, at least `least` of them will do; 0: all or none."""
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError:
        raise InputError("several ranks on Ray need Ray Train: pip install 'ray[train]'") from None
    place, each = run.path.absolute(), {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
    room = {"num_workers": (least, ranks) if least else ranks, "resources_per_worker": each}
    # With a fraction several ranks see one GPU, which NCCL does not take.
    nccl = gpus and gpus == int(gpus)
    trainer: Any = TorchTrainer(
        _rank,
        train_loop_config={"run": str(place), "gpus": gpus},
        torch_config=TorchConfig("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout_s=int(PATIENCE.total_seconds())),
        scaling_config=ScalingConfig(**room, use_gpu=bool(gpus)),
        run_config=RunConfig(name=BOOKS, storage_path=str(place), failure_config=FailureConfig(max_failures=restarts)),
    )
    try:
        said = _fitted(trainer, place, restarts)
    finally:
        shutil.rmtree(place / BOOKS, ignore_errors=True)
    if "error" in said:
        raise Failed(said["error"], said["code"])
    return [Path(name) for name in said["files"]]


def _fitted(trainer: Any, place: Path, restarts: int) -> Json:
    """What the first rank returns. On a signal all are asked to leave, and given time for a checkpoint. Ray, left to
    hear it, would end them at once, and so works in a thread of its own."""
    from ray.train import TrainingFailedError

    from dreamlab.run.folder import Run

    ended, signals, until = Future[Json](), list[int](), float("inf")

    def beside() -> None:
        try:
            ended.set_result(trainer.fit().return_value)
        except Exception as error:
            ended.set_exception(error)

    threading.Thread(target=beside, daemon=True).start()
    with engine.heard(signals.append):
        while not ended.done() and time.monotonic() < until:
            if signals and until == float("inf"):
                until, leave = time.monotonic() + LEAVING_S, place / BOOKS / LEAVE
                leave.parent.mkdir(exist_ok=True)
                leave.touch()
            time.sleep(LOOK_S)
    again = shell("resume", place)
    if signals and Run(place).state().get("state") != "succeeded":
        code = 130 if signals[0] == signal.SIGINT else ASKED_TO_STOP
        raise Interrupted(f"stopped; the newest checkpoint is kept. Resume: {again}", code)
    try:
        return ended.result()
    except TrainingFailedError as error:
        why = short(" ".join(str(error).split()), 160)
        raise Interrupted(f"Ray began all ranks {restarts} times anew ({why}). Resume: {again}") from None


class Failed(DreamError):
    """What a rank said of the run."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


def opened(what: str, settings: list[str], recipe: str, out: Path, ranks: int) -> Run:
    """The run that is there, or a new one for a prompt."""
    from configs import DEFAULT, find
    from dreamlab import pipeline
    from dreamlab.run.folder import Run

    if not Path(what).is_dir():
        return pipeline.create(what, find(recipe or DEFAULT), out, settings, None, sys.argv, ranks=ranks)
    if settings or recipe:
        raise InputError(f"{what}: a run that is there has its settings; leave them out")
    return Run.open(Path(what))


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", metavar="PROMPT|RUN", help="what to make, or a run folder to go on with")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the recipe, e.g. views=8")
    parser.add_argument("--recipe", default="", help="packaged recipe or file")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for run folders")
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--least", type=int, default=0, help="go on with so few where there is no room for more")
    parser.add_argument("--gpus", type=float, default=0, help="of each rank; 0: the CPU")
    parser.add_argument("--address", default="", help="of a Ray cluster, or auto; none: one of this process")
    parser.add_argument("--restarts", type=int, default=RESTARTS, help="of all ranks, after one was lost")
    told = parser.parse_intermixed_args(words)
    try:
        engine.authenticate(told.address)
        run = opened(told.what, told.settings, told.recipe, told.out, told.ranks)
        print(f"run folder: {run.path}", file=sys.stderr)
        with engine.cluster(told.address, told.ranks, told.gpus):
            files = fit(run, told.ranks, told.least, told.gpus, told.restarts)
    except DreamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print("\n".join(map(str, [*files, run.path])))
    print(f"other formats: {shell('export', run.path, '--formats', 'all')}", file=sys.stderr)


if __name__ == "__main__":
    main()
