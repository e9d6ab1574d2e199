# SPDX-License-Identifier: Apache-2.0
"""The command line as its users meet it: what it prints, its exit codes, and prompts that shells could spoil."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import Commands, Finished
from tests.recipe.test_recipe import PROMPTS

ROOT = Path(__file__).parents[2]
FAST = ("stages.0.steps=1", "stages.1.steps=1")


def one_line(ended: Finished, code: int) -> str:
    """The error, which must be one line and no traceback."""
    assert ended.code == code, ended.err
    lines = [line for line in ended.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in ended.err
    return lines[0]


def test_dream_leaves_everything_in_the_run_folder(finished_run: Path, dreamlab: Commands) -> None:
    names = {str(path.relative_to(finished_run)) for path in finished_run.rglob("*") if path.is_file()}
    assert {"recipe.yaml", "spec.json", "state.json", "events.jsonl"} <= names
    assert {"export/model.glb", "export/turntable.mp4", "export/contact.png", "export/report.json"} <= names
    assert {"previews/step_000006.png", "previews/step_000012.png", "ckpt/step_000012/MANIFEST"} <= names
    assert json.loads((finished_run / "state.json").read_text())["state"] == "succeeded"
    assert finished_run.name.startswith("a-red-mushroom-with-a-white-stem-")
    steps = [
        e["global_step"] for e in map(json.loads, (finished_run / "events.jsonl").open()) if e["kind"] == "metrics"
    ]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_inspect_render_and_export_again(finished_run: Path, dreamlab: Commands) -> None:
    told = dreamlab("inspect", str(finished_run))
    assert "state    succeeded at step 12" in told.out and "a red mushroom" in told.out
    told = dreamlab("inspect", str(finished_run / "export" / "model.glb"))
    assert told.code == 0 and "COLOR_0, NORMAL, POSITION" in told.out and '"prompt": "a red mushroom' in told.out
    before = (finished_run / "export" / "model.glb").read_bytes()
    ended = dreamlab("export", str(finished_run), "--formats", "glb,obj,ply")
    assert ended.code == 0, ended.err
    assert [Path(line).name for line in ended.out.split()][:2] == ["model.glb", "model.obj"]
    written = {Path(line).name for line in ended.out.split()}
    assert {"model.ply", "model.mtl", "model_obj.zip", "check.png"} <= written
    assert (finished_run / "export" / "model.glb").read_bytes() == before
    for kind in ("obj", "ply"):
        assert "triangles" in dreamlab("inspect", str(finished_run / "export" / f"model.{kind}")).out
    (finished_run / "export" / "turntable.mp4").unlink()
    assert dreamlab("render", str(finished_run)).code == 0
    assert (finished_run / "export" / "turntable.mp4").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["dream"], 2, "dream needs a prompt"),
        (["dream", "--recipe", "fit-gaussians", "--device", "tpu"], 2, "cpu or cuda"),  # it has a prompt of its own
        (["dream", "a fox", "--recipe", "nope"], 2, "recipe 'nope' is not in the package"),
        (["dream", "a fox", "--recipe", "absent.yaml"], 2, "no such recipe file"),
        (["dream", "a fox", "sead=1"], 2, "did you mean 'seed'?"),
        (["dream", "a fox", "--device", "tpu"], 2, "cpu or cuda"),
        (["dream", "a fox", "--device", "cuda"], 3, "use --device cpu"),
        (["dream", "--frobnicate", "x"], 2, "No such option"),
        (["dream", " "], 3, "empty"),
        (["dream", "a zyzzyva"], 3, "dreamlab list objects"),
        (["dream", "a quixotic mushroom"], 3, "does not know 'quixotic'"),
        (["dream", "--image", "absent.png"], 3, "absent.png: no such file"),
        (["dream", "--image", "absent.png", "image.fill=0"], 3, "absent.png: no such file"),  # no prompt
        (["dream", "a duck", "--image", "there.png", "image.fill=2"], 2, "image.fill must be at most 1"),
        (["dream", "image.fill=2", "--image", "there.png"], 2, "image.fill must be at most 1"),
        (["dream", "stages.0.steps=soon"], 2, "dream needs a prompt"),
        (["dream", "a", "red", "mushroom"], 2, "quote a prompt of several words"),
        (["dream", "sead=1", "--recipe", "fit-gaussians"], 2, "did you mean 'seed'?"),
        (["dream", "a fox", "--steps", "0"], 2, "stages.0.steps must be at least 1"),
        (["dream", "a fox", "--formats", "glb,objj"], 2, "did you mean 'obj'?"),
        (["dream", "--recipe", "image"], 3, "give one with --image"),
        (["dream", "a mushroom", "--recipe", "toybox", "--image", "there.png"], 2, "use --recipe image"),
        (["toybox", "obey", "--role", "vidio"], 2, "did you mean 'video'?"),
        (["toybox", "mesh", "a mushroom", "--out", "a.stl"], 3, ".glb, .obj or .ply"),
        (["dream", "--prompt-file", "absent.txt"], 3, "absent.txt"),
        (["dream", "--prompt-env", "NOT_SET_ANYWHERE"], 3, "is not set"),
        (["resume", "absent"], 3, "no such run folder"),
        (["resume", "."], 3, "not a run folder"),
        (["inspect", "absent.glb"], 3, "no such file"),
        (["list", "sistems"], 2, "did you mean 'systems'?"),
        (["show", "recipe", "toybx"], 2, "did you mean 'toybox'?"),
        (["toybox", "render", "mushrom"], 3, "did you mean 'mushroom'?"),
        (["toybox", "render", "--out", "x.jpg"], 3, "is a .png"),
        (["bench", "stp"], 2, "did you mean 'step'?"),
        (["bench", "step", "--model"], 2, "only `bench kernels` has --model"),
        (["bench", "kernels", "--model", "--scaling"], 2, "give one of them"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_bad_usage_is_one_line_and_a_code(dreamlab: Commands, arguments: list[str], code: int, expected: str) -> None:
    (dreamlab.folder / "there.png").write_bytes(b"no picture")
    assert expected in one_line(dreamlab(*arguments), code)
    assert not (dreamlab.folder / "runs").exists()


def test_a_damaged_glb_is_refused_in_one_line(dreamlab: Commands, tmp_path: Path) -> None:
    for i, data in enumerate(
        (b"", b"glTF" + b"\0" * 40, b"not a glb at all, just text", b"glTF\2\0\0\0\x14\0\0\0\xff\xff\xff\x7fJSON")
    ):
        (tmp_path / f"bad{i}.glb").write_bytes(data)
        assert "not a readable GLB" in one_line(dreamlab("inspect", f"bad{i}.glb"), 3)


def test_lists_and_shows(dreamlab: Commands) -> None:
    assert dreamlab("--version").out.startswith("dreamlab 0.")
    assert "sds" in dreamlab("list", "systems").out and "arXiv:2209.14988" in dreamlab("list", "systems").out
    assert "gaussians" in dreamlab("list", "scenes").out
    assert "oracle" in dreamlab("list", "guidance").out
    assert dreamlab("list", "recipes").out.startswith("toybox")
    assert yaml.safe_load(dreamlab("show", "recipe", "toybox").out)["stages"]


def test_the_world_is_listed_and_drawn(dreamlab: Commands) -> None:
    from PIL import Image

    assert "mushroom" in dreamlab("list", "objects").out
    ended = dreamlab("toybox", "render", "mushroom", "duck", "--size", "32", "--out", "two.png")
    assert ended.code == 0 and ended.out.strip() == "two.png"
    pixels = np.asarray(Image.open(dreamlab.folder / "two.png").convert("RGB")).reshape(-1, 3).astype(int)
    red = (pixels[:, 0] > 120) & (pixels[:, 1] < 60)
    yellow = (pixels[:, 0] > 150) & (pixels[:, 1] > 120) & (pixels[:, 2] < 80)
    assert red.sum() > 200 and yellow.sum() > 200


def test_doctor_reports_each_kernel_and_device(dreamlab: Commands) -> None:
    ended = dreamlab("doctor")
    assert ended.code == 0 and "torch 2.13.0" in ended.out and "native splat" in ended.out and "CUDA" in ended.out
    assert all(line.split()[0] in ("ok", "note", "fix") for line in ended.out.splitlines())


def test_a_second_process_is_told_who_holds_the_folder(dreamlab: Commands, tiny: Path) -> None:
    from tests.run.test_resume import wait_for_steps

    process, _, _ = dreamlab.start("dream", "a red mushroom", "stages.0.steps=3000", "--recipe", str(tiny))
    run = wait_for_steps(dreamlab.folder / "runs", 2)
    message = one_line(dreamlab("resume", str(run)), 3)
    process.kill()
    process.join()
    assert f"in use by pid {process.pid}" in message
    ended = dreamlab("export", str(run))  # the lock died with its holder: this one may work here at once
    assert "in use" not in ended.err


def test_places_that_cannot_be_written_fail_at_once(dreamlab: Commands, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file" in one_line(dreamlab("dream", "a mushroom", "--out", "file"), 3)
    assert "failed" in one_line(dreamlab("dream", "a mushroom", "--out", "/proc/nowhere"), 7)


def test_without_a_compiler_the_twins_run_and_it_is_said(dreamlab: Commands, tiny: Path, tmp_path: Path) -> None:
    arguments = ("dream", "a mushroom", *FAST, "stages.0.views=1", "stages.1.views=1", "--recipe", str(tiny))
    ended = dreamlab(*arguments, PATH="/nonexistent", CXX="", DREAMLAB_CACHE=str(tmp_path / "cache"))
    assert ended.code == 0, ended.err
    notes = [line for line in ended.err.splitlines() if line.startswith("note: native splat is not available")]
    assert len(notes) == 1 and "install g++ or clang++" in notes[0]


def test_a_folder_with_spaces_and_other_scripts(dreamlab: Commands, tiny: Path) -> None:
    ended = dreamlab("dream", "a mushroom", *FAST, "--recipe", str(tiny), "--out", "mein Ordner/פטרייה")
    assert ended.code == 0, ended.err
    assert (dreamlab.folder / ended.out.splitlines()[-1] / "export" / "model.glb").is_file()


HARD = "  a red mushroom: *&@%!#|>?,;~^+=<() {}[] ${} $$ \\\\ \"red\" 'red' `red`\n- with a white stem 🍄 "


def test_prompts_by_argument_file_and_variable_are_kept(dreamlab: Commands, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text(HARD)
    ways = ([HARD], ["--prompt-file", "prompt.txt"], ["--prompt-env", "P"])
    for way in ways:
        ended = dreamlab("dream", *way, *FAST, "--recipe", str(tiny), P=HARD)
        assert ended.code == 0, ended.err
        run = dreamlab.folder / ended.out.splitlines()[-1]
        assert json.loads((run / "spec.json").read_text())["prompt"] == HARD
        assert yaml.safe_load((run / "recipe.yaml").read_text())["prompt"] == HARD


def test_prompt_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    from dreamlab.cli.prompt import read_prompt

    for prompt in PROMPTS:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(prompt.encode() + b"\n")))
        assert read_prompt("-", None, None) == prompt


def test_a_refused_prompt_leaves_no_folder(dreamlab: Commands) -> None:
    one_line(dreamlab("dream", "a zyzzyva"), 3)
    assert not (dreamlab.folder / "runs").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("prompt", ["costs $5 $(HOME) $$", 'it\'s "quoted" `x`', "a=b # c: d", "50% \\ back", "🦆 {x}"])
def test_make_hands_the_prompt_over_untouched(prompt: str, tmp_path: Path) -> None:
    """The Makefile's own rule, with a stand-in for the program that writes down what it was given."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    venv = tmp_path / ".venv" / "bin"
    venv.mkdir(parents=True)
    program = venv / "dreamlab"
    program.write_text('#!/bin/sh\nprintf %s "$DREAM_PROMPT" > given\n')
    program.chmod(0o755)
    (tmp_path / ".venv" / ".ready").write_text("")
    subprocess.run(["make", "-C", str(tmp_path), "dream", f"PROMPT={prompt}"], check=True, capture_output=True)
    assert (tmp_path / "given").read_text() == prompt


def test_help_names_every_command_of_the_contract() -> None:
    import typer.main

    from dreamlab.cli import app

    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert commands >= {"dream", "resume", "render", "export", "inspect", "list", "show", "doctor"}
