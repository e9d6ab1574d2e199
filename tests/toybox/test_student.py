# SPDX-License-Identifier: Apache-2.0
"""The student of the prior: what it adds, the paths it learns from against a world with a closed form, its training,
and what the shipped one draws."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import orbit
from dreamlab.core.errors import InputError, ModelError, RecipeError
from dreamlab.core.noise import NoiseTable, make_table
from dreamlab.core.types import Condition, Frames, Prompt
from dreamlab.toybox.scoring.images import cameras_for, judged
from dreamlab.toybox.training import student as training
from dreamlab.toybox.training.command import STUDENT, begin
from dreamlab.toybox.training.sample import held_out_prompts
from dreamlab.toybox.training.trainer import STATE
from guidance.toybox.prior import Toybox, shared_of
from guidance.toybox.store import load
from guidance.toybox.student import FILE, ROUTES, TIMES, Differences, ToyboxStudent, packed, taught
from guidance.toybox.volume import VOLUME_CHANNELS
from tests.conftest import Commands
from tests.toybox.tiny_prior import tiny_prior

PLAN = training.StudentPlan(total=64, batch=4, warmup=4, paths=training.CHUNK)
BAR = make_table("cosine").alpha_bar


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_prior(tmp_path_factory.mktemp("prior"), volume=VOLUME_CHANNELS)


@pytest.fixture(scope="module")
def learnt(folder: Path) -> training.Paths:
    return training.paths(Toybox(Toybox.Settings(dtype="float32"), load(folder)), PLAN, 0)


def written(at: Path, folder: Path, flat: Tensor, rank: int = 2, of: str = "") -> Path:
    at.mkdir(parents=True, exist_ok=True)
    (at / FILE).write_bytes(packed(flat, rank, of or load(folder).digest, {}))
    return at


def flat_of(params: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.reshape(-1) for value in params.values()])


def told(guidance: Toybox) -> Condition:
    blank = torch.zeros(2, 16, 16, 1)
    frames = Frames(blank.expand(-1, -1, -1, 3), blank, blank, torch.zeros(2, 3))
    return guidance.condition(Prompt("a red mushroom"), orbit([20.0, 200.0], 20.0, 3.2, 42.0), frames)["text"]


def test_no_difference_is_the_teacher_to_the_bit(folder: Path, tmp_path: Path) -> None:
    teacher = load(folder)
    start = Differences(teacher.net, 2).start()
    made = written(tmp_path / "none", folder, flat_of(start))
    settings = {"weights": str(folder), "dtype": "float32"}
    student = ToyboxStudent(ToyboxStudent.Settings(student=str(made), **settings))
    prior = Toybox(Toybox.Settings(**settings))
    z = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for at, time in enumerate(TIMES):
        mine = student.predict(z, torch.full((2,), at), told(student))
        assert torch.equal(mine, prior.predict(z, torch.full((2,), time), told(prior)))
    assert len(student.table) == len(TIMES)


def test_what_is_added_is_the_product_of_both_and_small_weights_whole(folder: Path, tmp_path: Path) -> None:
    """By hand, of a convolution and of a bias; nothing that a caption is encoded by moves."""
    teacher = load(folder)
    more = Differences(teacher.net, 2)
    start = more.start()
    assert any(name.endswith(".up") for name in start) and any(name.endswith(".more") for name in start)
    assert not any(name.startswith(("encoder.", "volume.")) for name in start)
    generator = torch.Generator().manual_seed(1)
    full = {name: torch.randn(value.shape, generator=generator).half().float() for name, value in start.items()}
    got = taught(teacher, str(written(tmp_path / "some", folder, flat_of(full)))).net.state_dict()
    large = next(name.removesuffix(".up") for name in full if name.endswith(".up"))
    was = teacher.net.state_dict()
    up, down = full[f"{large}.up"].double(), full[f"{large}.down"].double()
    by_hand = was[large].double() + torch.einsum("or,ri->oi", up, down).reshape(was[large].shape)
    torch.testing.assert_close(got[large].double(), by_hand, rtol=1e-5, atol=1e-5)
    assert torch.equal(got["answer.bias"], was["answer.bias"] + full["answer.bias.more"])
    same = [name for name in was if torch.equal(got[name], was[name])]
    assert {name for name in was if name.startswith(("encoder.", "volume."))} <= set(same)


@dataclass
class TwoPictures:
    """The exact prior of a world of two pictures, p with the share `share` and -p: E[x | z] = p tanh(...)."""

    picture: Tensor
    share: float = 0.5
    table: NoiseTable = make_table("cosine")

    def text_of(self, told: Condition) -> None:
        return None

    def velocity(self, z: Tensor, bar: Tensor, text: None, told: Condition) -> Tensor:
        a, s = bar.double().sqrt(), (1 - bar.double()).sqrt()
        odds = torch.logit(torch.tensor(self.share, dtype=torch.float64)) / 2
        along = (z.double() * self.picture).sum((1, 2, 3)) * a / s**2
        x0 = torch.tanh(along + odds)[:, None, None, None] * self.picture
        return ((a[:, None, None, None] * z - x0) / s[:, None, None, None]).to(z)


def test_paths_end_where_the_exact_flow_of_two_pictures_ends() -> None:
    """Of a symmetric pair the flow keeps the sign of the noise along the picture; and the states on the way are the
    deterministic sampler's."""
    p = torch.tensor([0.6, -0.3, 0.2]).expand(1, 4, 4, 3).double()
    prior = TwoPictures(p)
    noise = torch.randn(64, 4, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nothing = Condition({"row": torch.zeros(64)})
    states, end = training.way(prior, nothing, nothing, noise, 4.0)  # type: ignore[arg-type]
    sign = (noise * p).sum((1, 2, 3)).sign()[:, None, None, None]
    torch.testing.assert_close(end, sign * p, atol=2e-3, rtol=0)
    assert len(states) == len(training.WAY) and torch.equal(states[0], noise)
    fine, _ = training.way(prior, nothing, nothing, noise, 1.0, range(999, 499, -1))  # type: ignore[arg-type]
    gap = (states[training.WAY.index(500)] - fine[-1]).square().mean().sqrt()
    assert gap < 0.1 < (states[0] - fine[-1]).square().mean().sqrt()


def test_a_move_is_that_of_the_noise_table() -> None:
    table = NoiseTable(BAR.double())
    z, x0 = (torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (0, 1))
    t, to = torch.full((2,), 749), torch.full((2,), 500)
    a, s = table.signal_noise(t, z)
    torch.testing.assert_close(
        training.moved(table.alpha_bar, z, x0, 749, 500), table.ddim_move(z, (z - a * x0) / s, t, to)
    )


def test_of_two_pictures_from_the_same_noise_the_likelier_is_asked_for_and_not_their_mean() -> None:
    """The least misfit to p (70 %) and -p (30 %) along the line between them; squared, it would be at 0.4 p."""
    p = torch.tensor([0.6, -0.3, 0.2], dtype=torch.float64)
    at = torch.linspace(-1.2, 1.2, 2401, dtype=torch.float64)
    line = at[:, None] * p
    total = 0.7 * training.misfit(line, p, 0.03) + 0.3 * training.misfit(line, -p, 0.03)
    assert float(at[total.argmin()]) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("calls", ROUTES)
def test_each_call_looks_again_at_what_was_seen_in_fresh_noise(
    folder: Path, tmp_path: Path, calls: int, alike: bool
) -> None:
    """What is seen being one picture p, what is asked about is pure noise and then a p + s noise."""
    flat = flat_of(Differences(load(folder).net, 2).start())
    made = written(tmp_path, folder, flat)
    student = ToyboxStudent(ToyboxStudent.Settings(weights=str(folder), student=str(made)))
    p, asked, noises = torch.full((2, 3, 16, 16), 0.3), list[int](), list[Tensor]()

    def clean(z: Tensor, at: int, told: Condition) -> Tensor:
        bar = BAR[TIMES[at]]
        noises.append((z - bar.sqrt() * p) / (1 - bar).sqrt() if asked else z)
        asked.append(at)
        return p

    student.clean = clean  # type: ignore[method-assign]
    assert torch.equal(student.draw(told(student), torch.Generator().manual_seed(3), calls, alike), p)
    assert len(asked) == calls and asked[0] == TIMES.index(999) and sorted(set(asked), reverse=True) == asked
    drawn = torch.stack(noises)
    assert all(abs(one.mean()) < 0.1 and abs(one.std() - 1) < 0.1 for one in drawn)
    assert torch.equal(drawn[:, 0], drawn[:, 1]) == alike
    assert torch.corrcoef(drawn[:, 0].flatten(1)).tril(-1).abs().max() < 0.2 if calls > 1 else True


def test_it_learns_and_resuming_changes_no_bit(folder: Path, learnt: training.Paths, tmp_path: Path) -> None:
    whole, first = (training.Apprentice(PLAN, load(folder)) for _ in range(2))
    before = sum(whole.errors(learnt))
    losses = [whole.train_step(learnt) for _ in range(8)]
    for _ in range(5):
        first.train_step(learnt)
    (tmp_path / STATE).write_bytes(first.state())
    second = training.Apprentice(PLAN, load(folder))
    second.restore(tmp_path / STATE)
    assert [second.train_step(learnt) for _ in range(3)] == losses[5:]
    assert second.state() == whole.state() and second.file() == whole.file()
    assert sum(whole.errors(learnt)) < before


def test_a_path_holds_the_teachers_states_at_the_students_times(folder: Path, learnt: training.Paths) -> None:
    again = training.paths(Toybox(Toybox.Settings(dtype="float32"), load(folder)), PLAN, 0)
    for field in fields(training.Paths):
        assert torch.equal(getattr(learnt, field.name), getattr(again, field.name)), field.name
    pure = learnt.states[:, TIMES.index(999)].float()
    assert abs(pure.mean()) < 0.02 and abs(pure.std() - 1) < 0.02
    late = learnt.states[:, TIMES.index(250)].float()
    assert (late - learnt.end.float()).square().mean() < 0.5 * (pure - learnt.end.float()).square().mean()


def test_the_teacher_goes_on_from_the_students_jump_as_on_its_own_path(
    folder: Path, learnt: training.Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A jump that leads to the path's own state half way down ends where the path ends; another one elsewhere."""
    student = training.Apprentice(PLAN, load(folder))
    student.prior = Toybox(Toybox.Settings(dtype="float32"), load(folder))
    student.nothing = student.prior.captions({"null": ""})
    noise, half = (learnt.states[:, TIMES.index(t)].double() for t in (999, 500))
    a, s, a_half, s_half = (
        BAR[t].double().sqrt() if up else (1 - BAR[t].double()).sqrt() for t in (999, 500) for up in (1, 0)
    )
    jump = (half - s_half / s * noise) / (a_half - s_half / s * a)
    torch.testing.assert_close(student.onward(learnt, jump.float()), learnt.end.float(), atol=0.02, rtol=0)
    assert (student.onward(learnt, -jump.float()) - learnt.end.float()).abs().mean() > 0.1
    later = replace(PLAN, own_after=0, own=0.5)
    assert PLAN.own_at(0) == 0 and later.own_at(0) == 2
    asked = []

    def onward(some: training.Paths, x0: Tensor) -> Tensor:
        asked.append(some.states[:, TIMES.index(999)])
        return x0  # what it said already: nothing to learn from these

    monkeypatch.setattr(training.Apprentice, "onward", lambda self, some, x0: onward(some, x0))
    plain, own = training.Apprentice(PLAN, load(folder)), training.Apprentice(later, load(folder))
    assert own.train_step(learnt) < plain.train_step(learnt) and len(asked) == 1 and len(asked[0]) == 2


def test_a_run_saves_logs_and_goes_on(folder: Path, tmp_path: Path) -> None:
    small = {"total": 8, "batch": 4, "paths": training.CHUNK}

    def run(resume: bool, changes: Mapping[str, int]) -> int:
        return begin(tmp_path, role=STUDENT, minutes=5.0, start=str(folder), resume=resume, changes=changes)

    assert run(False, small) == 0
    with pytest.raises(InputError, match="holds a run already"):
        run(False, small)
    assert run(True, {"total": 16}) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [8, 16] and f"held_out_{TIMES[0]}" in lines[0]
    ToyboxStudent(ToyboxStudent.Settings(weights=str(folder), student=str(tmp_path)))


def test_what_cannot_be_trained_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--head-after: the student has no such setting"):
        begin(tmp_path / "a", role=STUDENT, changes={"head_after": 3})
    with pytest.raises(InputError, match="nothing to resume"):
        begin(tmp_path / "b", role=STUDENT, resume=True)
    with pytest.raises(RecipeError, match="on the CPU"):
        begin(tmp_path / "c", role=STUDENT, device="cuda")


def test_a_student_of_another_prior_and_a_missing_one_are_refused(folder: Path, tmp_path: Path) -> None:
    flat = flat_of(Differences(load(folder).net, 2).start())
    other = written(tmp_path / "other", folder, flat, of="0" * 64)
    with pytest.raises(ModelError, match="another prior"):
        ToyboxStudent(ToyboxStudent.Settings(weights=str(folder), student=str(other)))
    with pytest.raises(ModelError, match="no student here"):
        ToyboxStudent(ToyboxStudent.Settings(weights=str(folder), student=str(tmp_path / "none")))


def test_the_shipped_one_draws_in_one_call_what_a_strict_judge_accepts() -> None:
    """Sixteen held-out prompts; its teacher in one call has half of them accepted, and a third of the edges."""
    student, prompts = ToyboxStudent(ToyboxStudent.Settings()), held_out_prompts()
    cameras = cameras_for(len(prompts))
    said = student.captions({f"prompt {i}": text for i, text in enumerate(prompts)})
    told = Condition(
        {"caption": torch.arange(len(prompts)), "camera": student.view(cameras)},
        shared_of(said),
    )
    rgb = student.decode(student.draw(told, torch.Generator().manual_seed(0))).clamp(0, 1)
    assert judged(prompts, rgb).right >= 12 / 16


def test_imagining_writes_four_sides_and_says_what_it_cannot(dreamlab: Commands, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    ended = dreamlab("imagine", "a red duck", "--out", "duck.png")
    assert ended.code == 0 and ended.out == "duck.png\n"
    with Image.open(dreamlab.folder / "duck.png") as file:
        sides = np.split(np.asarray(file.convert("RGB")).astype(float), 4, 1)
    assert all(np.abs(a - b).mean() > 2 for a, b in zip(sides[1:], sides, strict=False))
    reddest = max(sides, key=lambda side: (side[..., 0] - side[..., 1:].mean(-1)).max())
    assert (reddest[..., 0] - reddest[..., 1:].mean(-1)).max() > 80
    again = dreamlab("imagine", "a red duck and a blue house", "--out", "two.png", "--calls", "2")
    with Image.open(dreamlab.folder / "two.png") as file:
        assert again.code == 0 and file.size == (4 * 128, 2 * 128)


@pytest.mark.parametrize(
    ("told", "code", "line"),
    [
        (["a red dragon"], 3, "does not know 'dragon'"),
        ([""], 3, "is empty"),
        (["a red duck", "--calls", "3"], 2, "1, 2, 4 calls"),
        (["a red duck", "--out", "duck.jpg"], 2, "is no .png"),
        (["a red duck", "--out", "nowhere/duck.png"], 7, "nowhere/duck.png"),
    ],
)
def test_what_cannot_be_imagined_is_said_in_a_line(dreamlab: Commands, told: list[str], code: int, line: str) -> None:
    ended = dreamlab("imagine", *told)
    assert ended.code == code and line in ended.err and ended.err.count("\n") == 1 and not ended.out
    assert not list(dreamlab.folder.glob("*.png"))
