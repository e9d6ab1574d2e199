# SPDX-License-Identifier: Apache-2.0
"""What the panels reckon, without a browser: the order after a drag, differences of recipes, curves, tables, words."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from configs import find
from dreamlab.core.errors import DreamError
from dreamlab.jobs.batches import members
from dreamlab.jobs.states import error_of
from dreamlab.recipe.checks import check
from dreamlab.recipe.given import check_picture
from dreamlab.recipe.models import check_models
from dreamlab.studio.recipes import loaded
from tests.studio.node import Node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return Node(tmp_path_factory.mktemp("modules"))


def test_what_the_studio_is_told_of_a_drag_makes_the_order_that_is_seen(node: Node) -> None:
    ids = list("abcdefg")
    seen = []
    for one in ids:
        rest = [each for each in ids if each != one]
        seen += [(one, [*rest[:to], one, *rest[to:]]) for to in range(7)]
    body = "return given.map(([id, now]) => neighbour(now, id))"
    answers = node.ask("import { neighbour } from './panels/order.js'", body, seen)
    for (one, now), told in zip(seen, answers, strict=True):
        queue = [each for each in ids if each != one]  # as the studio does it, from what it is told alone
        ((side, beside),) = told.items()
        queue.insert(queue.index(beside) + (side == "after"), one)
        assert queue == now


def test_one_alone_has_no_neighbour(node: Node) -> None:
    assert node.ask(
        "import { neighbour } from './panels/order.js'", "return [neighbour(['a'], 'a'), neighbour(['a', 'b'], 'c')]"
    ) == [None, None]


def test_a_row_goes_where_it_is_held(node: Node) -> None:
    middles = [20, 60, 100]
    found = node.ask(
        "import { slot } from './panels/order.js'",
        "return [0, 20, 59, 60, 61, 500].map((y) => slot(given, y))",
        middles,
    )
    assert found == [0, 1, 1, 2, 2, 3]


def test_batches_are_folded_and_nothing_is_lost(node: Node) -> None:
    jobs = [{"id": str(i), "batch": batch} for i, batch in enumerate(["", "x", "y", "x", None, "y", "x"])]
    groups = node.ask("import { folded } from './panels/order.js'", "return folded(given)", jobs)
    assert [[job["id"] for job in group["jobs"]] for group in groups] == [["0"], ["1", "3", "6"], ["2", "5"], ["4"]]
    assert [group["batch"] for group in groups] == [None, "x", "y", None]


def common(a: list[str], b: list[str]) -> int:
    """The longest common subsequence, by its definition."""

    @cache
    def of(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        return 1 + of(i + 1, j + 1) if a[i] == b[j] else max(of(i + 1, j), of(i, j + 1))

    return of(0, 0)


def test_a_difference_of_recipes_gives_both_back_and_is_the_shortest(node: Node) -> None:
    chance = random.Random(3)
    pairs = [["\n".join(chance.choices("abcd", k=chance.randrange(1, 14))) for _ in "ab"] for _ in range(150)]
    found = node.ask(
        "import { diffLines } from './panels/diff.js'", "return given.map(([a, b]) => diffLines(a, b))", pairs
    )
    for (before, after), lines in zip(pairs, found, strict=True):
        assert [line["text"] for line in lines if line["kind"] != "+"] == before.split("\n")
        assert [line["text"] for line in lines if line["kind"] != "-"] == after.split("\n")
        alike = sum(line["kind"] == " " for line in lines)
        assert alike == common(before.split("\n"), after.split("\n"))


def test_what_is_alike_in_two_recipes_is_left_out_and_counted(node: Node) -> None:
    before = "\n".join(map(str, range(40)))
    after = before.replace("\n20\n", "\ntwenty\n")
    body = "return hunks(diffLines(given[0], given[1]), 2).map(({ kind, text }) => kind + text)"
    shown = node.ask("import { diffLines, hunks } from './panels/diff.js'", body, [before, after])
    assert shown == ["…18", " 18", " 19", "-20", "+twenty", " 21", " 22", "…17"]
    assert (
        node.ask("import { diffLines, hunks } from './panels/diff.js'", "return hunks(diffLines(given, given))", before)
        == []
    )


def test_a_running_mean_begins_at_the_first_value(node: Node) -> None:
    ys = np.random.default_rng(0).normal(3, 1, 60)
    points = [[i, y] for i, y in enumerate(ys.tolist())]
    found = np.array(node.ask("import { smooth } from './panels/curve.js'", "return smooth(given, 0.8)", points))
    weights = 0.8 ** np.arange(60)
    direct = [float((ys[i::-1] * weights[: i + 1]).sum() / weights[: i + 1].sum()) for i in range(60)]
    np.testing.assert_allclose(found[:, 1], direct, rtol=1e-12)


def test_a_thinned_curve_loses_no_spike_and_not_its_end(node: Node) -> None:
    ys = np.random.default_rng(1).normal(size=5003)
    ys[[17, 4001]] = 90, -70
    points = [[i, y] for i, y in enumerate(ys.tolist())]
    found = node.ask("import { thin } from './panels/curve.js'", "return thin(given, 400)", points)
    assert len(found) <= 402
    assert [17, 90] in found and [4001, -70] in found and found[-1] == points[-1]
    assert all(a[0] < b[0] for a, b in pairwise(found))
    assert set(map(tuple, found)) <= set(map(tuple, points))


def test_a_curve_fills_its_box(node: Node) -> None:
    points = [[10, 2.0], [20, 6.0], [40, 4.0]]
    body = "const box = domain([given]); return [box, path(given, box, 300, 100)]"
    box, path = node.ask("import { domain, path } from './panels/curve.js'", body, points)
    assert box == {"left": 10, "right": 40, "low": 2, "high": 6}
    drawn = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", path)]
    assert drawn == [(0, 100), (100, 0), (300, 50)]


def test_a_flat_line_and_no_line_have_a_box_too(node: Node) -> None:
    flat, none = node.ask(
        "import { domain } from './panels/curve.js'", "return [domain([[[1, 5], [2, 5]]]), domain([[]])]"
    )
    assert flat["low"] < 5 < flat["high"]
    assert all(math.isfinite(each) for each in none.values()) and none["low"] < none["high"]


def test_the_nearest_point_is_the_nearest(node: Node) -> None:
    xs = sorted(random.Random(5).sample(range(1000), 40))
    asked = [-5, *range(0, 1000, 7), 2000]
    body = "return given.asked.map((x) => nearest(given.points, x)[0])"
    found = node.ask(
        "import { nearest } from './panels/curve.js'", body, {"points": [[x, 0] for x in xs], "asked": asked}
    )
    for x, near in zip(asked, found, strict=True):
        assert abs(near - x) == min(abs(each - x) for each in xs)


def test_a_table_is_read_back_as_it_was(node: Node) -> None:
    rows: list[list[Any]] = [["name", "a,b", 'he said "no"'], ["two\nlines", 1.5, None], ["é 日本", -3, ""]]
    text = node.ask("import { csv } from './panels/words.js'", "return csv(given)", rows)
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read == [["" if cell is None else str(cell) for cell in row] for row in rows]


@pytest.mark.parametrize("start", "=+-@")
def test_a_prompt_is_no_formula_of_a_spreadsheet(node: Node, start: str) -> None:
    text = node.ask("import { csv } from './panels/words.js'", "return csv([[given]])", f'{start}HYPERLINK("x")')
    assert next(csv.reader(io.StringIO(text)))[0].startswith("'")


def test_polls_come_often_while_something_moves_and_never_stop(node: Node) -> None:
    body = "return [[...Array(30).keys()].map((n) => pause(n, 0)), [...Array(30).keys()].map((n) => pause(0, n))]"
    calm, failing = node.ask("import { pause } from './panels/poll.js'", body)
    for waits in (calm, failing):
        assert waits[0] == 1000 and max(waits) == 15000 == waits[-1]
        assert waits == sorted(waits)


def test_where_a_job_stands_is_said_in_a_line(node: Node) -> None:
    jobs = [
        {"state": "queued", "position": 1, "eta_s": 12.2},
        {"state": "queued", "position": 4, "eta_s": None},
        {"state": "running", "stage": "shape", "step": 40, "total": 150, "eta_s": 30.4},
        {"state": "running", "stage": "", "step": 0, "total": 150, "eta_s": None},
        {"state": "succeeded", "stopped_at": 80, "step": 80, "total": 150},
        {"state": "succeeded", "stopped_at": None, "step": 150, "total": 150},
        {"state": "failed", "error": {"code": 5, "message": "No memory is left.", "hint": ""}, "step": 3, "total": 9},
    ]
    assert node.ask("import { standing } from './panels/words.js'", "return given.map(standing)", jobs) == [
        "next, starts in 13 s", "3 ahead", "shape 40/150, 31 s left", "starting", "kept at step 80", "150/150 steps",
        "No memory is left.",
    ]  # fmt: skip


def test_settings_are_read_by_line(node: Node) -> None:
    text = "stages.0.steps = 50\n\nstages.0.terms.0.system.kind=csd\na.b=true\nc= 1e-3"
    found = node.ask("import { readSettings } from './panels/words.js'", "return readSettings(given)", text)
    assert found == {"stages.0.steps": 50, "stages.0.terms.0.system.kind": "csd", "a.b": True, "c": 0.001}
    body = "try { readSettings(given) } catch (error) { return error.message }"
    assert "path=value" in node.ask("import { readSettings } from './panels/words.js'", body, "steps 50")


@pytest.mark.parametrize(
    "vary, chosen", [("rules", ["sds", "csd"]), ("scenes", ["gaussians", "field"]), ("seeds", ["3", "5", "8"])]
)
def test_the_studio_takes_what_the_lab_asks(node: Node, vary: str, chosen: list[str]) -> None:
    asked = {"vary": vary, "chosen": chosen, "prompt": "a red apple", "steps": 12, "seed": 4}
    batch = node.ask("import { batchOf } from './panels/batch.js'", "return batchOf(given)", asked)
    made = members(batch)
    assert [each.request.prompt for each in made] == ["a red apple"] * len(chosen)  # type: ignore[union-attr]
    names = node.ask(
        "import { nameOf } from './panels/batch.js'",
        "return given.map((values) => nameOf({ values }))",
        [each.values for each in made],
    )
    assert names == [f"seed {each}" if vary == "seeds" else each for each in chosen]
    jobs = [{**dataclasses.asdict(each.request), "values": each.values} for each in made]
    back = node.ask("import { askedOf } from './panels/batch.js'", "return askedOf(given)", jobs)
    assert back | ({"seed": 4} if vary == "seeds" else {}) == asked
    other = [{**jobs[0], "values": {"prompt": "a red apple", "seed": 1}}]
    assert node.ask("import { askedOf } from './panels/batch.js'", "return askedOf(given)", other) is None


def complaints() -> dict[str, str]:
    """What the engine says of real mistakes, with ways out that only a command line has."""
    found = {}

    def heard(name: str, act: Callable[[], object]) -> None:
        with pytest.raises(DreamError) as caught:
            act()
        found[name] = str(caught.value)

    toybox = loaded("toybox")
    image = loaded("image")
    heard("recipe", lambda: find("nonsense-of-mine"))
    heard("picture", lambda: check_picture(image))
    heard("unwanted", lambda: check_picture(replace(toybox, image=replace(image.image, file="a.png"))))
    heard("words", lambda: check(replace(toybox, prompt="a zyxqv")))
    heard("model", lambda: check_models(loaded("paper/sds")))
    return found


def test_what_goes_wrong_is_said_in_words_of_the_page(node: Node) -> None:
    """No hint of a command line is left, and what is wrong still is."""
    spoken = complaints()
    command = re.compile(r"(?<![\w-])--[a-z]|dreamlab [a-z]")
    assert all(command.search(text) for text in spoken.values()), spoken
    errors = [vars(error_of(code)) for code in (1, 2, 3, 4, 5, 6, 7, 75, -9, 137)]
    errors += [{"code": "input", "message": text, "hint": ""} for text in spoken.values()]
    told = node.ask("import { said } from './ui/said.js'", "return given.map(said)", errors)
    for error, page in zip(errors, told, strict=True):
        assert not command.search(page["message"] + page["hint"]) and page["hint"], page
        assert error["message"].startswith(page["message"].split(" (")[0][:20]) and len(page["message"]) > 15, page
    unchanged = {"code": "kind", "message": "these 3 bytes are no file that is read here", "hint": "send PNG"}
    assert node.ask("import { said } from './ui/said.js'", "return said(given)", unchanged) == {
        "message": unchanged["message"], "hint": "send PNG"
    }  # fmt: skip


def test_an_answer_that_is_cut_off_is_a_studio_that_is_gone(node: Node) -> None:
    """Not nothing: whoever asked would take that for what was said."""
    body = """
      globalThis.fetch = async () => new Response(given.text, {
        status: given.status, headers: { 'Content-Type': 'application/json' },
      });
      try { return { answer: await api('GET', '/v1/words') }; }
      catch (error) { return { name: error.name, code: error.code, status: error.status }; }
    """
    asked = "import { api } from './ui/api.js'"
    assert node.ask(asked, body, {"text": '{"words": []}', "status": 200}) == {"answer": {"words": []}}
    gone = node.ask(asked, body, {"text": '{"words": [', "status": 200})
    assert (gone["code"], gone["status"]) == ("unreachable", 0)
    refused = node.ask(asked, body, {"text": '{"error": {', "status": 500})
    assert (refused["code"], refused["status"]) == ("500", 500)
