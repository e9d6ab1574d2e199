# SPDX-License-Identifier: Apache-2.0
"""Zero123++ from a tiny folder in its layout, against a twin that is written from the facts in torch alone around the
library's own networks: pictures put together by hand, attention by softmax, its own sampler's step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.types import Condition, Prompt
from guidance.latent.pictures import MEAN, STD
from guidance.layouts import LAYOUTS
from guidance.layouts.build import construct
from guidance.layouts.calls import flops
from guidance.zero123plus import AZIMUTHS, ELEVATIONS, ReferenceAttention, Referring, Zero123Plus
from tests.guidance.pretrained import frames, made, spied
from tests.guidance.test_zero123 import reference

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra `models`)")

SIDE = 32  # pixels of a view
GIVEN = reference(azimuth=0.0, size=80)


def six() -> Cameras:
    return orbit([30.0, 90.0, 150.0, 210.0, 270.0, 330.0], [20.0, -10.0] * 3, 3.7, 30.0)


@pytest.fixture(scope="module")
def folder(random_folder: Callable[..., Path]) -> Path:
    return random_folder("zero123plus")


@pytest.fixture(scope="module")
def model(folder: Path) -> Zero123Plus:
    return built(folder)


def built(folder: Path, **settings: object) -> Zero123Plus:
    mine: Zero123Plus = made(Zero123Plus, folder, size=SIDE, **settings)
    return mine


def told(model: Zero123Plus, groups: int = 1) -> dict[str, Condition]:
    cameras = six()[torch.arange(6).repeat(groups)]
    return dict(model.condition(Prompt("unheard", image=GIVEN), cameras, frames(6 * groups)))


# ---- the twin --------------------------------------------------------------------------------------------------------
def put_together(views: Tensor) -> Tensor:
    """[6, H, W, 3] in [0, 1] -> [1, 3, 3 H, 2 W], (x - 1/2) / 0.8: the first two views above, the last two below."""
    side = views.shape[1]
    canvas = torch.zeros(1, 3, 3 * side, 2 * side, dtype=views.dtype)
    for i, (top, left) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]):
        place = (slice(top * side, (top + 1) * side), slice(left * side, (left + 1) * side))
        canvas[0, :, *place] = (views[i].permute(2, 0, 1) - 0.5) / 0.8
    return canvas


def straight_encode(folder: Path, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").to(dtype).eval()

    def encode(views: Tensor) -> Tensor:
        z = vae.encode(put_together(views)).latent_dist.mode() * 0.18215
        return (z - 0.22) * 0.75

    return encode


def by_softmax(attn: Any, x: Tensor, seen: Tensor) -> Tensor:
    """One head after the other."""
    q, k, v = attn.to_q(x), attn.to_k(seen), attn.to_v(seen)
    width = q.shape[-1] // attn.heads
    heads = []
    for h in range(attn.heads):
        own = slice(h * width, (h + 1) * width)
        weight = (q[..., own] @ k[..., own].transpose(1, 2) / width**0.5).softmax(-1)
        heads.append(weight @ v[..., own])
    return attn.to_out[0](torch.cat(heads, -1))


@contextmanager
def looking(unet: Any, act: Callable[[str, Any, Tensor], Tensor]) -> Iterator[None]:
    """Every self-attention of the library's network answers by `act`."""
    for name, module in unet.named_modules():
        if name.endswith("attn1"):
            module.forward = lambda x, *_, name=name, module=module, **__: act(name, module, x)
    yield
    for name, module in unet.named_modules():
        if name.endswith("attn1"):
            del module.forward


def two_passes(unet: Any, noisy: Tensor, noisy_given: Tensor, t: int, words: Tensor) -> Tensor:
    """What the network says of the six views when its attention also sees what it had of the given picture."""
    kept: dict[str, Tensor] = {}

    def note(name: str, attn: Any, x: Tensor) -> Tensor:
        kept[name] = x
        return by_softmax(attn, x, x)

    with torch.no_grad():
        with looking(unet, note):
            unet(noisy_given, t, words)
        with looking(unet, lambda name, attn, x: by_softmax(attn, x, torch.cat([x, kept[name]], 1))):
            said: Tensor = unet(noisy, t, words)[0]
    assert len(kept) == 4  # both sides and the middle of the tiny network
    return said


def straight_words(folder: Path) -> tuple[Tensor, Tensor]:
    """The empty text, with the picture and without."""
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    tower = transformers.CLIPVisionModelWithProjection.from_pretrained(
        folder / "vision_encoder", dtype=torch.float32
    ).eval()
    ids = tokenizer("", padding="max_length", max_length=77, return_tensors="pt").input_ids
    over = GIVEN.rgb * GIVEN.alpha + 127 / 255 * (1 - GIVEN.alpha)
    small = F.interpolate(over.permute(2, 0, 1)[None], (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    ramp = torch.tensor(json.loads((folder / "model_index.json").read_text())["ramping_coefficients"])
    with torch.no_grad():
        empty, seen = text(ids).last_hidden_state, tower((small - mean) / std).image_embeds
    return empty + ramp[:, None] * seen[:, None], empty


def straight_given(folder: Path) -> tuple[Tensor, Tensor]:
    """Latents of the given picture and of a gray one, not scaled."""
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
    over = GIVEN.rgb * GIVEN.alpha + 127 / 255 * (1 - GIVEN.alpha)
    shown = F.interpolate(over.permute(2, 0, 1)[None], (320, 320), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        picture, gray = ((shown - 0.5) / 0.8, torch.zeros(1, 3, 320, 320))
        return tuple(vae.encode(x).latent_dist.mode() for x in (picture, gray))  # type: ignore[return-value]


def test_a_step_of_its_own_sampler(folder: Path, model: Zero123Plus) -> None:
    """All that goes in and comes out: Euler ancestral with trailing times, v, guidance 4 from the gray picture."""
    scheduler = diffusers.EulerAncestralDiscreteScheduler.from_pretrained(
        folder / "scheduler", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(5)
    t = int(scheduler.timesteps[2])
    assert scheduler.timesteps.tolist() == [999, 799, 599, 399, 199]
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    scheduler.step(torch.zeros(1), scheduler.timesteps[0], torch.zeros(1))  # it counts
    scheduler.step(torch.zeros(1), scheduler.timesteps[1], torch.zeros(1))
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 4, 3 * SIDE // 8, 2 * SIDE // 8, generator=generator) * scheduler.sigmas[2]
    z_t = scheduler.scale_model_input(x, scheduler.timesteps[2])
    said, noise = told(model), told(model)["text"].shared["noise"]
    v = {}
    for name, words, given in zip(("text", "null"), straight_words(folder), straight_given(folder), strict=True):
        noisy = scheduler.add_noise(given, noise[t % len(noise)][None], scheduler.timesteps[2:3])
        noisy = noisy / (scheduler.sigmas[2] ** 2 + 1) ** 0.5
        v[name] = two_passes(unet, z_t, noisy, t, words)
        rows = said[name].rows
        torch.testing.assert_close(rows["text"], words, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(rows["beside"], given, rtol=1e-3, atol=1e-4)
    guided = v["null"] + 4 * (v["text"] - v["null"])
    theirs = scheduler.step(guided, scheduler.timesteps[2], x).pred_original_sample
    both = Condition.cat([said["null"], said["text"]])
    null, text = model.predict(z_t.repeat(2, 1, 1, 1), torch.full((2,), t), both).chunk(2)
    mine = model.table.x0(z_t, null + 4 * (text - null), torch.tensor([t]))
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    assert (v["text"] - v["null"]).abs().max() > 1e-2


def test_six_views_are_one_picture_there_and_back(folder: Path, model: Zero123Plus) -> None:
    views = torch.rand(12, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(1))
    z, encode = model.encode(views), straight_encode(folder, torch.float32)
    assert z.shape == (2, 4, 3 * SIDE // 8, 2 * SIDE // 8)
    for k in range(2):
        torch.testing.assert_close(z[k : k + 1], encode(views[6 * k : 6 * k + 6]), rtol=1e-3, atol=1e-4)
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
    with torch.no_grad():
        canvas = vae.decode((z / 0.75 + 0.22) / 0.18215).sample * 0.8 + 0.5
    seen = model.decode(z)
    assert seen.shape == views.shape
    for i, (top, left) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]):
        tile = canvas[1, :, top * SIDE : (top + 1) * SIDE, left * SIDE : (left + 1) * SIDE]
        torch.testing.assert_close(seen[6 + i], tile.permute(1, 2, 0).clamp(0, 1), rtol=1e-3, atol=1e-3)


def test_the_gradient_of_every_view(folder: Path, model: Zero123Plus) -> None:
    """Against differences in float64 of the picture put together by hand."""
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(6, SIDE, SIDE, 3, generator=generator)
    along = torch.randn(rgb.shape, generator=generator)
    leaf = rgb.clone().requires_grad_()
    z = model.encode(leaf)
    towards = torch.randn(z.shape, generator=generator)
    (z * towards).sum().backward()
    assert leaf.grad is not None and (leaf.grad.flatten(1).abs().amax(1) > 1e-5).all()
    assert torch.equal(model.encode(rgb), z)  # the mode; a sample would differ
    encode, step = straight_encode(folder, torch.float64), 1e-5
    with torch.no_grad():
        ends = [(encode(rgb.double() + sign * step * along) * towards).sum() for sign in (1, -1)]
    slope = float(ends[0] - ends[1]) / (2 * step)
    assert float((leaf.grad * along).sum()) == pytest.approx(slope, rel=1e-3)


def test_the_noise_of_a_model_of_linear_betas(model: Zero123Plus) -> None:
    """Published anchors (alpha_bar at 0, 500, 999), and v."""
    bar = model.table.alpha_bar
    assert [float(bar[t]) for t in (0, 500, 999)] == pytest.approx([0.99914998, 0.16077162, 0.0015789628], rel=1e-4)
    assert model.clock.form == "v"


def test_where_its_cameras_stand() -> None:
    """Both conventions; azimuth 90 is the object's left, seen from +X."""
    for name, low_high in (("v1.1", (30.0, -20.0)), ("v1.2", (20.0, -10.0))):
        stands = Zero123Plus.card(Zero123Plus.Settings(version=name)).stands
        assert [stand.azimuth_deg for stand in stands] == [30, 90, 150, 210, 270, 330]
        assert [stand.elevation_deg for stand in stands] == [*low_high] * 3
    assert Zero123Plus.card(Zero123Plus.Settings()).stands[0].elevation_deg == 20
    old = Zero123Plus.Settings(model="/models/zero123plus-v1.1")
    assert Zero123Plus.card(old).stands[1].elevation_deg == -20
    at = orbit([AZIMUTHS[1]], ELEVATIONS["v1.2"][1], 2.0).camera_to_world[0, :3, 3]
    assert at[0] > 1.9 and at[1] < 0 and abs(at[2]) < 1e-5


def test_the_answer_is_one_of_what_it_is_told(folder: Path, model: Zero123Plus) -> None:
    """Asked in one call or in two, and again after another time: nothing of a call is left in the next. The noise on
    the given picture is of the time, and of a seed."""
    z = torch.randn(2, 4, 12, 8, generator=torch.Generator().manual_seed(4))
    t, rows = torch.tensor([700, 200]), Condition.cat([told(model)["null"], told(model)["text"]])
    with spied(model.module) as calls:
        whole = model.predict(z, t, rows)
    # both rows in one call, the given picture's first and the views' then, and nothing else is asked of the network
    assert [tuple(given["sample"].shape) for given, _ in calls] == [(2, 4, 40, 40), (2, 4, 12, 8)]
    single = [model.predict(z[i : i + 1], t[i : i + 1], rows.take([i])) for i in (1, 0)]
    torch.testing.assert_close(whole, torch.cat(single[::-1]), rtol=1e-4, atol=1e-5)
    assert not model.referring.noted
    other = built(folder, picture_seed=1)
    moved = other.predict(z, t, Condition.cat([told(other)["null"], told(other)["text"]]))
    assert (moved - whole).abs().max() > 1e-4
    assert torch.equal(told(built(folder))["text"].shared["noise"], told(model)["text"].shared["noise"])


def test_a_call_at_full_size_does_two_passes_and_no_more() -> None:
    """Operations on the meta device: a picture of 960 x 640, one of 320, and attention's longer look at five layers of
    each of three widths and one in the middle: 4 L R C of scores and sums, 4 R C^2 of keys and values."""
    net, referring = construct(LAYOUTS["zero123plus"].part("unet"), "full"), Referring()
    net.set_attn_processor(  # type: ignore[operator]
        {
            name: ReferenceAttention(referring, name) if "attn1" in name else other
            for name, other in net.attn_processors.items()  # type: ignore[union-attr, operator]
        }
    )
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        words, time = torch.randn(1, 77, 1024), torch.randn(1)
        with referring.first():
            net(torch.randn(1, 4, 40, 40), time, words)
        net(torch.randn(1, 4, 120, 80), time, words)
    looks = [(5, 9600, 1600, 320), (5, 2400, 400, 640), (5, 600, 100, 1280), (1, 150, 25, 1280)]
    longer = sum(n * (4 * tokens * given * c + 4 * given * c * c) for n, tokens, given, c in looks)
    parts = flops("zero123plus", "unet", 120, 80) + flops("zero123plus", "unet", 40, 40)
    assert counter.get_total_flops() == pytest.approx(parts + longer, rel=1e-5)


@pytest.mark.release
def test_a_compiled_network_keeps_what_it_noted(folder: Path, model: Zero123Plus) -> None:
    """Traced whole; what the first pass notes is there in the second, at every call."""
    mine = built(folder)
    mine.net = torch.compile(mine.module, fullgraph=True, backend="eager")
    z, rows = torch.randn(1, 4, 12, 8, generator=torch.Generator().manual_seed(4)), told(mine)["text"]
    for t in (torch.tensor([700]), torch.tensor([200])):
        torch.testing.assert_close(
            mine.predict(z, t, rows), model.predict(z, t, told(model)["text"]), rtol=1e-4, atol=1e-5
        )


def test_what_it_is_not_is_one_line(
    folder: Path, model: Zero123Plus, random_folder: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="follows a picture and the prompt has none"):
        model.condition(Prompt("unheard"), six(), frames(6))
    with pytest.raises(InputError, match="looks at 6 views together, and 4 came"):
        model.encode(torch.zeros(4, SIDE, SIDE, 3))
    with pytest.raises(ModelError, match=r"is a StableDiffusionPipeline .*, not Zero123PlusPipeline"):
        built(random_folder("sd15"))

    def changed(name: str, **values: object) -> Path:
        copy = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folder, copy)
        (copy / name).write_text(json.dumps({**json.loads((copy / name).read_text()), **values}))
        return copy

    with pytest.raises(ModelError, match="has no ramping_coefficients, and 77 are needed"):
        built(changed("model_index.json", ramping_coefficients=None))
    with pytest.raises(ModelError, match="has 3 ramping_coefficients"):
        built(changed("model_index.json", ramping_coefficients=[0.0] * 3))
    with pytest.raises(ModelError, match=r"scheduler: predicts eps; Zero123\+\+ predicts v"):
        built(changed("scheduler/scheduler_config.json", prediction_type="epsilon"))
    odd = built(changed("feature_extractor_vae/preprocessor_config.json", image_std=[0, 0, 0]))
    with pytest.raises(ModelError, match=r"feature_extractor_vae: .*not of a picture"):
        told(odd)
    old = changed("model_index.json")
    for part, stem in (("unet", "diffusion_pytorch_model"), ("vision_encoder", "pytorch_model")):  # as v1.1 is
        (file,) = (old / part).glob("*.safetensors")
        torch.save(load_file(file), old / part / f"{stem}.bin")
        file.unlink()
    with pytest.raises(ModelError, match=r"unet: no \.safetensors; it holds the pickle diffusion_py"):
        built(old)
    with pytest.raises(ModelError, match=r"vision_encoder: no \.safetensors; it holds the pickle"):
        told(built(old, legacy="diffusion_pytorch_model.bin"))
    again = told(built(old, legacy="diffusion_pytorch_model.bin, pytorch_model.bin"))
    torch.testing.assert_close(again["text"].rows["text"], told(model)["text"].rows["text"])
    bare = changed("model_index.json")
    shutil.rmtree(bare / "vision_encoder")
    with pytest.raises(ModelError, match="vision_encoder: no such folder"):
        told(built(bare))
