# SPDX-License-Identifier: Apache-2.0
"""What a run has said so far, read while it is written."""

from __future__ import annotations

import json
from pathlib import Path

from dreamlab.studio.follow import MOST_LOG, MOST_POINTS, Curves, log_after, previews


def said(folder: Path, *events: dict[str, object], end: str = "\n") -> None:
    with (folder / "events.jsonl").open("a") as handle:
        handle.write("".join(json.dumps({"time": "t"} | event) + end for event in events))


def metrics(step: int, **more: object) -> dict[str, object]:
    return {
        "kind": "metrics",
        "stage": "shape",
        "global_step": step,
        "loss": step / 2,
        "grad_rms": 0.5,
        "alpha": 0.1,
    } | more


def test_a_log_is_read_on_from_a_byte_in_whole_lines(tmp_path: Path) -> None:
    assert log_after(tmp_path, 0) == {"text": "", "next": 0, "more": False}
    (tmp_path / "log.txt").write_text("one\ntwo\nthr")
    assert log_after(tmp_path, 0) == {"text": "one\ntwo\n", "next": 8, "more": True}
    assert log_after(tmp_path, 4)["text"] == "two\n" and log_after(tmp_path, 8)["text"] == ""
    (tmp_path / "log.txt").write_text("new\n")
    assert log_after(tmp_path, 8)["text"] == "new\n", "it was begun anew"
    (tmp_path / "log.txt").write_bytes(b"x" * (2 * MOST_LOG))
    assert len(log_after(tmp_path, 0)["text"]) == MOST_LOG, "a line without an end is cut, and nothing waits for it"


def test_a_log_is_never_what_a_link_points_to(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "log.txt").symlink_to(tmp_path / "secret")
    assert log_after(tmp_path, 0)["text"] == ""


def test_curves_go_on_where_they_were(tmp_path: Path) -> None:
    curves = Curves()
    assert curves.points(tmp_path) == []
    said(tmp_path, {"kind": "start"}, metrics(10), metrics(20, healthy=1.0))
    assert [(each["step"], each["loss"]) for each in curves.points(tmp_path)] == [(10, 5.0), (20, 10.0)]
    said(tmp_path, metrics(30), end="")  # half a line: it is still being written
    assert [each["step"] for each in curves.points(tmp_path, 10)] == [20]
    said(tmp_path, {}, end="")
    with (tmp_path / "events.jsonl").open("a") as handle:
        handle.write("\n")
    said(tmp_path, metrics(40))
    assert [each["step"] for each in curves.points(tmp_path)] == [10, 20, 40], "a spoilt line is left out"


def test_a_run_that_went_back_says_its_steps_again(tmp_path: Path) -> None:
    said(tmp_path, metrics(10), metrics(20), metrics(30))
    curves = Curves()
    curves.points(tmp_path)
    said(tmp_path, {"kind": "rollback"}, metrics(20, loss=7.0))
    assert [(each["step"], each["loss"]) for each in curves.points(tmp_path)] == [(10, 5.0), (20, 7.0)]


def test_truth_joins_its_step_and_nonsense_nothing(tmp_path: Path) -> None:
    said(tmp_path, metrics(10, loss=float("nan"), grad_rms="x"), {"kind": "truth", "step": 10, "iou": 0.75})
    (point,) = Curves().points(tmp_path)
    assert point["truth_iou"] == 0.75 and "loss" not in point and "grad_rms" not in point
    said(tmp_path, {"kind": "metrics", "global_step": "x"}, {"kind": "metrics", "global_step": True})
    assert len(Curves().points(tmp_path)) == 1


def test_long_curves_are_thinned_and_keep_their_end(tmp_path: Path) -> None:
    said(tmp_path, *(metrics(step) for step in range(1, 3 * MOST_POINTS)))
    found = Curves().points(tmp_path)
    assert len(found) <= MOST_POINTS and found[-1]["step"] == 3 * MOST_POINTS - 1


def test_previews_are_those_of_steps(tmp_path: Path) -> None:
    assert previews(tmp_path) == []
    (tmp_path / "previews").mkdir()
    for name in ("step_000020.png", "step_000003.png", "truth.png", ".step_000021.png.tmp", "step_1.png"):
        (tmp_path / "previews" / name).touch()
    assert previews(tmp_path) == [3, 20]
