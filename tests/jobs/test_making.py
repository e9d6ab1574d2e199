# SPDX-License-Identifier: Apache-2.0
"""Requests become folders and rows, both or neither; what is made runs as what the command line makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dreamlab import pipeline
from dreamlab.core.errors import DiskError, InputError
from dreamlab.export.png import png_bytes
from dreamlab.jobs import beginning, making
from dreamlab.jobs.asking import BadRequest
from dreamlab.jobs.making import make, make_batch
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.requests import request_of
from dreamlab.jobs.states import Conflict, Job
from dreamlab.jobs.views import job_view
from dreamlab.run.checkpoint import committed
from dreamlab.run.crash import SUBMITTING
from dreamlab.run.folder import Run

ROOT = Path(__file__).parents[2]
PROMPT = "a red mushroom with a white stem"
SETTINGS = {"steps": 4, "size": 12, "views": 2, "stages.0.scene.count": 48, "keeping.checkpoint": 2, "keeping.log": 1}
SETTINGS |= {"export.resolution": 24, "export.texture": 0, "export.fit": False, "export.pictures": ["poster"]}
SETTINGS |= {"export.size": 32}
BODY = {"prompt": PROMPT, "recipe": "oracle", "settings": SETTINGS, "seed": 5}


@dataclass(frozen=True)
class Done:
    """A queue with one job that has run to its end."""

    queue: Queue
    job: Job

    @property
    def run(self) -> Run:
        return Run(self.queue.root / self.job.run)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    with Queue(tmp_path_factory.mktemp("done")) as queue:
        (made,) = make(queue, request_of("dream", BODY))
        claimed = queue.claim(1, "cpu")
        assert claimed is not None and claimed.id == made.id
        torch.set_num_threads(1)
        pipeline.execute(Run(queue.root / claimed.run))
        assert queue.finish(claimed.id, claimed.attempt, 0)
        yield Done(queue, queue.job(made.id))


def runs(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name != ".jobs")


def hidden(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".jobs" / "making").glob("*"))


def fields_of(queue: Queue, kind: str, body: object, **more: object) -> dict[str, str]:
    with pytest.raises(BadRequest) as error:
        make(queue, request_of(kind, body), **more)  # type: ignore[arg-type]
    return {each.loc: each.msg for each in error.value.fields}


def test_a_request_is_a_run_like_any_other(done: Done) -> None:
    job, run = done.job, done.run
    assert run.spec()["id"] == job.id and run.path.name == job.run and job.run.endswith(job.id)
    recipe = pipeline.load_recipe(run)
    assert (recipe.prompt, recipe.seed, recipe.stages[0].steps) == (PROMPT, 5, 4) == (job.prompt, job.seed, 4)
    assert job.state == "succeeded" and job.recipe == "oracle" and job.guidance.startswith("oracle:")
    assert job.request["settings"]["export.pictures"] == ["poster"] and (run.export / "model.glb").is_file()
    assert hidden(done.queue.root) == []


def test_its_command_makes_the_same_bytes(done: Done, tmp_path: Path) -> None:
    """As `copy as command` has it, and as `spec.json` keeps it."""
    command = done.run.spec()["command"]
    assert command[:3] == ["dreamlab", "dream", PROMPT]
    code = "import torch; torch.set_num_threads(1); from dreamlab.cli import main; import sys; main(sys.argv[1:])"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code, *command[1:], "--out", str(tmp_path / "out")]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (made,) = (tmp_path / "out").iterdir()
    assert (made / "export" / "model.glb").read_bytes() == (done.run.export / "model.glb").read_bytes()


def test_the_same_key_makes_no_second_folder(tmp_path: Path) -> None:
    """Fault 22."""
    with Queue(tmp_path) as queue:
        first = make(queue, request_of("dream", BODY), key="k")
        assert make(queue, request_of("dream", BODY | {"prompt": "a blue cup"}), key="k") == first
        several = make(queue, request_of("dream", BODY | {"count": 3, "seed": 2**31 - 2}), key="m")
        assert [job.seed for job in several] == [2**31 - 2, 2**31 - 1, 0] and len({job.batch for job in several}) == 1
        assert make(queue, request_of("dream", BODY | {"count": 3}), key="m") == several
        assert runs(tmp_path) == sorted(job.run for job in (*first, *several)) and hidden(tmp_path) == []


def test_who_loses_the_race_for_a_key_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Queue(tmp_path) as queue:
        first = make(queue, request_of("dream", BODY), key="k")
        with monkeypatch.context() as patch:
            patch.setattr(Queue, "by_key", lambda self, owner, key: None)  # it looked before the other had come
            assert make(queue, request_of("dream", BODY), key="k") == first
        assert runs(tmp_path) == [first[0].run] and hidden(tmp_path) == []


CODE = """
import sys
from pathlib import Path
from dreamlab.jobs.making import make
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.requests import request_of
import json
make(Queue(Path(sys.argv[1])), request_of("dream", json.loads(sys.argv[2])), key="k")
"""


@pytest.mark.parametrize("point", SUBMITTING)
def test_killed_between_folder_and_row(tmp_path: Path, point: str) -> None:
    """Either there is a job, with its folder, or nothing that could be taken for one; asked again, there is one."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DREAMLAB_CRASH_AT": point, "OMP_NUM_THREADS": "1"}
    died = subprocess.run([sys.executable, "-c", CODE, str(tmp_path), json.dumps(BODY)], env=environment, check=False)
    assert died.returncode == -signal.SIGKILL
    assert runs(tmp_path) == [] and len(hidden(tmp_path)) == 1
    with Queue(tmp_path) as queue:
        written = point == "jobs.rows_written"
        assert len(queue.page().jobs) == int(written)
        if written:
            claimed = queue.claim(1, "cpu")
            assert claimed is not None and runs(tmp_path) == [claimed.run] and hidden(tmp_path) == []
            assert Run.open(tmp_path / claimed.run).spec()["id"] == claimed.id
            return
        (left,) = (tmp_path / ".jobs" / "making").iterdir()
        (again,) = make(queue, request_of("dream", BODY), key="k")
        assert left.is_dir(), "it may be another's who is at it just now"
        old = time.time() - making.LEFT_S - 1
        os.utime(left, (old, old))
        making.sweep(queue)
        assert hidden(tmp_path) == [] and runs(tmp_path) == [again.run]


def test_a_folder_that_cannot_be_made_leaves_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Queue(tmp_path) as queue:
        monkeypatch.setattr("dreamlab.run.folder.NEEDED_MIB", 1 << 40)
        with pytest.raises(DiskError, match="free some space"):
            make(queue, request_of("dream", BODY))
        assert queue.page().jobs == () and runs(tmp_path) == [] and hidden(tmp_path) == []


def test_a_batch_with_a_mistake_makes_nothing(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        body = {"job": BODY, "cross": {"prompt": [PROMPT, "a florbl"]}}
        with pytest.raises(BadRequest, match="florbl"):
            make_batch(queue, body)
        assert queue.page().jobs == () and runs(tmp_path) == [] and hidden(tmp_path) == []


def test_each_job_of_a_batch_keeps_what_made_it(tmp_path: Path) -> None:
    body = {"job": BODY | {"lane": "background"}, "cross": {"seed": [1, 2], "stages.0.terms.0.system": ["sds", "csd"]}}
    with Queue(tmp_path) as queue:
        made = make_batch(queue, body, key="b")
        rules = [pipeline.load_recipe(Run(tmp_path / job.run)).stages[0].terms[0].system.kind for job in made]
        assert [(job.batch_values["seed"], job.batch_values["stages.0.terms.0.system"]) for job in made] == [
            (1, "sds"), (1, "csd"), (2, "sds"), (2, "csd"),
        ]  # fmt: skip
        assert rules == ["sds", "csd", "sds", "csd"] and {job.lane for job in made} == {"background"}
        assert [job.id for job in queue.page(batch=made[0].batch).jobs] == [job.id for job in reversed(made)]
        assert make_batch(queue, body, key="b") == made


def test_a_branch_goes_on_with_other_words_from_a_step(done: Done) -> None:
    first = int(committed(done.run.ckpt)[0].name[5:])
    asked = request_of("branch", {"prompt": "a blue mushroom", "step": first, "seed": 9})
    (job,) = make(done.queue, asked, parent=done.job)
    made = Run(done.queue.root / job.run)
    assert (job.parent, job.prompt, job.seed, job.wants) == (done.job.id, "a blue mushroom", 9, "cpu")
    assert made.spec()["parent"]["id"] == done.job.id and made.spec()["parent"]["step"] == first
    assert [int(path.name[5:]) for path in committed(made.ckpt)] == [first]
    here, there = committed(made.ckpt)[0], committed(done.run.ckpt)[0]
    assert (here / "scene.safetensors").read_bytes() == (there / "scene.safetensors").read_bytes()
    assert (here / "streams.safetensors").read_bytes() != (there / "streams.safetensors").read_bytes()
    view = job_view(done.queue, job)
    assert (view.step, view.total, view.state) == (first, 4, "queued")


def test_a_branch_with_another_prompt_makes_another_thing(done: Done) -> None:
    first = int(committed(done.run.ckpt)[0].name[5:])
    torch.set_num_threads(1)
    scenes = []
    for body in ({"step": first}, {"step": first, "prompt": "a blue mushroom"}):
        (job,) = make(done.queue, request_of("branch", body), parent=done.job)
        made = Run(done.queue.root / job.run)
        pipeline.execute(made)
        scenes.append(load_file(committed(made.ckpt)[-1] / "scene.safetensors"))
    parent = load_file(committed(done.run.ckpt)[-1] / "scene.safetensors")
    assert all(torch.equal(parent[name], scenes[0][name]) for name in parent), "nothing changed: the same steps again"
    assert not torch.equal(
        parent["colors"] if "colors" in parent else next(iter(parent.values())), scenes[1][next(iter(parent))]
    )


def test_continue_is_so_many_steps_more(done: Done) -> None:
    (job,) = make(done.queue, request_of("continue", {"steps": 3}), parent=done.job)
    assert pipeline.load_recipe(Run(done.queue.root / job.run)).stages[-1].steps == 7
    assert pipeline.load_recipe(done.run).stages[-1].steps == 4, "the parent stays"


def test_a_branch_may_be_taken_while_the_run_is_at_work(done: Done) -> None:
    with done.run.lock():
        (job,) = make(done.queue, request_of("continue", {"steps": 1}), parent=done.job)
    assert committed(Run(done.queue.root / job.run).ckpt)


def test_an_export_is_a_job_of_its_own_on_the_same_run(done: Done) -> None:
    (job,) = make(done.queue, request_of("export", {"formats": ["obj"], "faces": 300}), parent=done.job)
    assert job.id != done.job.id and job.run == done.job.run and job.parent == done.job.id
    with pytest.raises(Conflict, match="written again"):
        done.queue.delete(done.job.id)
    done.queue.cancel(job.id)
    view = job_view(done.queue, done.queue.job(job.id))
    assert view.links.run == job_view(done.queue, done.job).links.run and view.stage == "export"


def test_what_a_parent_lacks_is_said(done: Done, tmp_path: Path) -> None:
    assert "no checkpoint of this step" in fields_of(done.queue, "branch", {"step": 1}, parent=done.job)["step"]
    assert "parent" in fields_of(done.queue, "continue", {"steps": 1})
    said = fields_of(done.queue, "branch", {"prompt": "a blue mushroom"}, parent=done.job)
    assert "its 4 steps are made" in next(iter(said.values()))
    with Queue(tmp_path) as queue:
        (fresh,) = make(queue, request_of("dream", BODY))
        with pytest.raises(Conflict, match="no checkpoint yet"):
            make(queue, request_of("continue", {"steps": 1}), parent=fresh)


def test_a_run_of_the_command_line_can_be_a_parent(done: Done, tmp_path: Path) -> None:
    (job,) = make(done.queue, request_of("continue", {"steps": 1}), parent=done.run)
    assert job.parent == done.job.id
    with pytest.raises(InputError, match="lies elsewhere"), Queue(tmp_path) as queue:
        make(queue, request_of("continue", {"steps": 1}), parent=done.run)


STRANGE = {
    "recipe": {"recipe": "../../etc/passwd"},
    "recipe of a file": {"recipe": "/tmp/x.yaml"},
    "image": {"image": "/etc/passwd"},
    "mask": {"mask": "x"},
    "settings.stages.0.scene.file": {"settings": {"stages.0.scene.file": "/etc/passwd"}},
    "prompt": {"prompt": "a florbl glumph"},
    "webhook": {"webhook": "http://127.0.0.1/x"},
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_stranger_names_no_file_of_this_machine(tmp_path: Path, what: str) -> None:
    with Queue(tmp_path) as queue:
        assert what.split(" ")[0] in fields_of(queue, "dream", {"prompt": PROMPT} | STRANGE[what])
        assert queue.page().jobs == () and runs(tmp_path) == []


def picture(path: Path, alpha: bool = True) -> Path:
    """A disc, light on gray; or white on black, as a mask is drawn."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    disc = ((x**2 + y**2) < 0.5).float()[..., None]
    noise = torch.rand(96, 96, 3, generator=torch.Generator().manual_seed(0))
    path.write_bytes(png_bytes(torch.where(disc > 0, disc * 0.9, noise) if alpha else disc.expand(-1, -1, 3)))
    return path


def test_a_mask_says_where_the_object_is(tmp_path: Path) -> None:
    """Before a background that is not plain, a picture is of no use without one."""
    image, mask = picture(tmp_path / "secret place.png"), picture(tmp_path / "mask.png", alpha=False)
    places = {"a" * 64: image, "b" * 64: mask}
    body = {"prompt": PROMPT, "image": "a" * 64}
    with Queue(tmp_path / "runs") as queue:
        said = fields_of(queue, "dream", body, find=places.__getitem__)
        assert "background is not plain" in said["image"] and "secret" not in said["image"]
        (job,) = make(queue, request_of("dream", body | {"mask": "b" * 64}), find=places.__getitem__)
        assert job.recipe == "image" and (queue.root / job.run / "image.png").is_file()


def test_a_mesh_to_paint_is_kept_as_it_came(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    given, body = trimesh.creation.box().export(file_type="glb"), {"prompt": "a red cube", "mesh": "c" * 64}
    upload = tmp_path / "secret place.glb"
    upload.write_bytes(given)
    with Queue(tmp_path / "runs") as queue:
        (job,) = make(queue, request_of("texture", body | {"maps": ["base"]}), find=lambda name: upload)
        folder = queue.root / job.run
        assert (folder / "asset" / upload.name).read_bytes() == given and job.request["maps"] == ["base"]
        scene = pipeline.load_recipe(Run(folder)).stages[0].scene
        assert scene.kind == "mesh" and (folder / scene.settings.asset).is_file() and job.recipe == "texture"
        upload.write_bytes(given[:100])
        said = fields_of(queue, "texture", body, find=lambda name: upload)
        assert set(said) == {"mesh"} and "secret" not in said["mesh"] and len(queue.page().jobs) == 1


def test_the_same_once_more_from_its_beginning(done: Done) -> None:
    made = making.again(done.queue, done.job)
    assert made.id != done.job.id and made.retried_from == done.job.id and made.request == done.job.request
    one, other = (pipeline.load_recipe(Run(done.queue.root / job.run)) for job in (made, done.job))
    assert one == other and not committed(Run(done.queue.root / made.run).ckpt)
    (child,) = make(done.queue, request_of("continue", {"steps": 2}), parent=done.job)
    more = making.again(done.queue, child, parent=done.job)
    assert pipeline.load_recipe(Run(done.queue.root / more.run)).stages[-1].steps == 6 and more.parent == done.job.id


def test_the_same_guidance_has_the_same_key(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        made = [make(queue, request_of("dream", BODY | {"seed": seed}))[0] for seed in (1, 2)]
        (other,) = make(queue, request_of("dream", {"prompt": PROMPT, "recipe": "toybox"}))
    assert made[0].guidance == made[1].guidance != other.guidance
    assert other.guidance.startswith("toybox-views:")
    assert beginning.guidance_key(pipeline.load_recipe(Run(tmp_path / other.run))) == other.guidance
