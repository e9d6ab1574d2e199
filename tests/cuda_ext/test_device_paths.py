# SPDX-License-Identifier: Apache-2.0
"""Every op on a second device that does not mix: the CUDA path of its wrapper, its launcher and its kernels agree with
the CPU's, and the host reads no more of the device than the allowance beside the op says.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from cuda_ext import (
    adam,
    adam_groups,
    antialias,
    density,
    hashgrid,
    interpolate,
    march,
    modulate,
    nvrtc,
    raster,
    room,
    sdf,
    seen,
    sky,
    splat,
    texture,
    volume,
)
from cuda_ext.adam_groups import Group
from cuda_ext.hashgrid import HashGrid
from dreamlab.core.cameras import orbit
from dreamlab.toybox.draw import Light
from dreamlab.toybox.program import stack
from dreamlab.toybox.shapes import program
from tests.cuda_ext.raster_scenes import mesh_tensors, soup, sphere, to_clip, views
from tests.cuda_ext.test_seen import scene as seen_scene
from tests.cuda_ext.test_splat import make_scene
from tests.second_device import Mixed, OnDevice, second_device
from tests.sync_counter import syncs

BOX = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
Results = list[Tensor]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weighted(*outputs: Tensor) -> Tensor:
    """A loss that tells every entry of every output apart."""
    return sum((x * rand(*x.shape, seed=i).to(x.device)).sum() for i, x in enumerate(outputs))


def with_gradients(outputs: list[Tensor], leaves: list[Tensor]) -> Results:
    return [*outputs, *torch.autograd.grad(weighted(*outputs), leaves)]


def run_splat(device: str, backend: str) -> Results:
    scene = {k: v.to(device).requires_grad_() for k, v in make_scene(60, sh=9, extra=2).items() if v is not None}
    cameras = orbit([0.0, 110.0], 20.0).to(device=device)
    stats = splat.SplatStats.zeros(60, device)
    out = splat.splat(
        scene["means"], scene["quats"], scene["scales"], scene["opacities"], None, cameras.camera_to_world,
        cameras.focal_px(24), (24, 30), sh=scene["sh"], extra=scene["extra"], stats=stats, backend=backend,
        background=rand(2, 3).to(device),
    )  # fmt: skip
    leaves = list(scene.values())
    assert out.extra is not None
    found = with_gradients([out.rgb, out.alpha, out.depth * out.alpha, out.normal, out.extra], leaves)
    return [*found, stats.grad_norm, stats.count, stats.radius_max]


def run_adam(device: str, backend: str) -> Results:
    param, first, second = rand(40, 3).to(device), rand(40, 3, seed=1).to(device), rand(40, 3, seed=2).abs().to(device)
    step = torch.tensor(3, device=device)
    how = {"lr": 0.1, "backend": backend}
    for visible in (None, torch.arange(40, device=device) % 3 == 0, torch.tensor([4, 1, 30], device=device)):
        for skip in (None, torch.zeros((), device=device), torch.ones((), dtype=torch.bool, device=device)):
            grad = rand(40, 3, seed=3).to(device)
            adam.adam(param, grad, first, second, step, visible=visible, skip=skip, **how)
    return [param, first, second, step]


def run_adam_groups(device: str, backend: str) -> Results:
    groups = []
    for i, shape in enumerate([(40, 3), (7,), (1100, 2)]):
        tensors = [rand(*shape, seed=4 * i + k) for k in range(4)]
        visible = None if i else torch.arange(40, device=device) % 3 == 0
        given = (*tensors[:3], tensors[3].abs())
        groups.append(Group(*(t.to(device) for t in given), torch.tensor(i, device=device), 0.1, visible))
    flags = [torch.tensor(flag, device=device) for flag in (True, False)]
    stepped = [adam_groups.adam_groups(groups, flag, backend=backend) for flag in flags]
    return [*stepped, *(t for group in groups for t in (group[0], *group[2:5]))]


def run_hashgrid(device: str, backend: str) -> Results:
    grid = HashGrid(3, 2, 8, 3, 29, True)
    x, table = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).to(device), rand(grid.rows, 2).to(device)
    leaves = [x.requires_grad_(), table.requires_grad_()]
    value = hashgrid.encode(x, table, grid, active_levels=2, backend=backend)
    slope = hashgrid.position_gradient(x, table, rand(50, grid.width).to(device), grid, backend=backend)
    return with_gradients([value, slope], leaves)


def run_march(device: str, backend: str, capacity: int | None = 2000) -> Results:
    rays = 50
    origins = torch.nn.functional.normalize(rand(rays, 3), dim=1) * 3
    directions = torch.nn.functional.normalize(rand(rays, 3, seed=1).clamp(-1, 1) - origins, dim=1)
    occupied, jitter = rand(9, 17, 8, seed=2) > 0.7, torch.rand(rays, generator=torch.Generator().manual_seed(3))
    given = [t.to(device) for t in (origins, directions, occupied)]
    jitter = jitter.to(device)
    found = march.march(*given, BOX, step=0.05, jitter=jitter, capacity=capacity, backend=backend)
    count = len(found.t_start)
    sigma, colour = (10 * rand(count, seed=4)).to(device), rand(count, 3, seed=5).to(device)
    leaves = [sigma.requires_grad_(), colour.requires_grad_()]
    sums = march.composite(sigma, colour, found, backend=backend)
    points = found.points(*given[:2])
    outputs = [sums.rgb, sums.alpha, sums.depth, sums.distortion, sums.weights]
    grid = march.cell_points((2, 3, 4), BOX, torch.rand(24, 3, generator=torch.Generator().manual_seed(6)).to(device))
    return [found.offsets, found.t_start, found.t_end, points, grid, *with_gradients(outputs, leaves)]


def run_surface(device: str, backend: str) -> Results:
    """raster, interpolate, texture and antialias as one picture."""
    size = (20, 28)
    vertices, triangles = mesh_tensors(sphere(1))
    clip, triangles = to_clip(vertices, views(2), size).to(device).requires_grad_(), triangles.to(device)
    seen = raster.raster(clip, triangles, size, backend=backend)
    corners = rand(len(vertices), 2).to(device).requires_grad_()
    uv, slope = interpolate.interpolate(corners, seen, triangles, derivatives=True, backend=backend)
    image = rand(13, 8, 3, seed=1).to(device).requires_grad_()
    assert slope is not None
    colour = texture.texture(image, uv, uv_dxy=slope.flatten(-2), backend=backend)
    smooth = antialias.antialias(colour, seen, clip, triangles, backend=backend)
    picture = texture.texture(image, uv, level=uv.detach().square().sum(-1), boundary="clamp", backend=backend)
    return [seen.triangle, *with_gradients([seen.uv, uv, smooth, picture], [clip, corners, image])]


def run_raster_behind(device: str, backend: str) -> Results:
    clip, triangles = soup(12, torch.Generator().manual_seed(3), behind=True)
    clip = clip.to(device).requires_grad_()
    seen = raster.raster(clip, triangles.to(device), (20, 28), backend=backend)
    return [seen.triangle, *with_gradients([seen.uv, seen.depth], [clip])]


def run_sdf(device: str, backend: str) -> Results:
    names, count, size = ("crown", "whale"), 90, (12, 14, 2)
    if backend == "torch":  # takes its time
        names, count, size = ("ball",), 8, (3, 4, 1)
    programs, cameras = stack([program(name) for name in names]), orbit([20.0, 160.0], 25.0)
    pose, focal = (x.expand(len(names), *x.shape) for x in (cameras.camera_to_world, cameras.focal_px(size[0])))
    tables = [t.to(device) for t in (programs.rows, programs.parts, programs.bound, pose, focal, Light().packed())]
    points = (2 * torch.rand(len(names), count, 3, generator=torch.Generator().manual_seed(0)) - 1).to(device)
    return [*sdf.draw(*tables, *size, backend=backend), *sdf.sdf(tables[0], points, backend=backend)]


def run_density(device: str, backend: str) -> Results:
    turns = torch.linalg.qr(rand(50, 3, 3)).Q
    given = (16 * rand(50, 3, seed=1) - 2, turns, 0.6 + 2 * rand(50, 3, seed=2), rand(50, 4, seed=3))
    return [density.density(*(each.to(device) for each in given), (12, 9, 21), backend=backend)]


def run_seen(device: str, backend: str) -> Results:
    given = (each.to(device) for each in seen_scene(200, 4, 20))
    return [seen.seen(*given, grazing=0.15, behind=1.5, backend=backend)]


def run_sky(device: str, backend: str) -> Results:
    vertices, faces = mesh_tensors(sphere(1))
    turns = torch.linalg.qr(rand(6, 3, 3)).Q
    points = 0.8 * torch.rand(60, 3, generator=torch.Generator().manual_seed(1)) - 0.4
    given = (0.7 * vertices, faces, points, torch.nn.functional.normalize(points, dim=-1), turns)
    return [sky.sky(*(each.to(device) for each in given), pixels=20, slack=0.05, backend=backend)]


def run_volume(device: str, backend: str) -> Results:
    grid, row = rand(3, 5, 6, 4, 7).to(device).requires_grad_(), torch.tensor([2, 0, 2]).to(device)
    near, direction = (0.5 * rand(3, 20, 3, seed=i).to(device) for i in (1, 2))
    direction = torch.nn.functional.normalize(direction, dim=-1)
    out = volume.volume(grid, row, near, direction, samples=14, shift=2.0, gain=1.2, backend=backend)
    return with_gradients([out], [grid])


def run_modulate(device: str, backend: str) -> Results:
    found: Results = []
    for shape, groups, dtype in (
        ((3, 5, 4, 48), 1, torch.float32),
        ((2, 9, 112), 2, torch.float32),
        ((2, 7, 33), 1, torch.bfloat16),
    ):
        x = rand(*shape, seed=7).to(device, dtype).requires_grad_()
        told = None if groups > 1 else rand(shape[0], 2 * shape[-1], seed=1).to(device, dtype).requires_grad_()
        leaves = [x] if told is None else [x, told]
        for silu in (True, False):
            out = modulate.modulate(x, told, silu=silu, groups=groups, backend=backend)
            found += [y.float() for y in with_gradients([out.float()], leaves)]
    return found


@dataclass(frozen=True)
class Op:
    run: Callable[[str, str], Results]
    reads: int
    outliers: float = 0.0  # share of entries that may differ: at silhouettes and cut-offs
    tolerance: float = 2e-5


OPS = {
    "splat": Op(run_splat, splat.HOST_READS, 2e-3, 1e-4),
    "adam": Op(run_adam, adam.HOST_READS),
    "density": Op(run_density, density.HOST_READS, 2e-3),
    "adam groups": Op(run_adam_groups, adam_groups.HOST_READS),
    "hashgrid": Op(run_hashgrid, hashgrid.HOST_READS),
    "march with room": Op(run_march, 0),
    "march": Op(lambda device, backend: run_march(device, backend, None), march.HOST_READS),
    "surface": Op(
        run_surface,
        raster.HOST_READS + interpolate.HOST_READS + texture.HOST_READS + antialias.HOST_READS,
        2e-3,
        1e-4,  # of a mean of 11: each kernel is up to 5.8e-4 from the twin in float64, so two may be 1.2e-3 apart
    ),
    "raster behind": Op(run_raster_behind, raster.HOST_READS, 0.01),
    "sdf": Op(run_sdf, sdf.HOST_READS, 0.02, 4e-3),
    "seen": Op(run_seen, seen.HOST_READS, 0.01, 1e-4),
    "sky": Op(run_sky, sky.HOST_READS, 0.05),
    "volume": Op(run_volume, volume.HOST_READS),
    "modulate": Op(run_modulate, modulate.HOST_READS, 0.02, 5e-5),  # a bfloat16 may round the other way
}


@pytest.fixture
def device() -> Iterator[None]:
    with second_device():
        yield


def compare(ours: Results, theirs: Results, op: Op) -> None:
    assert all(isinstance(x, OnDevice) for x in ours) and not any(isinstance(x, OnDevice) for x in theirs)
    compare_numbers(ours, theirs, op)


def compare_numbers(ours: Results, theirs: Results, op: Op) -> None:
    assert len(ours) == len(theirs)
    for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        mine, other = mine.detach().cpu().double(), other.detach().cpu().double()
        scale = other.abs().mean().clamp(min=1e-6)
        wrong = (mine - other).abs() > op.tolerance * (other.abs() + scale)
        share = wrong.double().mean().item() if wrong.numel() else 0.0
        worst = (mine - other).abs().max() if wrong.numel() else 0.0
        assert share <= op.outliers, f"result {i}: {share:.1e} of it differ, worst {worst:.1e} of {scale:.1e}"


@pytest.mark.parametrize("name", OPS)
def test_kernels_agree_with_the_cpu_and_the_host_reads_what_is_allowed(name: str, device: None) -> None:
    op = OPS[name]
    for _ in range(room.PASSES if name == "splat" else 0):
        op.run("cuda", "native")
    with syncs(only_on_device=True) as found:
        ours = op.run("cuda", "native")
    assert len(found) == op.reads, found.report()
    compare(ours, op.run("cpu", "native"), op)


@pytest.mark.parametrize("name", OPS)
def test_twins_run_on_a_device_without_mixing(name: str, device: None) -> None:
    compare(OPS[name].run("cuda", "torch"), OPS[name].run("cpu", "torch"), Op(OPS[name].run, 0))


@pytest.mark.parametrize("name", ["adam", "volume", "modulate", "march", "splat"])
def test_without_kernels_auto_runs_the_twin_there(name: str, device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_failure", lambda op, index: "sm_999 is not known")
    monkeypatch.setattr(nvrtc, "launch", None)
    compare(OPS[name].run("cuda", "auto"), OPS[name].run("cpu", "torch"), Op(OPS[name].run, 0))
    with pytest.raises(ValueError, match="sm_999 is not known"):
        OPS[name].run("cuda", "native")


def test_a_cpu_tensor_in_a_cuda_call_is_one_line(device: None) -> None:
    grid, near = rand(1, 2, 2, 2, 2).cuda(), rand(1, 4, 3)
    with pytest.raises(ValueError, match="same dtype and device"):
        volume.volume(grid, torch.tensor([0]).cuda(), near, near.cuda(), samples=4)


def test_volume_sees_nothing_through_a_grid_that_is_not_there(device: None) -> None:
    grid, (near, direction) = (
        rand(2, 3, 3, 3, 4).cuda().requires_grad_(),
        (rand(5, 5, 3, seed=i).cuda() for i in (1, 2)),
    )
    row = torch.tensor([1, 2, -1, 1 << 40, -(1 << 62)]).cuda()
    out = volume.volume(grid, row, near, direction, samples=8)
    out.sum().backward()
    alone = volume.volume(grid.detach(), row[:1], near[:1], direction[:1], samples=8)
    assert torch.equal(out[:1].detach().cpu(), alone.cpu()) and alone.cpu().any()
    assert not out[1:].detach().cpu().any()
    assert grid.grad is not None and not grid.grad[0].cpu().any() and grid.grad[1].cpu().any()


def test_march_says_what_it_drops(device: None) -> None:
    for where in ("cpu", "cuda"):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            dropped = len(run_march(where, "native", None)[1]) - 70
            for _ in range(3):
                run_march(where, "native", 70)
        said = [str(w.message) for w in seen]
        assert said[0] == f"march: so far {dropped} intervals were dropped from the last rays; give it more capacity"
        assert len(said) <= 2, said


def test_the_device_does_not_mix(device: None) -> None:
    x, here = torch.ones(3, device="cuda"), torch.ones(3)
    for mix in (
        lambda: x + here,
        lambda: torch.stack([x, here]),
        lambda: x[torch.tensor([0, 1])],
        lambda: x.copy_(x * here),
    ):
        with pytest.raises(Mixed):
            mix()
    for read in (x.numpy, lambda: torch.ones(3).numpy() * x.numpy()):
        with pytest.raises(TypeError, match="to numpy"):
            read()
    assert x.device.type == "cuda" and (x * 2).is_cuda and x.cpu().device.type == "cpu"
    assert x.new_tensor([1.0]).is_cuda and torch.zeros_like(x).is_cuda and not x.to("cpu").is_cuda
    assert torch.equal((x + torch.tensor(2.0)).cpu(), here + 2)  # as on CUDA, a number may join
    with pytest.raises(Mixed):
        torch.rand(3, generator=torch.Generator(), device="cuda")
    assert torch.rand(3, generator=torch.Generator(device="cuda"), device="cuda").is_cuda
    assert isinstance(torch.Generator(), torch.Generator) and isinstance(torch.Generator("cuda"), torch.Generator)


def test_what_makes_the_host_wait_is_counted(device: None) -> None:
    x = torch.arange(6.0, device="cuda").requires_grad_()
    waits: dict[str, Callable[[], object]] = {
        "item": lambda: x.sum().item(),
        "tolist": lambda: x.tolist(),
        "nonzero": lambda: x.nonzero(),
        "unique": lambda: x.unique(),
        "index by a mask": lambda: x[x > 2],
        "copy to the CPU": lambda: x.detach().to("cpu"),
        "equal": lambda: torch.equal(x, x),
        "masked_select": lambda: x.masked_select(x > 2),
        "repeat_interleave without output_size": lambda: torch.repeat_interleave(torch.tensor([1, 2]).cuda()),
    }
    for name, wait in waits.items():
        with syncs(only_on_device=True) as found:
            wait()
        assert [what for what, _ in found] == [name], (name, found)
    with syncs(only_on_device=True) as found:
        bool(x.detach().sum() > 1), float(x.detach()[0]), int(x.detach()[1]), x.detach().cpu()
        torch.ones(3).sum().item(), torch.ones(3).tolist()
        torch.where(x > 2, x, 0.0).sum().backward()
        x.detach()[torch.tensor([1, 2]).cuda()]
        x.detach().masked_fill(x > 2, 0.0)
    assert len(found) == 4, found.report()
    with syncs() as found:
        torch.ones(3).sum().item(), torch.ones(3).tolist()
        here = torch.arange(3)
        here[here > 1] = torch.tensor([7])
    assert [what for what, _ in found] == ["item", "tolist", "index by a mask"]
