# SPDX-License-Identifier: Apache-2.0
"""splat: native against the twin forward and for every gradient, closed forms, determinism, registration."""

import ctypes
import math

import pytest
import torch

from cuda_ext import build
from cuda_ext.splat import SplatStats, Splatted, splat
from dreamlab.core.cameras import orbit

native = pytest.mark.skipif(build.compiler() is None, reason="needs a C++ compiler (g++ or clang++)")
PICTURES = ("rgb", "alpha", "depth", "normal", "extra")


def make_scene(count, seed=0, extra=0, sh=0, scale=0.06):
    g = torch.Generator().manual_seed(seed)
    scene = {
        "means": 0.5 * torch.randn(count, 3, generator=g),
        "quats": torch.randn(count, 4, generator=g),
        "scales": scale * (0.6 * torch.randn(count, 3, generator=g)).exp(),
        "opacities": 0.02 + 0.97 * torch.rand(count, generator=g),
        "colors": None if sh else torch.rand(count, 3, generator=g),
    }
    if sh:
        scene["sh"] = 0.5 * torch.randn(count, sh, 3, generator=g)
    if extra:
        scene["extra"] = torch.randn(count, extra, generator=g)
    return scene


def render(scene, backend, size=(50, 70), azimuths=(0.0, 110.0), stats=None, **options) -> Splatted:
    cameras = orbit(list(azimuths), 20.0)
    scene = dict(scene)
    first = [scene.pop(name) for name in ("means", "quats", "scales", "opacities", "colors")]
    focal = cameras.focal_px(size[0])
    return splat(*first, cameras.camera_to_world, focal, size, backend=backend, stats=stats, **scene, **options)


def gradients(scene, backend, pictures=PICTURES, **options):
    leaves = {k: v.clone().requires_grad_() for k, v in scene.items() if v is not None}
    out = render({**scene, **leaves}, backend, **options)
    g = torch.Generator().manual_seed(7)
    loss = torch.zeros(())
    for name in PICTURES:
        image = getattr(out, name)
        if image is None:
            continue
        weight = torch.randn(image.shape, generator=g)
        if name == "depth":
            weight = weight * out.alpha.detach()  # the expected depth of a nearly empty pixel is arbitrarily steep
        if name in pictures:
            loss = loss + (image * weight).sum()
    used = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return out, {
        name: g if g is not None else torch.zeros_like(leaves[name]) for name, g in zip(leaves, used, strict=True)
    }


def assert_close_except(ours, theirs, where, rtol=1e-4, atol=1e-5, outliers=2e-3):
    """Tight everywhere but for a bounded share of entries: those next to a hard cut-off may flip."""
    wrong = (ours - theirs).abs() > atol + rtol * theirs.abs()
    share = wrong.float().mean().item() if wrong.numel() else 0.0
    assert share <= outliers, f"{where}: {share:.2e} of the entries differ, worst {(ours - theirs).abs().max():.2e}"


def assert_gradients_match(ours, theirs):
    for name in theirs:
        scale = theirs[name].abs().mean().item()
        assert_close_except(ours[name], theirs[name], f"gradient of {name}", rtol=1e-3, atol=1e-3 * scale + 1e-7)
        error = (ours[name] - theirs[name]).norm() / (theirs[name].norm() + 1e-12)
        assert error < 1e-3, f"gradient of {name}: relative L2 error {error:.2e}"


CASES = {
    "colours": ({}, {}),
    "background": ({}, {"background": torch.tensor([[0.2, 0.5, 0.9], [1.0, 1.0, 1.0]])}),
    "sh0": ({"sh": 1}, {}),
    "sh1": ({"sh": 4}, {"compensate": True}),
    "sh2 and extra": ({"sh": 9, "extra": 3}, {"dilation": 0.1}),
    "sh3 and much extra": ({"sh": 16, "extra": 17}, {"compensate": True}),
    "sh4": ({"sh": 25}, {}),
    "off the centre": ({}, {"principal_px": torch.tensor([[50.0, 15.0], [10.0, 40.0]]), "compensate": True}),
    "large splats": ({"scale": 0.5}, {}),
    "thin splats": ({"scale": 0.004}, {"compensate": True}),
    "clipped by near": ({"scale": 0.2}, {"near": 2.9}),
}


@native
@pytest.mark.parametrize("name", CASES)
def test_native_matches_twin(name):
    scene_options, options = CASES[name]
    scene = make_scene(300, **scene_options)
    ours, our_grads = gradients(scene, "native", **options)
    twin, twin_grads = gradients(scene, "torch", **options)
    for picture in PICTURES:
        if getattr(twin, picture) is not None:
            assert_close_except(getattr(ours, picture), getattr(twin, picture), picture)
    assert_close_except(ours.radii, twin.radii, "radii", outliers=0.01)
    assert (ours.visible != twin.visible).sum() <= 1
    assert_gradients_match(our_grads, twin_grads)


@native
@pytest.mark.parametrize("pictures", [("rgb",), ("alpha",), ("depth",), ("normal",), ("extra",)], ids=lambda p: p[0])
def test_a_loss_on_one_picture_alone(pictures):
    scene = make_scene(120, extra=2)
    _, ours = gradients(scene, "native", pictures)
    _, twin = gradients(scene, "torch", pictures)
    assert_gradients_match(ours, twin)


@native
def test_gradient_of_the_background():
    scene, background = make_scene(60), torch.rand(2, 3)
    grads = []
    for backend in ("native", "torch"):
        leaf = background.clone().requires_grad_()
        render(scene, backend, background=leaf).rgb.square().sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@native
def test_a_tile_with_more_splats_than_a_chunk_and_opaque_ones():
    g = torch.Generator().manual_seed(3)
    scene = make_scene(1500, seed=3, scale=0.05)
    scene["means"] = 0.08 * torch.randn(1500, 3, generator=g)
    scene["opacities"] = torch.where(torch.rand(1500, generator=g) < 0.3, 1.0, scene["opacities"])
    ours, our_grads = gradients(scene, "native", size=(40, 40))
    twin, twin_grads = gradients(scene, "torch", size=(40, 40))
    assert_close_except(ours.rgb, twin.rgb, "rgb")
    assert_gradients_match(our_grads, twin_grads)


@native
def test_stats_are_the_same_and_add_up():
    scene = make_scene(200)
    sums = {}
    for backend in ("native", "torch"):
        stats = SplatStats.zeros(200)
        for _ in range(2):
            gradients(scene, backend, ("rgb",), stats=stats)
        sums[backend] = stats
    torch.testing.assert_close(sums["native"].grad_norm, sums["torch"].grad_norm, rtol=1e-3, atol=1e-3)
    assert (sums["native"].count != sums["torch"].count).sum() <= 1
    assert sums["native"].count.max() == 4  # two views, two passes
    torch.testing.assert_close(sums["native"].radius_max, sums["torch"].radius_max, rtol=1e-4, atol=1e-3)


def test_stats_measure_the_gradient_of_the_projected_mean():
    """A splat moved parallel to the picture by one pixel's worth: the chain rule by hand, in float64."""
    cameras = orbit([0.0], 0.0).to(dtype=torch.float64)
    size, focal = (64, 64), cameras.focal_px(64)
    mean = torch.tensor([[0.1, -0.05, 0.0]], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    stats = SplatStats.zeros(1, dtype=torch.float64)
    ramp = torch.linspace(0, 1, 64, dtype=torch.float64)
    # Small and round, so that moving the mean sideways changes nothing but the projected mean (to first order).
    out = splat(
        mean, torch.eye(4, dtype=torch.float64)[:1], 1e-4 * torch.ones(1, 3, dtype=torch.float64), 0.5 * one,
        torch.ones(1, 3, dtype=torch.float64), cameras.camera_to_world, focal, size, dilation=4.0, stats=stats,
    )  # fmt: skip
    (out.alpha[0, :, :, 0] * ramp[None, :]).sum().backward()
    distance = cameras.distance[0]
    by_pixel = mean.grad[0, 0] * distance / focal[0]  # d loss / d u
    torch.testing.assert_close(stats.grad_norm[0], by_pixel.abs() * 32, rtol=1e-3, atol=1e-6)


def closed_form(scale, opacity, backend, **options):
    """One splat in the middle of the picture, seen from the front at distance 3."""
    cameras = orbit([0.0], 0.0)
    size, focal = (128, 128), cameras.focal_px(128)
    out = splat(
        torch.zeros(1, 3), torch.tensor([[2.0, 0.0, 0.0, 0.0]]), torch.tensor([scale]), torch.tensor([opacity]),
        torch.tensor([[0.2, 0.4, 0.8]]), cameras.camera_to_world, focal, size, backend=backend, **options,
    )  # fmt: skip
    return out, focal.item() / 3.0


@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=native)])
def test_integral_of_one_gaussian(backend):
    out, px = closed_form([0.06, 0.03, 0.01], 0.8, backend)
    det = ((0.06 * px) ** 2 + 0.3) * ((0.03 * px) ** 2 + 0.3)
    exact = 2 * math.pi * math.sqrt(det) * (0.8 - 1 / 255)  # of alpha where it exceeds 1/255
    assert out.alpha.sum().item() == pytest.approx(exact, rel=5e-3)
    assert out.rgb.sum().item() == pytest.approx(exact * 1.4, rel=5e-3)
    shown = out.alpha[..., 0] > 0
    torch.testing.assert_close(out.depth[..., 0][shown], torch.full((int(shown.sum()),), 3.0), rtol=1e-4, atol=1e-4)
    # The shortest axis is z and turned to the camera, which stands on +z.
    torch.testing.assert_close(out.normal, out.alpha * torch.tensor([0.0, 0.0, 1.0]), rtol=1e-5, atol=1e-5)
    reach = math.sqrt(2 * math.log(255 * 0.8) * ((0.06 * px) ** 2 + 0.3))
    assert out.radii.item() == pytest.approx(reach, rel=1e-4)


@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=native)])
def test_compensation_makes_the_integral_independent_of_the_dilation(backend):
    wide = [closed_form([0.05, 0.05, 0.05], 0.9, backend, compensate=True, dilation=d)[0] for d in (0.0, 2.0)]
    sharp, blurred = (out.alpha.sum().item() for out in wide)
    assert blurred == pytest.approx(sharp, rel=0.02)


@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=native)])
def test_the_nearer_splat_hides_the_farther(backend):
    cameras = orbit([0.0, 180.0], 0.0)
    means = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, -0.5]])
    out = splat(
        means, torch.eye(4)[:1].expand(2, 4), torch.full((2, 3), 0.3), torch.tensor([0.6, 0.7]), torch.eye(3)[:2],
        cameras.camera_to_world, cameras.focal_px(65), (65, 65), backend=backend,
    )  # fmt: skip
    centre = out.rgb[:, 32, 32]
    torch.testing.assert_close(centre[0], torch.tensor([0.6, 0.4 * 0.7, 0.0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(centre[1], torch.tensor([0.3 * 0.6, 0.7, 0.0]), rtol=1e-4, atol=1e-5)


@native
def test_same_bits_twice_and_for_any_thread_count():
    scene = make_scene(500, extra=2)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2, 3):
            torch.set_num_threads(count)
            out, grads = gradients(scene, "native")
            results.append([getattr(out, p) for p in PICTURES] + list(grads.values()))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@native
def test_without_gradients_the_picture_is_the_same_to_the_bit():
    scene = make_scene(400, extra=9, scale=0.2)
    out, _ = gradients(scene, "native")
    bare = render(scene, "native")
    assert all(torch.equal(getattr(out, p), getattr(bare, p)) for p in (*PICTURES, "radii", "visible"))


@native
@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_other_instruction_sets_agree(isa, monkeypatch):
    if build.machine_isa() not in ("avx512", isa):
        pytest.skip(f"this processor cannot run {isa}")
    scene = make_scene(200, extra=1)
    here, here_grads = gradients(scene, "native")
    monkeypatch.setenv("DREAMLAB_ISA", isa)
    build.library.cache_clear()
    try:
        there, there_grads = gradients(scene, "native")
    finally:
        build.library.cache_clear()
    assert_close_except(there.rgb, here.rgb, "rgb")
    assert_gradients_match(there_grads, here_grads)


@native
@pytest.mark.parametrize("isa", [None, "portable"])
def test_error_bounds_of_exp2_and_log2(isa):
    lib = ctypes.CDLL(str(build.build("splat", isa)))
    x = torch.linspace(-124.0, 20.0, 1 << 16)
    positive = torch.exp2(torch.linspace(-125.0, 20.0, 1 << 16))
    out, spare = torch.empty_like(x), torch.empty_like(x)
    lib.dl_simd_exp2_log2(*(ctypes.c_void_p(t.data_ptr()) for t in (x, out, spare)), ctypes.c_int64(len(x)))
    assert ((out.double() / torch.exp2(x.double())) - 1).abs().max() < 3e-7
    lib.dl_simd_exp2_log2(*(ctypes.c_void_p(t.data_ptr()) for t in (positive, spare, out)), ctypes.c_int64(len(x)))
    exact = torch.log2(positive.double())
    assert ((out.double() - exact).abs() / exact.abs().clamp(min=1)).max() < 3e-7


@native
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_nothing_to_draw(backend):
    background = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    out = render(make_scene(0), backend, background=background)
    assert torch.equal(out.rgb, background[:, None, None].expand(2, 50, 70, 3))
    assert out.alpha.sum() == 0 and out.depth.sum() == 0 and out.visible.shape == (0,)
    scene = make_scene(10)
    scene["means"] = scene["means"] + torch.tensor([0.0, 100.0, 0.0])  # all out of sight
    out, grads = gradients(scene, backend)
    assert out.alpha.sum() == 0 and not out.visible.any()
    assert all(not g.any() for g in grads.values())
    no_views = orbit([], 0.0)
    first = [make_scene(5)[k] for k in ("means", "quats", "scales", "opacities", "colors")]
    out = splat(*first, no_views.camera_to_world, no_views.focal_px(8), (8, 8), backend=backend)
    assert out.rgb.shape == (0, 8, 8, 3) and not out.visible.any()


@native
def test_the_op_is_registered_soundly_and_compiles():
    scene = make_scene(30)
    cameras = orbit([0.0, 60.0], 20.0)
    tensors = [scene[k].requires_grad_() for k in ("means", "quats", "scales", "opacities", "colors")]
    rest = (cameras.camera_to_world, cameras.focal_px(20))
    torch.library.opcheck(
        torch.ops.dreamlab.splat, (*tensors, None, None, None, None, *rest, True, 20, 20, 0.3, False, 0.05)
    )

    def loss(*scene):
        return splat(*scene, *rest, (20, 20)).rgb.square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    plain = torch.autograd.grad(loss(*tensors), tensors)
    traced = torch.autograd.grad(compiled(*tensors), tensors)
    assert all(torch.equal(a, b) for a, b in zip(plain, traced, strict=True))


def test_errors_say_what_and_what_is_allowed():
    scene = make_scene(4)
    with pytest.raises(ValueError, match=r"quats must be \[4, 4\], got \[3, 4\]"):
        render({**scene, "quats": scene["quats"][:3]}, "torch")
    with pytest.raises(ValueError, match="either colors"):
        render({**scene, "sh": torch.zeros(4, 1, 3)}, "torch")
    with pytest.raises(ValueError, match="1, 4, 9, 16 or 25"):
        render({**scene, "colors": None, "sh": torch.zeros(4, 5, 3)}, "torch")
    with pytest.raises(ValueError, match="same dtype and device"):
        render({**scene, "means": scene["means"].double()}, "torch")
    with pytest.raises(ValueError, match=r"float32.*torch\.float64"):
        cameras = orbit([0.0], 0.0).to(dtype=torch.float64)
        first = [scene[k].double() for k in ("means", "quats", "scales", "opacities", "colors")]
        splat(*first, cameras.camera_to_world, cameras.focal_px(8), (8, 8), backend="native")
    with pytest.raises(ValueError, match="not one of auto, native, torch"):
        render(scene, "fast")
