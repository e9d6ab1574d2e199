# SPDX-License-Identifier: Apache-2.0
"""The roles beside the image: what they are shown is true, what they start from they keep, and they learn."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dreamlab.core.cameras import Cameras, orbit, turntable
from dreamlab.core.errors import InputError
from dreamlab.core.types import Frames, Prompt, Reference
from dreamlab.toybox.training.data import draw_batch, vocabulary
from dreamlab.toybox.training.loss import Chance, errors
from dreamlab.toybox.training.plan import Plan
from dreamlab.toybox.training.roles import MIX, ROLES, cameras_of, clip_times, misread
from dreamlab.toybox.training.sample import ancestral, role_pictures, scene_of
from dreamlab.toybox.training.trainer import Trainer, new_plan
from guidance.toybox.net import NetSettings
from guidance.toybox.prior import Toybox
from guidance.toybox.roles import TOYBOXES
from guidance.toybox.store import EVERY, Stored
from guidance.toybox.told import HINT_CHANNELS, hint_of

WORDS = vocabulary()
NET = NetSettings(len(WORDS.tokens), size=16, fine=8, wide=16, middle=24, core=48, blocks=1, words=24, word_blocks=1)
PROMPT = Prompt("a red mushroom with a white stem")
OTHERS = ("views", "control", "novel", "video")


def plan_of(role: str) -> Plan:
    return Plan.of(role, NET, batch=8, warmup=8, head_after=8, total=10_000)


def trained_image(steps: int = 4) -> Stored:
    """An image prior whose weights are not those of a fresh one."""
    trainer = Trainer(plan_of("image"), WORDS)
    for index in range(steps):
        trainer.train_step(draw_batch(trainer.plan, WORDS, index, 16))
    return Stored("image", "cosine", WORDS, trainer.net.requires_grad_(False), {})


def lively(role: str) -> Toybox:
    trainer = Trainer(plan_of(role), WORDS)
    torch.manual_seed(1)
    for parameter in trainer.net.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.05)
    kind = TOYBOXES[role]
    stored = Stored(role, "cosine", WORDS, trainer.net.requires_grad_(False), {})
    return kind(kind.Settings(dtype="float32"), stored)


def frames_of(cameras: Cameras, size: int = 16) -> Frames:
    return scene_of(PROMPT.text, cameras, size)[0]


def test_every_role_has_a_guidance() -> None:
    assert set(TOYBOXES) == set(ROLES) == set(MIX) == {"image", *OTHERS}
    assert all(TOYBOXES[role].together == ROLES[role].joint for role in ROLES)
    assert abs(sum(MIX.values()) - 1) < 1e-9


@pytest.mark.parametrize("role", OTHERS)
def test_a_role_starts_as_the_image_role_and_learns(role: str) -> None:
    """What it has more begins at zero: alone (joint = 1) it says what the image role says. A step changes all of it."""
    start = trained_image()
    plan, words = new_plan("cpu", role, start, batch=8)
    assert plan.total == ROLES[role].alone.get("total", Plan.total // 3)
    assert plan.shape_for < plan.head_after < plan.total
    assert new_plan("cpu", role, start, batch=8, total=99)[0].total == 99  # what is asked for goes before
    plan = dataclasses.replace(plan, shape_for=0)
    trainer = Trainer(plan, words)
    trainer.start_from(start)
    batch = draw_batch(plan, words, 0, 16)
    bar, z = torch.full((8,), 0.3), torch.randn(8, 16, 16, 3)
    with torch.no_grad():
        theirs = start.net(z, bar, start.net.text(batch.ids), batch.camera[:, :16])
        ours = trainer.net(z, bar, trainer.net.text(batch.ids), batch.camera, batch.hint, 1)
        together = trainer.net(z, bar, trainer.net.text(batch.ids), batch.camera, batch.hint, batch.joint)
    torch.testing.assert_close(ours, theirs)
    assert (batch.joint > 1) == bool((together - theirs).abs().max() > 1e-4)
    before = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    trainer.train_step(batch)
    more = [name for name in before if name.startswith(("hint_", "moment."))]
    assert len(more) == {"control": 2, "novel": 2, "video": 1}.get(role, 0)
    for name in more:
        assert not torch.equal(trainer.net.state_dict()[name], before[name]), name


def test_a_prior_that_does_not_fit_is_refused() -> None:
    start = trained_image(0)
    plan = Plan.of("views", dataclasses.replace(NET, moments=0), batch=8)
    other = Trainer(Plan.of("video", NET, batch=8), WORDS)
    stored = Stored("video", "cosine", WORDS, other.net, {})
    Trainer(plan, WORDS).start_from(start)
    with pytest.raises(InputError, match="does not fit"):
        Trainer(plan, WORDS).start_from(stored)


def test_views_stand_around_one_object() -> None:
    cameras = cameras_of("views", 16, 4, torch.Generator().manual_seed(0))
    turns = cameras.azimuth_deg.reshape(4, 4).deg2rad()
    for group in turns:  # in each quarter but for 15 degrees to either side
        gaps = torch.remainder(group.roll(-1) - group, 2 * torch.pi).rad2deg()
        assert (gaps > 60).all() and (gaps < 120).all()
    same = (cameras.elevation_deg.reshape(4, 4).diff(dim=1) == 0).all(1)
    assert same.any() and not same.all()


def test_frames_of_a_clip_run_through_one_period() -> None:
    times = clip_times(24, 8, torch.Generator().manual_seed(0)).reshape(3, 8)
    steps = torch.remainder(times.diff(dim=1), 1.0)
    torch.testing.assert_close(steps, torch.full_like(steps, 1 / 8))
    pairs = clip_times(24, 2, torch.Generator().manual_seed(0))
    assert len(pairs.unique()) == 24 and ((pairs >= 0) & (pairs < 1)).all()
    batch = draw_batch(plan_of("video"), WORDS, 0, 16)
    assert not torch.equal(batch.rgb[0], batch.rgb[1])  # something moves
    torch.testing.assert_close(batch.camera[:8, :16], batch.camera[:1, :16].expand(8, -1))
    assert torch.equal(batch.rgb[:, 0, 0], batch.rgb[:1, 0, 0].expand(8, -1))  # before one colour


def test_hints_are_depth_before_the_centre_normals_of_the_camera_and_mask() -> None:
    """A ball seen from any side looks the same: nearest point in the middle by its radius, its normal to the camera."""
    cameras = orbit([0.0, 77.0, -130.0], [0.0, 40.0, -10.0], 3.2, 42.0)
    frames, _ = scene_of("a red ball", cameras, 33)
    hint = hint_of(frames.depth, frames.normal, frames.alpha, cameras)  # type: ignore[arg-type]
    middle = hint[:, 16, 16]
    torch.testing.assert_close(middle[:, 1:4], torch.tensor([0.0, 0.0, 1.0]).expand(3, 3), atol=0.05, rtol=0)
    assert (middle[:, 0] - middle[0, 0]).abs().max() < 0.03 and 0.5 < middle[0, 0] < 1.0
    assert torch.equal(hint[..., 4:5], frames.alpha) and not hint[..., 5:].any() and not hint[:, 0, 0].any()


def test_novel_batches_show_the_given_picture_beside_each_row() -> None:
    batch = draw_batch(plan_of("novel"), WORDS, 0, 16)
    assert batch.hint is not None and not batch.hint[..., :5].any() and (batch.hint[..., 8] == 1).all()
    given = 2 * batch.rgb[::2].repeat_interleave(2, 0) - 1
    assert torch.equal(batch.hint[..., 5:8], given) and not batch.graded[::2].any()


def test_a_run_for_every_role_has_clips_of_two_frames_too() -> None:
    plan, count = Plan.of(EVERY, NET, batch=8), {}
    for index in range(1500):
        task = plan.task(index)
        count[task.role, task.joint] = count.get((task.role, task.joint), 0) + 1
    assert set(count) == {("image", 1), ("views", 4), ("control", 1), ("novel", 2), ("video", 2), ("video", 8)}
    share = count["video", 2] / (count["video", 2] + count["video", 8])
    assert abs(share - ROLES["video"].pairs) < 0.1
    index = next(i for i in range(1500) if plan.task(i).role == "video" and plan.task(i).joint == 2)
    batch = draw_batch(plan.task(index), WORDS, index, 16)
    assert batch.joint == 2 and torch.equal(batch.ids[::2], batch.ids[1::2])


def test_a_run_for_clips_alone_has_pairs_too_and_is_told_no_surface() -> None:
    plan = Plan.of("video", dataclasses.replace(NET, hint=HINT_CHANNELS), batch=16)
    joints = [plan.task(index).joint for index in range(400)]
    assert set(joints) == {2, 8} and abs(joints.count(2) / 400 - ROLES["video"].pairs) < 0.1
    trainer = Trainer(plan, WORDS)
    batch = draw_batch(plan.task(joints.index(8)), WORDS, 0, 16)
    assert trainer.chance(batch, 0, plan.task(joints.index(8))).no_hint.all()


def test_some_clips_have_one_noise_for_all_frames() -> None:
    plan = dataclasses.replace(plan_of("video"), batch=64)
    shared = []
    for index in range(12):
        noise = Chance.draw(torch.Size((64, 4, 4, 3)), 1000, plan, torch.Generator().manual_seed(index)).noise
        clips = noise.unflatten(0, (8, 8))
        same = (clips == clips[:, :1]).flatten(1).all(1)
        assert not torch.equal(clips[0, 0], clips[1, 0])  # each clip has its own
        shared += same.tolist()
    assert 0.3 < sum(shared) / len(shared) < 0.7
    others = dataclasses.replace(plan_of("views"), batch=64)
    noise = Chance.draw(torch.Size((64, 4, 4, 3)), 1000, others, torch.Generator().manual_seed(0)).noise
    assert len(noise.flatten(1).unique(dim=0)) == 64


def test_a_network_for_a_joint_role_alone_looks_across_cell_by_cell() -> None:
    """With the trunk's own look across cut, a group's pictures still see each other, others never."""
    start = trained_image()
    plan, words = new_plan("cpu", "video", start, batch=8)
    assert plan.net.across and not Plan.of("control", NET).net.across and not Plan.of(EVERY, NET).net.across
    trainer = Trainer(plan, words)
    trainer.start_from(start)
    net = trainer.net.requires_grad_(False)
    for block in net.trunk:
        block.attention.out.weight.zero_()
    batch = draw_batch(plan, words, 0, 16)
    bar, z = torch.full((8,), 0.3), torch.randn(8, 16, 16, 3)

    def change(joint: int) -> torch.Tensor:
        text = net.text(batch.ids)
        other = torch.cat([z[:1] + 1.0, z[1:]])
        first, second = (net(state, bar, text, batch.camera, batch.hint, joint) for state in (z, other))
        return (second - first).abs().flatten(1).amax(1)

    assert not change(8)[1:].any()  # it starts with saying nothing
    torch.nn.init.normal_(net.across.out.weight, std=0.5)
    assert (change(8) > 1e-5).all() and not change(4)[4:].any() and not change(1)[1:].any()


def test_samples_of_a_clip_start_from_one_noise() -> None:
    """Told the same of all frames, a clip rests; views, told the same, are four pictures."""
    drawn = {}
    for role in ("video", "views"):
        guidance = lively(role)
        cameras = orbit([30.0] * 8, 20.0, 3.2, 42.0)
        cameras = dataclasses.replace(cameras, time=torch.zeros(8)) if role == "video" else cameras
        told = guidance.condition(PROMPT, cameras, frames_of(cameras))
        drawn[role] = ancestral(guidance, told["text"], told["null"], 8, 2.0, 3, 0)
    clip, views = drawn["video"], drawn["views"]
    torch.testing.assert_close(clip, clip[:1].expand(8, -1, -1, -1), atol=1e-4, rtol=0)
    assert all((views[i] - views[j]).abs().max() > 0.05 for i in range(8) for j in range(i))


def test_joint_rows_see_each_other_only_within_their_group() -> None:
    guidance = lively("views")
    cameras = turntable(8)
    told = guidance.condition(PROMPT, cameras, frames_of(cameras))["text"]
    z, t = torch.randn(8, 3, 16, 16), torch.full((8,), 500)
    base = guidance.predict(z, t, told)
    z[0] += 1.0
    moved = (guidance.predict(z, t, told) - base).abs().flatten(1).amax(1)
    assert (moved[:4] > 1e-5).all() and (moved[4:] < 1e-6).all()
    with pytest.raises(InputError, match="multiple of 4"):
        guidance.condition(PROMPT, turntable(6), frames_of(turntable(6)))


def test_control_listens_to_the_surface_and_asks_for_normals() -> None:
    guidance, cameras = lively("control"), turntable(2)
    frames = frames_of(cameras, 32)
    z, t = torch.randn(2, 3, 16, 16), torch.full((2,), 500)
    base = guidance.predict(z, t, guidance.condition(PROMPT, cameras, frames)["text"])
    flat = dataclasses.replace(frames, normal=torch.zeros_like(frames.depth).expand(-1, -1, -1, 3))
    assert not torch.equal(base, guidance.predict(z, t, guidance.condition(PROMPT, cameras, flat)["text"]))
    with pytest.raises(InputError, match="normals"):
        guidance.condition(PROMPT, cameras, dataclasses.replace(frames, normal=None))


def test_novel_knows_only_how_far_it_is_turned() -> None:
    """The same picture said to be from elsewhere, and all views turned with it, are the same question."""
    guidance, cameras = lively("novel"), turntable(3)
    for parameter in guidance.reader.parameters():  # so that it reads the same of every picture
        parameter.data.zero_()
    frames = frames_of(cameras)
    z, t = torch.randn(3, 3, 16, 16), torch.full((3,), 500)

    def eps(by: float, variant: str = "text", brighter: float = 0.0) -> torch.Tensor:
        turned = orbit(cameras.azimuth_deg + by, cameras.elevation_deg, cameras.distance, cameras.fovy_deg)
        given = Reference(frames.rgb[0] + brighter, frames.alpha[0], turned[:1])
        return guidance.predict(z, t, guidance.condition(Prompt("", image=given), turned, frames)[variant])

    torch.testing.assert_close(eps(0.0), eps(50.0), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(eps(0.0), eps(0.0, brighter=0.3), atol=1e-3)
    torch.testing.assert_close(eps(0.0, "null"), eps(0.0, "null", brighter=0.3))  # it never saw the picture
    with pytest.raises(InputError, match="--image"):
        guidance.condition(PROMPT, cameras, frames)


def test_novel_hears_a_prompt_whose_words_it_knows() -> None:
    guidance, cameras = lively("novel"), turntable(2)
    frames = frames_of(cameras)
    z, t = torch.randn(2, 3, 16, 16), torch.full((2,), 500)
    given = Reference(frames.rgb[0], frames.alpha[0], cameras[:1])

    def eps(text: str, variant: str = "text") -> torch.Tensor:
        return guidance.predict(z, t, guidance.condition(Prompt(text, image=given), cameras, frames)[variant])

    silent = eps("")  # then it hears what its reader makes of the picture
    assert (eps("a red mushroom") - silent).abs().max() > 1e-3
    torch.testing.assert_close(eps("a red mushroom", "null"), eps("", "null"))
    assert torch.equal(eps("the gadget in my picture"), silent)  # half-heard words would mislead
    with pytest.warns(UserWarning, match="going by what the picture shows"):
        guidance.listen(TOYBOXES["novel"].Settings(), Prompt("the gadget in my picture"))


def test_half_of_the_pictures_to_turn_are_misread_a_little() -> None:
    cameras = cameras_of("novel", 2000, 2, torch.Generator().manual_seed(0))
    turned = misread(cameras, 2, torch.Generator().manual_seed(1))
    off = turned.azimuth_deg - cameras.azimuth_deg
    torch.testing.assert_close(off[::2], off[1::2], atol=1e-3, rtol=0)  # together
    wrong = off[::2][off[::2].abs() > 1e-3]
    assert abs(len(wrong) / 1000 - 0.5) < 0.05 and abs(float(wrong.std()) - 6.0) < 0.6
    assert torch.equal(turned.elevation_deg, cameras.elevation_deg)


def test_a_given_picture_is_clean_and_not_graded() -> None:
    trainer = Trainer(plan_of("novel"), WORDS)
    batch = draw_batch(trainer.plan, WORDS, 0, 16)
    assert batch.graded.tolist() == [False, True] * 4
    chance = trainer.chance(batch, 0, trainer.plan)
    louder = dataclasses.replace(chance, noise=chance.noise * torch.where(batch.graded, 1.0, 3.0)[:, None, None, None])
    calm = dataclasses.replace(chance, no_hint=torch.zeros(8).bool())
    silent = dataclasses.replace(chance, no_hint=torch.ones(8).bool())
    darker = dataclasses.replace(batch, rgb=batch.rgb * torch.where(batch.graded, 1.0, 0.2)[:, None, None, None])
    with torch.no_grad():
        first, second, third = (
            errors(trainer.net, trainer.table, *pair)[0][batch.graded]
            for pair in ((batch, calm), (batch, dataclasses.replace(louder, no_hint=calm.no_hint)), (batch, silent))
        )
        fourth = errors(trainer.net, trainer.table, darker, silent)[0][batch.graded]
    torch.testing.assert_close(first, second, atol=1e-2, rtol=1e-2)  # its noise is a thousandth
    torch.testing.assert_close(third, fourth, atol=0, rtol=0)  # withheld: it is not seen at all


def test_some_groups_have_a_clean_first_picture() -> None:
    """A share of them; none where errors are compared; and no dropped hint withholds it, as it does a novel one."""
    plan = dataclasses.replace(plan_of("views"), batch=64)
    groups = torch.cat([draw_batch(plan, WORDS, index, 16).graded for index in range(8)]).unflatten(0, (-1, 4))
    assert groups[:, 1:].all() and 0.1 < (~groups[:, 0]).float().mean() < 0.4
    assert draw_batch(plan, WORDS, 0, 16, held_out=True).graded.all()
    trainer = Trainer(plan, WORDS)
    trainer.start_from(trained_image())  # fresh weights answer with zeros
    batch = draw_batch(plan, WORDS, 0, 16)
    chance = dataclasses.replace(trainer.chance(batch, 0, plan), no_hint=torch.ones(64).bool())
    given = ~batch.graded
    darker = dataclasses.replace(batch, rgb=batch.rgb * torch.where(given, 0.2, 1.0)[:, None, None, None])
    with torch.no_grad():
        first, second = (errors(trainer.net, trainer.table, one, chance)[0] for one in (batch, darker))
        change = first - second
    seen = given.unflatten(0, (-1, 4))[:, :1].expand(-1, 4).flatten()
    assert (change[seen & batch.graded].abs() > 0).all() and not change[~seen].any()


def test_the_volume_can_learn_first_and_alone() -> None:
    plan = dataclasses.replace(plan_of("views"), shape_for=8 * 40, rate=3e-3, warmup=80, batch=8)
    trainer = Trainer(plan, WORDS)
    assert plan.size_at(8 * 39, 7) == NET.half and plan.size_at(8 * 40, 7) == NET.size
    before = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    shown = []
    for index in range(40):
        _, error, times, beside = trainer.train_step(draw_batch(plan, WORDS, index % 4, NET.half))
        assert not len(error) and not len(times)
        shown.append(beside.item())
    assert sum(shown[-4:]) < 0.6 * sum(shown[:4])
    changed = {name for name, value in trainer.net.state_dict().items() if not torch.equal(value, before[name])}
    learnt = {name for name in before if name.startswith("volume.")} - changed
    assert all(name.startswith("volume.") for name in changed)
    assert learnt == {name for name in learnt if ".given" in name or ".patch." in name}  # nothing was given
    _, error, times, _ = trainer.train_step(draw_batch(plan, WORDS, 40, NET.size))
    assert len(error) == len(times) > 0
    assert not torch.equal(trainer.net.state_dict()["stem.weight"], before["stem.weight"])


def test_one_network_learns_every_role() -> None:
    """Batches of all roles come in their shares; each trains what is its own; the result serves each guidance."""
    start = trained_image()
    plan, words = new_plan("cpu", EVERY, start, batch=8, total=10_000, head_after=0)
    roles = [plan.task(index).role for index in range(400)]
    assert all(abs(roles.count(role) / 400 - part) < 0.06 for role, part in MIX.items())
    trainer = Trainer(plan, words)
    trainer.start_from(start)
    before = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    first = {role: roles.index(role) for role in MIX}
    for index in sorted(first.values()):
        trainer.step = index
        task = plan.task(index)
        batch = draw_batch(task, WORDS, index, 16)
        assert batch.joint == task.joint <= ROLES[task.role].joint and batch.hint is not None
        assert bool(batch.camera[:, 16:].any()) == (task.role == "video")  # the others know of no moment
        trainer.train_step(batch)
    still = [name for name, value in trainer.net.state_dict().items() if torch.equal(value, before[name])]
    assert not [name for name in still if name.startswith(("hint_", "moment.", "trunk."))]
    stored = Stored(EVERY, "cosine", WORDS, trainer.net.requires_grad_(False), {})
    for role, kind in TOYBOXES.items():
        guidance = kind(kind.Settings(dtype="float32"), stored)
        prompt = "a spinning red windmill with white blades" if role == "video" else PROMPT.text
        assert role_pictures(guidance, prompt, 2.0, 2, 0)[1].isfinite().all()


@pytest.mark.parametrize("role", OTHERS)
def test_pictures_of_a_role_are_drawn(role: str) -> None:
    prompt = "a spinning red windmill with white blades" if role == "video" else PROMPT.text
    true, drawn = role_pictures(lively(role), prompt, 2.0, 3, 0)
    assert true.shape == drawn.shape == ((8 if role == "video" else 4), 16, 16, 3)
    assert not torch.equal(true[0], true[1]) and drawn.isfinite().all()


def test_novel_samples_stand_before_the_backdrop_of_the_given_picture() -> None:
    guidance = lively("novel")
    _, drawn = role_pictures(guidance, PROMPT.text, 2.0, 3, 0)
    edge = torch.ones(drawn.shape[1:3]).bool()
    edge[2:-2, 2:-2] = False
    torch.testing.assert_close(drawn[:, edge], torch.full_like(drawn[:, edge], 0.7), atol=1e-4, rtol=0)
    assert (drawn[:, ~edge] - 0.7).abs().mean() > 0.05  # inside the network paints
