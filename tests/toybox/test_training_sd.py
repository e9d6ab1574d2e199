# SPDX-License-Identifier: Apache-2.0
"""The small Stable Diffusion's parts, each against something independent, and its folder as its users load it."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers", reason="the small Stable Diffusion is built of diffusers' classes")
pytest.importorskip("transformers", reason="its text encoder and tokenizer are those of transformers")

from dreamlab.core.cameras import orbit
from dreamlab.core.errors import InputError, ModelError, RecipeError
from dreamlab.core.types import Frames, Prompt
from dreamlab.hub.within import write_alone
from dreamlab.toybox import caption as world
from dreamlab.toybox.colours import linear
from dreamlab.toybox.shapes import CATEGORIES
from dreamlab.toybox.split import held_out_combination
from dreamlab.toybox.training.command import begin
from dreamlab.toybox.training.data import program_of
from dreamlab.toybox.training.sd import command, meaning
from dreamlab.toybox.training.sd.control import ControlCourse
from dreamlab.toybox.training.sd.folder import PARTS, read_base, read_vae, write_pipeline
from dreamlab.toybox.training.sd.latents import EVERY, LatentCache, LatentGroups
from dreamlab.toybox.training.sd.norms import RowGroupNorm
from dreamlab.toybox.training.sd.scenes import SIDES, draw_orbits, draw_shelf
from dreamlab.toybox.training.sd.shapes import WORDS, Model
from dreamlab.toybox.training.sd.tokens import read_tokenizer, write_tokenizer
from dreamlab.toybox.training.sd.unet import ToldLatents, UnetCourse, UnetPlan
from dreamlab.toybox.training.sd.vae import VaeCourse, as_input, encoded, pieces
from dreamlab.toybox.training.sd.view_words import view_words
from dreamlab.toybox.training.trainer import LOG, STATE
from guidance.controlnet import ControlNet
from guidance.latent.joint import told
from guidance.mvdream import MultiViewDream
from guidance.sd import StableDiffusion
from guidance.toybox.prior import SHIPPED, folder_of

SHELF = 4


@pytest.fixture(scope="module")
def vae_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder after two tiny steps."""
    folder = tmp_path_factory.mktemp("sd-vae")
    course = command.started(folder, "sd-vae", Path("nothing"), {"batch": 16})
    for _ in range(2):
        course.train_step()
    course.save()
    return folder


@pytest.fixture(scope="module")
def handed(vae_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """vae/ and tokenizer/ as a U-Net's run finds them, and the scale of the latents."""
    folder = tmp_path_factory.mktemp("handed")
    return folder, command.hand_over(vae_run, folder)


def unet_course(handed: tuple[Path, float], views: int, texts: int = 0) -> UnetCourse:
    folder, scale = handed
    latents = str(folder / "latents")
    plan = UnetPlan(batch=8, warmup=1, views=views, scale=scale, latents=latents, texts=texts)
    return UnetCourse(folder, plan, shelf=SHELF)


@pytest.fixture(scope="module")
def trained(handed: tuple[Path, float]) -> UnetCourse:
    """Four views after three steps: no branch is silent any more."""
    course = unet_course(handed, SIDES)
    for _ in range(3):
        course.train_step()
    return course


@pytest.fixture(scope="module")
def pipeline(trained: UnetCourse, handed: tuple[Path, float], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pipeline")
    write_pipeline(out, "MVDreamPipeline", trained.net, handed[0] / "vae", handed[0] / "tokenizer")
    return out


class Never(random.Random):
    """Dice by which nothing is left out."""

    def random(self) -> float:
        return 0.999


class Ever(random.Random):
    """Dice by which everything is said and nothing left out."""

    def random(self) -> float:
        return 0.5


class Answering(nn.Module):
    """A network that says always the same."""

    def __init__(self, said: Tensor) -> None:
        super().__init__()
        self.said = said

    def forward(self, *_: object, **__: object) -> Model:
        return type("Found", (), {"sample": self.said})


def rounded(net: Model) -> Model:
    """The same network with the weights that a half-precision file can hold."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.half().float())
    return net


def test_every_word_of_the_world_is_one_token_of_transformers(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    words = {word for text in world.VOCABULARY for word in text.split()}
    assert len(words) > 300
    assert [word for word in sorted(words) if len(tokenizer(word).input_ids) != 3] == []
    assert len({tokenizer(word).input_ids[1] for word in words}) == len(words)


def test_any_text_comes_back_and_the_last_token_pads(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    for text in ("a white-stemmed red mushroom, front view", "zebra xylophone quartz 42!", "f\u00fcr \u96ea"):
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids[1:-1]).replace(" ", "") == text.replace(" ", "")
    ids = tokenizer("a duck", padding="max_length", truncation=True).input_ids
    top = len(tokenizer) - 1
    assert len(ids) == WORDS == tokenizer.model_max_length
    assert ids[0] == top - 1 and ids[3:] == [top] * (WORDS - 3)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"


def test_words_of_view_follow_the_thresholds() -> None:
    said = view_words(orbit([10.0, 90.0, -170.0, 0.0], [0.0, 0.0, 0.0, 70.0]))
    assert said == [", front view", ", side view", ", back view", ", overhead view"]


def test_group_norms_gradient_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(3, 12, 5, 4, generator=generator)
    up = torch.randn(x.shape, generator=generator)
    ours = RowGroupNorm(3, 12)
    with torch.no_grad():
        ours.weight.normal_(generator=generator)
        ours.bias.normal_(generator=generator)
    theirs = nn.GroupNorm(3, 12).double()
    theirs.load_state_dict(ours.state_dict())

    def gradients(net: nn.Module, at: Tensor) -> list[Tensor]:
        at = at.clone(memory_format=torch.channels_last).requires_grad_()
        y = net(at)
        return [y, *torch.autograd.grad(y, [at, *net.parameters()], up.to(y))]

    for found, wanted in zip(gradients(ours, x), gradients(theirs, x.double()), strict=True):
        assert (found - wanted).abs().max() < 2e-5 * wanted.abs().max().clamp(min=1)


def test_shelves_hold_the_training_split_and_come_back_the_same() -> None:
    shelf, again = draw_shelf(3, 1, 24), draw_shelf(3, 1, 24)
    assert torch.equal(shelf.rgb, again.rgb) and shelf.texts == again.texts
    assert not torch.equal(shelf.orbits, draw_shelf(3, 2, 24).orbits)
    for text in shelf.texts:
        caption = world.parse(text)
        parts = world.CATEGORIES[caption.category].nameable
        second = caption.colours[parts[1]] if len(parts) > 1 else None
        assert not held_out_combination(caption.category, caption.colours[parts[0]], second), text
    turns = shelf.orbits[:, :, 0].diff(dim=1)
    assert torch.allclose(turns, torch.full_like(turns, 90.0), atol=1e-3)
    assert torch.equal(shelf.orbits[:, :1, 1:].expand(-1, SIDES, -1), shelf.orbits[:, :, 1:])


@pytest.mark.parametrize("size", [32, 64, 128])
def test_pieces_are_cuts_of_pictures_before_colours(size: int) -> None:
    found = pieces(0, 5, 16, size)
    assert found.shape == (16, 3, size, size) and found.min() >= -1 and found.max() <= 1
    corners = found[:, :, 0, 0]
    assert len({tuple(corner.tolist()) for corner in corners}) > 8  # each before its own


def test_cache_is_made_again_as_it_was(handed: tuple[Path, float], tmp_path: Path) -> None:
    vae = read_vae(handed[0] / "vae").eval()
    cache = LatentCache(tmp_path, vae, 0, shelf=2, first=1)
    assert cache.reach(0) == 2 and cache.reach(EVERY - 1) == 2 and cache.reach(EVERY) == 4
    with ThreadPoolExecutor(2) as lanes:
        cache.grow(EVERY, lanes)
        taken = cache.take(torch.tensor([3, 0]))
        (tmp_path / "00001.safetensors").unlink()
        again = LatentCache(tmp_path, vae, 0, shelf=2, first=1)
        assert not again.grow(EVERY, lanes, lambda: len(again.shelves) == 1) and len(again.shelves) == 1
        assert again.grow(EVERY, lanes)
    assert torch.equal(again.take(torch.tensor([3, 0])).latents, taken.latents)
    straight = encoded(vae, draw_shelf(0, 1, 2))[1]
    assert (taken.latents[0] - straight).abs().max() < 1e-2 * straight.abs().max()
    assert taken.texts[0] == draw_shelf(0, 1, 2).texts[1]


def test_the_error_is_that_of_v(trained: UnetCourse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that knows the clean latents has none: v = (a z - x0) / s."""
    generator = torch.Generator().manual_seed(2)
    clean = torch.randn(8, 4, 16, 16, generator=generator)
    told = ToldLatents(clean, ["a duck", "a mug"], SIDES, torch.zeros(8, 16))
    t = torch.tensor([300, 300, 300, 300, 900, 900, 900, 900])
    a, s = trained.table.signal_noise(t, clean)

    class Knowing(nn.Module):
        def forward(self, z: Tensor, *_: object, **__: object) -> Model:
            return type("Found", (), {"sample": (a * z - clean) / s})

    net = nn.ModuleDict({"unet": Knowing(), "text_encoder": trained.net["text_encoder"]})
    assert trained.errors(net, told, t, torch.randn(clean.shape, generator=generator)).max() < 1e-6


@pytest.mark.parametrize("views", [1, SIDES])
def test_resuming_changes_no_bit(handed: tuple[Path, float], views: int) -> None:
    whole = unet_course(handed, views)
    for step in range(3):
        if step == 2:
            whole.save()
        whole.train_step()
    second = unet_course(handed, views)
    second.restore()
    second.train_step()
    theirs = whole.state()
    for name, value in second.state().items():
        assert torch.equal(value, theirs[name]), name
    (handed[0] / STATE).unlink()


def test_the_autoencoder_resumes_and_its_decoder_learns_alone(vae_run: Path, tmp_path: Path) -> None:
    whole = command.resumed(vae_run, "sd-vae", {})
    second = command.resumed(vae_run, "sd-vae", {})
    for course in (whole, second):
        course.train_step()
    theirs = whole.state()
    assert all(torch.equal(value, theirs[name]) for name, value in second.state().items())
    alone = command.started(tmp_path, "sd-vae", vae_run, {"batch": 16})
    assert isinstance(alone, VaeCourse)
    before = {name: value.clone() for name, value in alone.net.state_dict().items()}
    alone.train_step()
    moved = {name for name, value in alone.net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and not any(name.startswith(("vae.encoder", "vae.quant_conv")) for name in moved)


def test_the_folder_loads_with_nothing_missing_and_draws_the_same(pipeline: Path, trained: UnetCourse) -> None:
    """By the libraries' own loaders: every tensor used, and the same answer as the training's network."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    loaded = {}
    for part, kind in {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}.items():
        told = {"dtype": torch.float32, "output_loading_info": True}
        loaded[part], info = kind.from_pretrained(str(pipeline / part), **told)
        assert not any(info.values()), info
    ids = CLIPTokenizer.from_pretrained(str(pipeline / "tokenizer"))(
        ["a red mushroom"], padding="max_length", return_tensors="pt"
    ).input_ids
    own = {name: rounded(trained.net[name]).eval() for name in ("text_encoder", "unet")}
    with torch.no_grad():
        ours = trained.embedded(own, ["a red mushroom"])
        assert torch.allclose(loaded["text_encoder"](ids).last_hidden_state, ours, atol=1e-6)
        for name, value in loaded["unet"].state_dict().items():
            assert torch.equal(value, own["unet"].state_dict()[name]), name
    assert loaded["vae"].config.scaling_factor == pytest.approx(trained.plan.scale)


def test_the_folder_is_laid_out_as_users_have_it(pipeline: Path) -> None:
    from safetensors import safe_open

    index = json.loads((pipeline / "model_index.json").read_text())
    assert index["safety_checker"] == [None, None] and set(PARTS) < set(index)
    with safe_open(pipeline / "text_encoder" / "model.safetensors", "pt") as file:
        names = set(file.keys())
        assert all(name.startswith("text_model.") for name in names)
        assert file.get_tensor("text_model.final_layer_norm.weight").dtype == torch.float16
        assert torch.equal(file.get_tensor("text_model.embeddings.position_ids"), torch.arange(WORDS)[None])
    tokenizer = {path.name for path in (pipeline / "tokenizer").iterdir()}
    assert tokenizer == {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"}
    total = sum(path.stat().st_size for path in pipeline.rglob("*") if path.is_file())
    assert total < 24e6


def test_the_adapter_of_mvdream_sees_what_was_trained(pipeline: Path, trained: UnetCourse) -> None:
    """The guidance of any MVDream folder, on ours: its clean picture is the training network's, camera and text and
    all; and `encode` is the cached latent."""
    model = MultiViewDream.build(MultiViewDream.Settings(model=str(pipeline), dtype="float32"), None).to("cpu")
    shelf = draw_shelf(5, 0, 1)
    cameras, z = shelf.cameras(), torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    blank = torch.zeros(4, 16, 16, 1)
    views = Frames(blank.expand(-1, -1, -1, 3), blank, blank, torch.zeros(4, 3))
    told = model.condition(Prompt("a red mushroom with a white stem"), cameras, views)["text"]
    t = torch.full((4,), 700)
    eps = model.predict(z, t, told)
    clean = encoded(trained.vae, shelf)
    group = LatentGroups(clean, shelf.orbits, ("a red mushroom with a white stem",), shelf.weight(16))
    rows = trained.spoken(group, Never(), SIDES)
    net = nn.ModuleDict({name: rounded(trained.net[name]).eval() for name in ("text_encoder", "unet")})
    a, s = trained.table.signal_noise(t, z)
    with torch.no_grad():
        words = trained.embedded(net, rows.texts).repeat_interleave(4, 0)
        v = net["unet"](z, t, words, class_labels=rows.camera).sample
    assert v.std() > 0.02
    assert torch.allclose(eps, s * z + a * v, atol=1e-4)
    assert model.side == 128
    with torch.no_grad():
        exact = trained.vae.double().encode(as_input(shelf.pictures()).double()).latent_dist.mean.float()
        trained.vae.float()
    assert torch.allclose(model.encode(shelf.pictures()[0]), exact * trained.plan.scale, atol=1e-4)
    for ours, theirs in ((clean[0], exact), (rows.latents, exact * trained.plan.scale)):
        off = (ours - theirs).square().mean().sqrt()  # the cache is made in bfloat16 where that is fast
        assert off < 0.03 * theirs.square().mean().sqrt(), off / theirs.square().mean().sqrt()


def test_one_picture_by_the_librarys_pipeline(handed: tuple[Path, float], tmp_path: Path) -> None:
    """StableDiffusionPipeline's two steps against DDIM for v (Salimans & Ho 2022) written out."""
    from diffusers import StableDiffusionPipeline

    course = unet_course(handed, 1)
    for _ in range(2):
        course.train_step()
    write_pipeline(tmp_path, "StableDiffusionPipeline", course.net, handed[0] / "vae", handed[0] / "tokenizer")
    pipe = StableDiffusionPipeline.from_pretrained(str(tmp_path), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    shown = pipe("a red mushroom", latents=start.clone(), num_inference_steps=2, guidance_scale=4.0, output_type="pt")
    net = {name: rounded(course.net[name]).eval() for name in ("text_encoder", "unet")}
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    bar = torch.cumprod(1 - betas, 0)
    z = start.double()
    with torch.no_grad():
        words = course.embedded(net, ["", "a red mushroom"])
        for t, after in ((501, bar[1]), (1, bar[0])):
            null, text = net["unet"](z.float().repeat(2, 1, 1, 1), t, words).sample.double().chunk(2)
            v = null + 4 * (text - null)
            a, s = bar[t].sqrt(), (1 - bar[t]).sqrt()
            x0, noise = a * z - s * v, a * v + s * z
            z = after.sqrt() * x0 + (1 - after).sqrt() * noise
        vae = read_vae(tmp_path / "vae")
        drawn = (vae.decode(z.float() / course.plan.scale).sample / 2 + 0.5).clamp(0, 1)
    assert drawn.std() > 0.01 and torch.allclose(shown.images, drawn, atol=2e-4)


def test_a_control_network_learns_beside_a_network_that_stays(handed: tuple[Path, float], tmp_path: Path) -> None:
    """It begins without a say; it learns, its base does not; and the adapter of any ControlNet hears what it says."""
    from diffusers import ControlNetModel

    base = unet_course(handed, 1)
    for _ in range(2):
        base.train_step()
    base.export(tmp_path / "sd")
    course = command.started(tmp_path, "sd-control", tmp_path / "sd", {"batch": 8, "warmup": 1})
    assert isinstance(course, ControlCourse) and course.plan.scale == pytest.approx(handed[1])
    before = {name: value.clone() for name, value in course.base.state_dict().items()}
    shelf = draw_shelf(5, 0, 1)
    told = course.surfaced(shelf, Never())
    t, noise = torch.full((4,), 600), torch.randn(told.latents.shape, generator=torch.Generator().manual_seed(3))
    first = UnetCourse.answer(course, course.base, noise, t, course.embedded(course.net, told.texts), told)
    said = course.answer(course.net, noise, t, course.embedded(course.net, told.texts), told)
    assert torch.allclose(first, said, atol=1e-6)
    for _ in range(3):
        course.train_step()
    assert all(torch.equal(value, before[name]) for name, value in course.base.state_dict().items())
    write = tmp_path / "control"
    course.ema.load_state_dict(course.net.state_dict())
    course.export(write)
    _, info = ControlNetModel.from_pretrained(str(write), output_loading_info=True)
    assert not any(info.values()), info
    chosen = {"model": str(tmp_path / "base"), "controls": (str(write),), "dtype": "float32"}
    model = ControlNet.build(ControlNet.Settings(**chosen), None).to("cpu")
    asked = model.condition(Prompt(told.texts[0]), shelf.cameras(), shelf.frames())["text"]
    eps = model.predict(noise, t, asked)
    rounded(course.net["control"])
    with torch.no_grad():
        words = course.embedded(course.net, [told.texts[0]] * 4)
        v, blind = (
            course.answer(course.net, noise, t, words, told),
            UnetCourse.answer(course, course.base, noise, t, words, told),
        )
    a, s = course.table.signal_noise(t, noise)
    assert (v - blind).abs().max() > 1e-3
    assert torch.allclose(eps, s * noise + a * v, atol=1e-4)


def test_a_network_of_four_views_holds_one_of_single_pictures(tmp_path: Path) -> None:
    """The folder without cameras answers as the shipped network does to a camera of zeros, by the libraries' own loader
    and to the adapter of any Stable Diffusion; told another camera that network says something else."""
    from diffusers import UNet2DConditionModel

    write_alone(SHIPPED / "toybox-mv", out := tmp_path / "alone")
    unet, info = UNet2DConditionModel.from_pretrained(str(out / "unet"), output_loading_info=True)
    assert not any(info.values()), info
    own = read_base(SHIPPED / "toybox-mv")
    ids = read_tokenizer(out / "tokenizer")(
        ["a red mushroom, side view", "a duck", ""], padding=True, return_tensors="pt"
    )
    z, t = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(4)), torch.tensor([800, 500, 20])
    nobody, front = torch.zeros(3, 16), told(orbit([0.0, 0.0, 0.0], 15.0))
    with torch.no_grad():
        words = own["text_encoder"](ids.input_ids).last_hidden_state
        theirs, other = (own["unet"](z, t, words, class_labels=c).sample for c in (nobody, front))
        said = unet(z, t, words).sample
    off, turned = ((said - each).square().mean().sqrt() / theirs.std() for each in (theirs, other))
    assert off < 2e-3 < 1e-2 < turned  # one bias is rounded to half precision
    model = StableDiffusion.build(StableDiffusion.Settings(model=str(out), dtype="float32"), None).to("cpu")
    shelf = draw_shelf(5, 0, 1)
    asked = model.condition(Prompt("a duck"), shelf.cameras(), shelf.frames())["text"]
    assert torch.isfinite(model.predict(torch.randn(4, 4, 16, 16), torch.full((4,), 500), asked)).all()


def test_single_pictures_come_between_the_rings(trained: UnetCourse) -> None:
    """Of a group one side, told no camera and its side in words."""
    latents, orbits = torch.randn(3, SIDES, 4, 16, 16), draw_orbits(3, torch.Generator().manual_seed(0))
    group = LatentGroups(latents, orbits, ("a", "b", "c"), torch.ones(3, SIDES, 16, 16))
    rings, single = (trained.spoken(group, Ever(), views) for views in (SIDES, 1))
    assert rings.camera is not None and rings.camera.shape == (12, 16) and (rings.camera[:, 15] == 1).all()
    assert single.camera is not None and not single.camera.any() and single.camera.shape == (3, 16)
    assert single.latents.shape == (3, 4, 16, 16) and (rings.views, single.views) == (SIDES, 1)
    counts, step = [], trained.step
    for trained.step in range(100):
        counts.append(trained.views_now())
    trained.step = step
    assert set(counts) == {1, SIDES} and 20 <= counts.count(1) <= 40


def test_small_parts_weigh_more_until_the_end(handed: tuple[Path, float]) -> None:
    """The weights count pixels of the picture: ground 1, object 2, its lesser parts 4. An error where they are high
    counts by as much more, and one that is the same everywhere as it did."""
    shelf = draw_shelf(3, 0, 2)
    cell = shelf.weight(16)[0, 0]
    pixels = 1 + shelf.alpha[0, 0] / 255 + 2.0 * shelf.other[0, 0]
    assert torch.allclose(cell, pixels.unflatten(0, (16, 8)).unflatten(2, (16, 8)).mean((1, 3)), atol=1e-5)
    assert cell[0, 0] == 1 and cell.max() > 2
    course = unet_course(handed, 1)
    told = ToldLatents(torch.zeros(1, 4, 16, 16), ["a duck"], weight=cell[None])
    t, noise = torch.tensor([999]), torch.zeros(1, 4, 16, 16)

    def ratio(said: Tensor) -> float:
        unet = Answering(said.expand(1, 4, 16, 16))
        net = nn.ModuleDict({"unet": unet, "text_encoder": course.net["text_encoder"]})
        plain, weighted = (course.errors(net, told, t, noise, weighted=w).item() for w in (False, True))
        return weighted / plain

    assert ratio((cell == cell.max()).float()) == pytest.approx((cell.max() / cell.mean()).item(), rel=1e-4)
    assert ratio(torch.ones(16, 16)) == pytest.approx(1.0, rel=1e-5)


def test_captions_mean_what_is_drawn() -> None:
    """The questions' answers against the colours in the objects' own tables."""
    for one in meaning.captions(0, 0, 60):
        kind, _, *rest = meaning.meaning(one.caption)
        assert meaning.KINDS[kind] == one.caption.category
        rows = program_of(one).parts[0]
        for i, hue in enumerate(rest[: meaning.PARTS]):
            if name := meaning.HUES[hue]:
                assert torch.allclose(rows[i, :3], torch.tensor(linear(name)), atol=1e-6)
            else:
                assert i >= len(CATEGORIES[one.caption.category].parts)


def test_a_token_from_the_end_on_is_asked_and_no_other(handed: tuple[Path, float]) -> None:
    """An encoder that holds the answers in those tokens, and nothing before them, is right in every question."""
    said = meaning.captions(0, 1, 8)
    tokenizer = read_tokenizer(handed[0] / "tokenizer")
    ids = tokenizer([one.text for one in said], padding="max_length", max_length=32, return_tensors="pt").input_ids
    end = (ids == ids.max()).int().argmax(1)
    right = torch.tensor([meaning.meaning(one.caption) for one in said])
    told = torch.cat([nn.functional.one_hot(right[:, i], n) for i, n in enumerate(meaning.SIZES)], 1).float()
    late = torch.arange(32)[None] >= end[:, None]
    states = 50 * late[..., None] * told[:, None]
    answers = nn.Linear(told.shape[1], told.shape[1])
    with torch.no_grad():
        answers.weight.copy_(torch.eye(told.shape[1]))
        answers.bias.zero_()
    holding = lambda _: type("Found", (), {"last_hidden_state": states})  # noqa: E731
    for place in (0.0, 0.999):
        loss, hits = meaning.asked(holding, answers, ids, said, torch.full((8,), place))
        assert loss < 1e-6 and (hits == 1).all()
    states = states * (torch.arange(32)[None] > end[:, None])[..., None]
    assert meaning.asked(holding, answers, ids, said, torch.zeros(8))[0] > 1


def test_the_encoder_learns_from_texts_and_then_stays(handed: tuple[Path, float]) -> None:
    """Before the first picture, whatever stops it meanwhile; pictures leave it as it is."""
    course = unet_course(handed, 1, texts=3)
    before = {name: value.clone() for name, value in course.net["text_encoder"].state_dict().items()}
    assert not course.ready(lambda: True) and not course.understood
    assert course.ready(lambda: False)
    heard = {name: value.clone() for name, value in course.net["text_encoder"].state_dict().items()}
    assert any(not torch.equal(value, before[name]) for name, value in heard.items())
    line = json.loads((handed[0] / LOG).read_text().splitlines()[-1])
    assert {"understood", "kind", "second_colour"} < set(line)
    course.train_step()
    for net in (course.net, course.ema):
        assert all(torch.equal(value, heard[name]) for name, value in net["text_encoder"].state_dict().items())


def test_one_role_starts_from_another(trained: UnetCourse, handed: tuple[Path, float]) -> None:
    trained.save()
    course = unet_course(handed, 1)
    command.take_over(course, command.averages(handed[0]), handed[0])
    theirs = trained.ema.state_dict()
    for name, value in course.net.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert any("class_embedding" in name for name in theirs.keys() - course.net.state_dict().keys())
    (handed[0] / STATE).unlink()


def test_what_is_shipped_is_where_a_training_goes_on(tmp_path: Path) -> None:
    """Its error on objects held out is that of a trained network at once, and its average is the file's to the bit."""
    course = command.started(tmp_path, "mv", folder_of("toybox-mv"), {"batch": 8})
    assert isinstance(course, UnetCourse) and course.plan.texts == 0  # its U-Net knows this encoder's words
    base = read_base(SHIPPED / "toybox-mv").state_dict()
    for net in (course.net, course.ema):
        assert all(torch.equal(value, base[name]) for name, value in net.state_dict().items())
    course.held = course.held_out(draw_shelf(0, 0, 8, held_out=True))
    assert course.held_out_error() < 0.16  # of a new one 1.0; of the shipped one on 32 groups 0.114
    assert course.plan.scale == json.loads((tmp_path / "vae" / "config.json").read_text())["scaling_factor"] != 1.0


def test_without_the_libraries_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "diffusers" else object())
    with pytest.raises(ModelError, match="--role mv needs diffusers; install the extra `models`"):
        begin(tmp_path / "run", role="mv", start=str(tmp_path))


def test_bad_starts_are_one_line(tmp_path: Path, vae_run: Path) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        begin(tmp_path, role="mv", resume=True)
    with pytest.raises(InputError, match="starts from the run folder of sd-vae, mv, sd"):
        begin(tmp_path / "a", role="mv", start=str(tmp_path))
    with pytest.raises(InputError, match="holds a run already"):
        begin(vae_run, role="sd-vae")
    with pytest.raises(RecipeError, match="--head-after: --role sd-vae has no such setting"):
        begin(tmp_path / "b", role="sd-vae", changes={"head_after": 3})
    with pytest.raises(InputError, match="not a run of --role mv"):
        begin(vae_run, role="mv", resume=True)
    with pytest.raises(InputError, match="--role sd-control starts from the run folder of sd, or from toybox-sd"):
        begin(tmp_path / "c", role="sd-control", start=str(vae_run))
