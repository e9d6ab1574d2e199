# SPDX-License-Identifier: Apache-2.0
"""Runs made and used from Python: the same runs as those of the command line, byte for byte."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import dreamlab
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.schedules import Progress
from dreamlab.recipe.changing import told
from dreamlab.run.checkpoint import committed
from dreamlab.run.folder import Run
from tests.conftest import TINY, Commands, artefacts, threads

ROOT = Path(__file__).parents[2]
HALF = Progress(1, 2)
PROMPT = "a red mushroom with a white stem"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def finished(tiny_file: Path) -> Iterator[dreamlab.Run]:
    """One run, for all tests that only look; the ticks it gave are its `ticks`."""
    ticks: list[tuple[str, int, int]] = []
    with threads(1), pytest.warns(UserWarning):
        made = dreamlab.dream(
            PROMPT, recipe=tiny_file, out=tiny_file.parent / "runs",
            progress=lambda tick: ticks.append((tick.stage, tick.done, tick.total)),
        )  # fmt: skip
    assert ticks[0] == ("shape", 2, 12) and ticks[-1] == ("finer", 12, 12)
    yield made


def test_it_is_the_run_of_the_command_line(finished: dreamlab.Run, dreamlab_command: Commands, tiny_file: Path) -> None:
    ended = dreamlab_command("dream", PROMPT, "--recipe", str(tiny_file))
    assert ended.code == 0, ended.err
    theirs = dreamlab_command.folder / ended.out.splitlines()[-1]
    assert artefacts(finished.path) == artefacts(theirs)
    assert (finished.path / "recipe.yaml").read_bytes() == (theirs / "recipe.yaml").read_bytes()


@pytest.fixture
def dreamlab_command(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def test_what_a_run_says_of_itself(finished: dreamlab.Run) -> None:
    assert isinstance(finished, dreamlab.Run)
    assert (finished.prompt, finished.state, finished.step, finished.error) == (PROMPT, "succeeded", 12, "")
    assert finished.path.name.endswith(finished.id) and finished.parent == ""
    assert {"model.glb", "contact.png", "poster.png", "turntable.mp4"} <= set(finished.files)
    assert [row["step"] for row in finished.metrics] == [2, 4, 6, 8, 10, 12]
    assert {"loss", "grad_rms", "alpha", "stage"} <= set(finished.metrics[-1])
    assert finished.recipe.stages[1].name == "finer" and finished.recipe.prompt == PROMPT
    assert finished.report["mesh"]["triangles"] > 0
    assert repr(finished) == f"<dreamlab.Run {PROMPT!r}, succeeded at step 12: {finished.path}>"
    again = dreamlab.open(str(finished.path))
    assert again.id == finished.id and again.metrics == finished.metrics
    with pytest.raises(InputError, match="no such run folder"):
        dreamlab.open(finished.path / "nothing")


def test_the_scene_is_that_of_the_newest_checkpoint(finished: dreamlab.Run) -> None:
    from safetensors.torch import load_file

    kept = load_file(committed(finished.path / "ckpt")[-1] / "scene.safetensors")
    state = finished.scene.state_dict()
    assert state.keys() == kept.keys() and all(torch.equal(state[name], kept[name]) for name in kept)
    assert finished.scene is finished.scene


def test_pictures_are_those_that_the_run_took(finished: dreamlab.Run) -> None:
    """Its last preview has four views in a row, which other code drew: from the front, +X, the back and -X."""
    from PIL import Image

    with threads(1):
        with Image.open(finished.path / "previews" / "step_000012.png") as picture:
            strip = np.asarray(picture.convert("RGB"))
        assert strip.shape == (128, 512, 3)
        for i in range(4):
            drawn = np.asarray(finished.pictures.render(azimuth=90 * i, elevation=15, size=128, time=i / 4))
            assert np.array_equal(drawn, strip[:, 128 * i : 128 * (i + 1)]), i
        frames = finished.pictures.turntable
    assert len(frames) == 3 and frames[0].size == (32, 32)
    for name, picture in (("contact.png", finished.pictures.sheet), ("poster.png", finished.pictures.poster)):
        with Image.open(finished.path / "export" / name) as kept:
            assert np.array_equal(np.asarray(picture), np.asarray(kept))
    with pytest.raises(InputError, match="size: must be 1 to 4096 pixels, not 0"):
        finished.pictures.render(size=0)


def test_pictures_that_are_missing_are_drawn(finished: dreamlab.Run, tmp_path: Path) -> None:
    copy = dreamlab.open(shutil.copytree(finished.path, tmp_path / "copy"))
    (copy.path / "export" / "poster.png").unlink()
    with threads(1):
        assert np.array_equal(np.asarray(copy.pictures.poster), np.asarray(finished.pictures.poster))


def test_files_are_written_again_as_asked(finished: dreamlab.Run, tmp_path: Path) -> None:
    import trimesh

    copy = dreamlab.open(shutil.copytree(finished.path, tmp_path / "copy"))
    files = copy.export(["ply", "stl"], faces=100)
    assert {"model.ply", "model.stl"} <= {path.name for path in files}
    assert 0 < len(trimesh.load(copy.path / "export" / "model.stl").faces) <= 100
    with pytest.raises(RecipeError, match=r"formats.*did you mean 'glb'"):
        copy.export("glib")
    assert "model.ply" in copy.files


def test_a_run_goes_on_and_branches(finished: dreamlab.Run, tmp_path: Path) -> None:
    copy = dreamlab.open(shutil.copytree(finished.path, tmp_path / "copy"))
    before = copy.scene
    with threads(1):
        assert copy.resume(steps=6) is copy and copy.step == 14 and copy.scene is not before
        child = copy.branch(steps=8, **{"stages.finer.terms.0.system.cfg": 2.0, "negative": "blue"})
    assert child.step == 16 and child.parent == copy.id and child.path.parent == tmp_path
    assert child.recipe.stages[1].terms[0].system.settings.cfg.at(HALF) == 2.0 and child.recipe.negative == "blue"
    assert copy.step == 14 and copy.recipe.stages[1].terms[0].system.settings.cfg.at(HALF) == 1
    with pytest.raises(RecipeError, match="this stage is done"):
        copy.branch(**{"stages.0.size": 8})


def test_what_was_done_again_is_one_row(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "x: 1\n", "a cup", [])
    for step in (2, 4, 6, 4, 5, 9):  # a run that was killed after 6, and went on from 3
        run.event("metrics", global_step=step, loss=float(step), stage="shape", seconds=1.0)
    run.event("preview", path="x")
    rows = dreamlab.open(run.path).metrics
    assert [row["step"] for row in rows] == [2, 4, 5, 9] and "kind" not in rows[0]


def test_recipes_are_objects(tiny_file: Path) -> None:
    recipe = dreamlab.recipe(tiny_file)
    changed = recipe.with_(seed=3, prompt="a ${blue} fish # 1", **{"stages.0.steps": 5, "stages.finer.views": 1})
    assert isinstance(recipe, dreamlab.Recipe) and (recipe.seed, recipe.stages[0].steps) == (0, 8)
    assert (changed.seed, changed.prompt) == (3, "a ${blue} fish # 1")
    assert (changed.stages[0].steps, changed.stages[1].views, changed.stages[1].steps) == (5, 1, 4)
    assert recipe.with_(steps=7).stages[1].steps == 7
    assert recipe.with_(formats=("obj", "ply")).export.formats == ("obj", "ply")
    term = recipe.stages[0].terms[0]
    other = recipe.with_(**{"stages.0.terms.0.system": {"kind": "csd"}, "stages.1.terms.0": term})
    assert other.stages[1].terms[0] == term and other.stages[0].terms[0].system.kind == "csd"
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 3  # type: ignore[misc]
    for bad, words in (
        ({"stages.0.stps": 5}, "did you mean 'steps'"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"seed": object()}, "a object is no value of a recipe"),
        ({"prompt": 5}, "prompt: must be a text"),
        ({"prompt": "x"}, "a single character"),
    ):
        with pytest.raises((RecipeError, InputError), match=words):
            recipe.with_(**bad)
    with pytest.raises(RecipeError, match="did you mean 'toybox'"):
        dreamlab.recipe("toybx")
    assert dreamlab.recipe("oracle").stages[0].terms[0].guidance.kind == "oracle"
    assert dreamlab.recipe().prompt == PROMPT


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
)


@given(VALUES)
def test_values_arrive_as_they_were_given(value: Any) -> None:
    """YAML reads back what was written, whatever is in a text; numbers of numpy are numbers."""
    (line,) = told({"key": value})
    key, _, text = line.partition("=")
    assert key == "key" and yaml.load(text, Loader=Strict) == value


class Strict(yaml.SafeLoader):
    """YAML 1.1 reads 1e5, which JSON may write, as a text."""


Strict.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?\Z"), list("-0123456789")
)


def test_values_of_other_libraries() -> None:
    given = {"a": np.float32(0.5), "b": np.array([1, 2]), "c": Path("x.png"), "d": (1, 2.5)}
    assert told(given) == ["a=0.5", "b=[1, 2]", f'c="{Path("x.png").absolute()}"', "d=[1, 2.5]"]


def test_a_recipe_object_makes_the_run_of_its_file(finished: dreamlab.Run, tiny_file: Path, tmp_path: Path) -> None:
    recipe = dreamlab.recipe(tiny_file).with_(**{"stages.0.steps": 2, "stages.1.steps": 1})
    with threads(1):
        made = dreamlab.dream(PROMPT, recipe=recipe, out=tmp_path, progress=False)
        same = dreamlab.dream(PROMPT, recipe=tiny_file, out=tmp_path, **{"stages.0.steps": 2, "stages.1.steps": 1})
    assert made.recipe == same.recipe and artefacts(made.path) == artefacts(same.path)
    assert [run.id for run in dreamlab.runs(tmp_path)] == [same.id, made.id]


def test_runs_of_a_folder(tmp_path: Path) -> None:
    made = [Run.create(tmp_path, "x: 1\n", prompt, []) for prompt in ("a red cup", "a blue cup", "a tree")]
    (made[2].path / "recipe.yaml").unlink()
    (tmp_path / "notes").mkdir()
    assert [run.prompt for run in dreamlab.runs(tmp_path, sort="oldest")] == ["a red cup", "a blue cup"]
    assert [run.prompt for run in dreamlab.runs(tmp_path, text="blu")] == ["a blue cup"]
    assert len(dreamlab.runs(str(tmp_path), limit=1)) == 1
    assert dreamlab.runs(tmp_path / "nowhere") == [] and not (tmp_path / "nowhere").exists()


def test_what_cannot_be_meant_makes_no_folder(tmp_path: Path) -> None:
    for kwargs, words in (
        ({}, "dream needs a prompt"),
        ({"prompt": "a cup", "recipe": "toybx"}, "did you mean 'toybox'"),
        ({"prompt": "a cup", "steps": 0}, "must be at least 1"),
        ({"prompt": "a cup", "on_missing": "hope"}, "on-missing 'hope'"),
        ({"prompt": "a cup", "image": tmp_path / "no.png"}, "no.png"),
        ({"prompt": "a cup", "sttps": 3}, "sttps is not a setting"),
    ):
        with pytest.raises(dreamlab.DreamError, match=words):
            dreamlab.dream(out=tmp_path / "runs", **kwargs)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
    with pytest.raises(RecipeError, match="progress: 'yes'"):
        dreamlab.dream("a cup", recipe="oracle", steps=1, out=tmp_path / "runs", progress="yes")


SCRIPT = """
import sys, torch, warnings
warnings.simplefilter("ignore")
torch.set_num_threads(1)
import dreamlab
run = dreamlab.dream(sys.argv[1], recipe=sys.argv[2], out=sys.argv[3])
print(run.path)
"""


def script(*arguments: str, code: str = SCRIPT, **more: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(
    finished: dreamlab.Run, tiny_file: Path, tmp_path: Path
) -> None:
    """In a script, which says nothing else. What it says is done to the letter, and ends with the bytes of a run that
    nobody disturbed. Modules that are read beside the run, to the end of this one and longer, change nothing of it."""
    hook = "from dreamlab import pipeline\nfrom dreamlab.run import train\nimport atexit, os, time\n"
    hook += "made, count = train.step, 0\n"
    hook += "def warm():\n end = time.monotonic() + 3\n while time.monotonic() < end: exec('1')\n"
    hook += "pipeline.warm = warm\natexit.register(time.sleep, 1)\n"
    hook += "def step(*given):\n global count\n made(*given)\n count += 1\n count == 7 and os.kill(os.getpid(), 2)\n"
    code = SCRIPT.replace("run = ", f"{hook}train.step = step\nrun = ")
    with script(PROMPT, str(tiny_file), str(tmp_path), code=code) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == -signal.SIGINT and out == "", err  # as Python itself ends on Ctrl-C
    last = err.strip().splitlines()[-1]
    assert "KeyboardInterrupt: stopped at step 7/12; go on with: dreamlab.open(" in last
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert [path.name for path in committed(folder / "ckpt")][-1] == "step_000007"
    assert dreamlab.open(folder).state == "interrupted"
    with threads(1):
        run = eval(last.partition("go on with: ")[2], {"dreamlab": dreamlab})
    assert run.state == "succeeded" and artefacts(run.path) == artefacts(finished.path)


def test_a_script_says_nothing_but_what_it_is_asked_to(tiny_file: Path, tmp_path: Path) -> None:
    with script(PROMPT, str(tiny_file), str(tmp_path)) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0 and err == ""
    assert Path(out.strip()).parent == tmp_path and len(out.splitlines()) == 1


def test_a_terminal_has_the_bar_of_the_command_line(tiny_file: Path, tmp_path: Path) -> None:
    import pty

    here, there = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-c", SCRIPT, PROMPT, str(tiny_file), str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=there) as process:
        os.close(there)
        shown = b""
        while True:
            try:
                data = os.read(here, 65536)
            except OSError:  # the other end is closed
                break
            shown += data
        process.wait(60)
    os.close(here)
    assert process.returncode == 0 and b"12/12 steps" in shown and "━".encode() in shown


def test_a_second_ctrl_c_stops_at_once_and_leaves_the_process(tiny_file: Path, tmp_path: Path) -> None:
    """A notebook's kernel holds more than this run. The handlers are put back."""
    before = signal.getsignal(signal.SIGINT)

    def twice(tick: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with threads(1), pytest.raises(KeyboardInterrupt, match="stopped at once"):
        dreamlab.dream(PROMPT, recipe=tiny_file, out=tmp_path, progress=twice)
    assert signal.getsignal(signal.SIGINT) is before
    (folder,) = tmp_path.iterdir()
    with threads(1):
        assert dreamlab.open(folder).resume(progress=False).state == "succeeded"


def test_a_thread_may_dream(tiny_file: Path, tmp_path: Path) -> None:
    """Where no signal is heard: a server's, or a notebook's in the background."""
    made: list[dreamlab.Run | BaseException] = []

    def work() -> None:
        try:
            made.append(dreamlab.dream(PROMPT, recipe=tiny_file, out=tmp_path, steps=1))
        except BaseException as error:
            made.append(error)

    with threads(1):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(200)
    assert isinstance(made[0], dreamlab.Run), made
    assert made[0].state == "succeeded"


def test_what_is_offered_is_a_closed_list() -> None:
    """And a star takes nothing of Python's own away."""
    names = {name for name in dir(dreamlab) if not name.startswith("_")}
    assert set(dreamlab._OFFERED) <= names
    assert set(dreamlab.__all__) == set(dreamlab._OFFERED) - {"open"} | {"__version__"}
    for name in dreamlab._OFFERED:
        assert getattr(dreamlab, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'pipline'"):
        dreamlab.pipline  # noqa: B018
    space: dict[str, Any] = {}
    exec("from dreamlab import *", space)
    assert "open" not in space and space["dream"] is dreamlab.dream
