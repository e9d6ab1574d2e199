# SPDX-License-Identifier: Apache-2.0
"""The CUDA path of `splat` on the host: launcher and kernels against the CPU's, and what happens without room."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cuda_ext import room
from cuda_ext.splat import HOST_READS_LOOKING, SplatStats, Splatted, splat
from dreamlab.core.cameras import orbit
from tests.cuda_ext.test_splat import CASES, PICTURES, assert_close_except, assert_gradients_match, make_scene
from tests.second_device import second_device
from tests.sync_counter import syncs


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    with second_device():
        yield


def draw(
    scene: dict[str, Tensor], device: str, size: tuple[int, int] = (40, 52), stats: SplatStats | None = None, **how
) -> tuple[Splatted, dict[str, Tensor]]:
    """Pictures and gradients of a fixed loss on all of them, on the CPU."""
    how = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in how.items()}
    cameras = orbit([0.0, 110.0], 20.0)
    leaves = {k: v.clone().to(device).requires_grad_() for k, v in scene.items() if v is not None}
    given = {**{k: None for k in scene}, **leaves}
    first = [given.pop(k) for k in ("means", "quats", "scales", "opacities", "colors")]
    pose, focal = cameras.camera_to_world.to(device), cameras.focal_px(size[0]).to(device)
    out = splat(*first, pose, focal, size, backend="native", stats=stats, **given, **how)
    generator, loss = torch.Generator().manual_seed(7), torch.zeros((), device=device)
    for name in PICTURES:
        image = getattr(out, name)
        if image is not None:
            weight = torch.randn(image.shape, generator=generator).to(device)
            loss = loss + (image * (weight * out.alpha.detach() if name == "depth" else weight)).sum()
    grads = torch.autograd.grad(loss, list(leaves.values()))
    fields = {k: v if v is None else v.detach().cpu() for k, v in vars(out).items()}
    return Splatted(**fields), {k: g.cpu() for k, g in zip(leaves, grads, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_kernels_draw_what_the_cpu_draws(name: str) -> None:
    scene_options, options = CASES[name]
    scene = make_scene(120, **scene_options)
    ours, our_grads = draw(scene, "cuda", **options)
    theirs, their_grads = draw(scene, "cpu", **options)
    for picture in (*PICTURES, "radii"):
        if getattr(theirs, picture) is not None:
            assert_close_except(getattr(ours, picture), getattr(theirs, picture), picture)
    assert torch.equal(ours.visible, theirs.visible)
    assert_gradients_match(our_grads, their_grads)


def test_the_same_bits_twice() -> None:
    first, second = (draw(make_scene(80, extra=1), "cuda") for _ in range(2))
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])
    assert torch.equal(first[0].rgb, second[0].rgb) and torch.equal(first[0].normal, second[0].normal)


def test_stats_of_both_devices_agree() -> None:
    scene, sums = make_scene(80), []
    for where in ("cuda", "cpu"):
        stats = SplatStats.zeros(80, where)
        draw(scene, where, stats=stats)
        sums.append([t.cpu() for t in (stats.grad_norm, stats.count, stats.radius_max)])
    for ours, theirs in zip(*sums, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("count, views", [(0, 2), (5, 0), (0, 0)])
def test_nothing_to_draw(count: int, views: int) -> None:
    scene = {k: v.cuda().requires_grad_() for k, v in make_scene(count).items() if v is not None}
    cameras = orbit([10.0] * views, 0.0).to(device="cuda")
    background = torch.rand(views, 3).cuda()
    for _ in range(2):
        out = splat(*scene.values(), cameras.camera_to_world, cameras.focal_px(9), (9, 9), background=background)
        out.rgb.sum().backward()
    assert torch.equal(out.rgb.detach().cpu(), background.cpu()[:, None, None].expand(views, 9, 9, 3))


def swollen(scene: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    return {**scene, "scales": factor * scene["scales"]}


def assert_same_pictures(ours: Splatted, theirs: Splatted) -> None:
    for name in ("rgb", "alpha", "normal"):
        assert_close_except(getattr(ours, name), getattr(theirs, name), name)


def test_what_finds_no_room_is_said_and_room_is_made() -> None:
    scene = make_scene(60)
    for _ in range(room.PASSES):
        draw(scene, "cuda")
    grown, said = swollen(scene, 6.0), []
    expected, expected_grads = draw(grown, "cpu")
    for _ in range(3):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            found, grads = draw(grown, "cuda")
        said.append([str(w.message) for w in seen if "splat" in str(w.message)])
        assert all(image.isfinite().all() for image in (found.rgb, found.depth, found.normal, *grads.values()))
        # What is left out takes away and nothing is made up, but for the light at which compositing stops.
        assert (found.alpha <= expected.alpha + 2e-4).all()
        whole = bool(((found.rgb - expected.rgb).abs() < 1e-3).all())
        assert whole == bool(said[-1] or (said[:-1] and said[-2])), said
    assert not said[0] and len(said[1]) == 1 and not said[2]
    line = said[1][0]
    assert line.startswith("splat: so far ") and int(line.split()[3]) > 100 and "next pass takes more room" in line
    assert_same_pictures(found, expected)
    assert_gradients_match(grads, expected_grads)


def test_a_picture_that_is_looked_at_is_whole() -> None:
    scene = make_scene(60)
    for _ in range(room.PASSES + 1):
        draw(scene, "cuda")
    large = swollen(scene, 6.0)
    cameras, size = orbit([0.0, 110.0], 20.0), (40, 52)
    pictures = []
    for where in ("cuda", "cpu"):
        given = [large[k].to(where) for k in ("means", "quats", "scales", "opacities", "colors")]
        pose, focal = cameras.camera_to_world.to(where), cameras.focal_px(40).to(where)
        with syncs(only_on_device=True) as found, warnings.catch_warnings():
            warnings.simplefilter("error")
            pictures.append(splat(*given, pose, focal, size))
        assert len(found) == (HOST_READS_LOOKING if where == "cuda" else 0), found.report()
    ours = Splatted(**{k: None if v is None else v.cpu() for k, v in vars(pictures[0]).items()})
    assert_same_pictures(ours, pictures[1])


def test_more_splats_of_the_same_kind_need_no_new_read() -> None:
    """Densification changes the count at every turn: room goes by the splat."""
    for _ in range(room.PASSES):
        draw(make_scene(60), "cuda")
    with syncs(only_on_device=True) as found, warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, _ = draw(make_scene(150, seed=1), "cuda")
        draw(make_scene(150, seed=1), "cuda")
    reads = [what for what, _ in found if what not in ("copy to the CPU",)]
    assert not reads, found.report()
    assert_same_pictures(ours, draw(make_scene(150, seed=1), "cpu")[0])


def test_a_captured_pass_reads_nothing_and_its_loss_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, capturing = make_scene(60), [True]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    with pytest.raises(RuntimeError, match="outside the graph before capturing"):
        draw(scene, "cuda")
    capturing[0] = False
    draw(scene, "cuda")
    capturing[0] = True
    with syncs(only_on_device=True) as found, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_pictures(draw(scene, "cuda")[0], draw(scene, "cpu")[0])
        draw(swollen(scene, 6.0), "cuda")  # what a replay with changed numbers would do
    assert all(what == "copy to the CPU" for what, _ in found), found.report()
    with pytest.warns(UserWarning, match=r"splat: so far \d+ pairs of splats and tiles were left out"):
        room.report()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        room.report()  # said once
    capturing[0] = False
    found_now, _ = draw(swollen(scene, 6.0), "cuda")
    assert_same_pictures(found_now, draw(swollen(scene, 6.0), "cpu")[0])
