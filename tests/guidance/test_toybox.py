# SPDX-License-Identifier: Apache-2.0
"""The embedded prior as a guidance: closed forms of its noise arithmetic, conditions, precision, and the disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.prior import by_torch
from dreamlab.core.cameras import orbit, turntable
from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.types import Condition, Frames, Guidance, Prompt
from dreamlab.toybox.training.roles import MOMENTS
from guidance.shared.dtypes import fast_dtype
from guidance.toybox import layers
from guidance.toybox.layers import Up, doubled, pooled
from guidance.toybox.net import NetSettings, Prior, backdrop, laid_out, matched_log_snr, radius, v_of_detail, v_of_means
from guidance.toybox.prior import Toybox
from guidance.toybox.roles import ToyboxVideo
from guidance.toybox.store import Stored, load, save
from guidance.toybox.told import RAY_CHANNELS, camera_features, ray_features
from guidance.toybox.words import Words

WORDS = Words.of_world(untrained=("on",))
SMALL = {"fine": 8, "wide": 16, "middle": 16, "core": 32, "blocks": 1, "words": 16, "word_blocks": 1}
TINY = NetSettings(len(WORDS.tokens), size=16, rays=RAY_CHANNELS, **SMALL)
MOVING = replace(TINY, moments=MOMENTS)
PROMPT = Prompt("a red mushroom with a white stem")


def lively(settings: NetSettings = TINY, seed: int = 0) -> Prior:
    """A network whose layers that start at zero hold something."""
    torch.manual_seed(seed)
    net = Prior(settings)
    for parameter in net.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.05)
    return net.requires_grad_(False)


def guidance(**settings: object) -> Toybox:
    return Toybox(Toybox.Settings(**settings), Stored("image", "cosine", WORDS, lively(), {}))


def frames(count: int, size: int = 16) -> Frames:
    blank = torch.zeros(count, size, size, 1)
    return Frames(blank.expand(-1, -1, -1, 3), blank, blank, torch.zeros(count, 3))


def scales(bar: float) -> tuple[Tensor, Tensor]:
    return torch.tensor(bar, dtype=torch.float64).sqrt(), torch.tensor(1 - bar, dtype=torch.float64).sqrt()


@pytest.mark.parametrize("bar", [1e-6, 0.02, 0.5, 0.9, 0.9999])
def test_means_of_a_state_are_a_state_at_matched_noise(bar: float) -> None:
    """x' and n' = 2 mean n (unit deviation) by hand; the 2 x 2 means of v follow from v' exactly."""
    generator = torch.Generator().manual_seed(0)
    x, n = (torch.randn(2, 8, 8, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    a, s = scales(bar)
    z, v = a * x + s * n, a * n - s * x
    x_half, n_half = pooled(x), 2 * pooled(n)
    bar_half = torch.sigmoid(matched_log_snr(torch.tensor(bar, dtype=torch.float64)))
    a_half, s_half = bar_half.sqrt(), (1 - bar_half).sqrt()
    torch.testing.assert_close(pooled(z) / radius(a, s), a_half * x_half + s_half * n_half)
    torch.testing.assert_close(v_of_means(a_half * n_half - s_half * x_half, pooled(z), a, s), pooled(v))


def test_linear_guess_of_the_detail_is_the_least_squares_one() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.randn(200_000, generator=generator, dtype=torch.float64)
    n = torch.randn(200_000, generator=generator, dtype=torch.float64)
    a, s = scales(0.6)
    z, v = a * x + s * n, a * n - s * x
    fitted = (z * v).sum() / z.square().sum()
    torch.testing.assert_close(v_of_detail(z, a, s, 0.3), fitted * z, rtol=0.02, atol=0)


def test_a_new_head_adds_nothing_to_the_half_size_answer() -> None:
    """Before the head has learnt, block means of the full-size v are those that the half-size net implies."""
    torch.manual_seed(0)
    net = Prior(TINY)
    torch.nn.init.normal_(net.answer.weight, std=0.1)
    z, bar = torch.randn(2, 16, 16, 3), torch.tensor([0.2, 0.9])
    text, camera = net.text(torch.tensor([[2, 5], [2, 9]])), torch.randn(2, 16)
    a, s = (value[:, None, None, None] for value in (bar.sqrt(), (1 - bar).sqrt()))
    v_half = net.half_size(pooled(z) / radius(a, s), matched_log_snr(bar), text, camera)
    v = net(z, bar, text, camera)
    torch.testing.assert_close(pooled(v), v_of_means(v_half, pooled(z), a, s), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(v - doubled(pooled(v)), v_of_detail(z - doubled(pooled(z)), a, s, TINY.detail))


def test_backdrop_is_seen_through_any_noise() -> None:
    """A solid colour with an object in the middle: within 5 deviations of the mean of 240 pixels, shrunk to gray."""
    generator = torch.Generator().manual_seed(0)
    colour = torch.tensor([0.8, -0.4, 0.1])
    x = colour.expand(64, 32, 32, 3).clone()
    x[:, 8:24, 8:24] = -1.0
    for bar in (0.999, 0.5, 0.05):
        z = bar**0.5 * x + (1 - bar) ** 0.5 * torch.randn(x.shape, generator=generator)
        guess = backdrop(z, torch.full((64,), bar).logit())
        shrink = bar * 0.36 / (bar * 0.36 + (1 - bar) / 240)
        assert (guess - shrink * colour).abs().max() < 5 * shrink * ((1 - bar) / bar / 240) ** 0.5, bar
    assert backdrop(torch.randn(8, 32, 32, 3, generator=generator), torch.full((8,), -20.0)).abs().max() < 0.05


def test_cameras_differ_by_what_they_see() -> None:
    """A quarter turn moves only harmonics that are not multiples of four; a whole turn moves nothing."""
    here, quarter, round_ = camera_features(orbit([10.0, 100.0, 370.0], 20.0, 3.2, 42.0))
    torch.testing.assert_close(here, round_, atol=1e-5, rtol=0)
    torch.testing.assert_close(here[6:8], quarter[6:8], atol=1e-5, rtol=0)
    assert (here[:6] - quarter[:6]).abs().amin() > 1e-2
    assert (here[-1], quarter[-1]) == (1, 1)  # "told"


def test_a_cell_tells_its_four_children_alike_at_first_and_then_each_its_own() -> None:
    up, x = Up(5, 3), torch.randn(2, 4, 6, 5)
    torch.testing.assert_close(up(x), doubled(up(x)[:, ::2, ::2]))
    with torch.no_grad():
        up.weight.normal_()
    found = up(x)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        rows = slice(3 * (2 * down + right), 3 * (2 * down + right + 1))
        torch.testing.assert_close(found[:, down::2, right::2], x @ up.weight[rows].T + up.bias[rows])


def test_rays_are_those_of_the_cameras() -> None:
    """Direction, and the nearest point to the centre, against the cameras' own rays in float64; no camera, no rays."""
    cameras = orbit([10.0, -130.0, 77.0], [20.0, -10.0, 55.0], [3.0, 3.3, 3.6], [38.0, 42.0, 46.0])
    found = ray_features(camera_features(cameras), 16)
    origin, direction = cameras.to(dtype=torch.float64).rays(16, 16)
    origin = origin[:, None, None].expand_as(direction)
    near = torch.linalg.cross(direction, torch.linalg.cross(origin, direction, dim=-1), dim=-1)
    torch.testing.assert_close(found[..., :3].double(), near, atol=2e-5, rtol=0)
    torch.testing.assert_close(found[..., 3:6].double(), direction, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[..., 6:9].double(), (torch.pi * near).sin(), atol=1e-4, rtol=0)
    assert not ray_features(torch.zeros(2, 16), 4).any()


def test_contract_shapes_and_variants() -> None:
    prior = guidance()
    assert isinstance(prior, Guidance)
    conditions = prior.condition(PROMPT, turntable(3), frames(3))
    assert conditions.keys() == prior.card(prior.settings).conditions
    eps = prior.predict(torch.randn(3, 3, 16, 16), torch.tensor([0, 500, 999]), conditions["text"])
    assert eps.shape == (3, 3, 16, 16) and eps.dtype == torch.float32 and eps.isfinite().all()


def test_eps_implies_the_x0_of_v() -> None:
    """x0 = a z - s v for what the network says, and x0 = (z - s eps) / a for what the guidance says."""
    prior = guidance(dtype="float32")
    condition = prior.condition(PROMPT, turntable(4), frames(4))["text"]
    z, t = torch.randn(4, 3, 16, 16), torch.tensor([10, 300, 600, 900])
    rows = condition.rows["caption"]
    text = prior.captions({"prompt": PROMPT.text})
    text = type(text)(text.words[rows], text.mask[rows])
    with torch.no_grad():
        v = prior.net(z.permute(0, 2, 3, 1), prior.table.alpha_bar[t], text, condition.rows["camera"])
    a, s = prior.table.signal_noise(t, z)
    expected = a * z - s * v.permute(0, 3, 1, 2)
    torch.testing.assert_close(prior.table.x0(z, prior.predict(z, t, condition), t), expected, rtol=1e-3, atol=1e-3)


def test_null_knows_no_prompt_and_its_camera_only_when_told() -> None:
    z, t = torch.randn(2, 3, 16, 16), torch.tensor([700, 800])

    def eps(prior: Toybox, prompt: Prompt, variant: str, azimuth: float) -> Tensor:
        return prior.predict(z, t, prior.condition(prompt, orbit([azimuth, azimuth]), frames(2))[variant])

    told, silent, other = guidance(), guidance(null_camera=False), Prompt("a blue cube", "a green duck")
    assert torch.equal(eps(told, PROMPT, "null", 0.0), eps(told, other, "null", 0.0))
    assert torch.equal(eps(told, PROMPT, "negative", 0.0), eps(told, PROMPT, "null", 0.0))  # no negative text
    assert not torch.equal(eps(told, other, "negative", 0.0), eps(told, other, "null", 0.0))
    assert not torch.equal(eps(told, PROMPT, "text", 0.0), eps(told, other, "text", 0.0))
    assert not torch.equal(eps(told, PROMPT, "null", 0.0), eps(told, PROMPT, "null", 90.0))
    assert torch.equal(eps(silent, PROMPT, "null", 0.0), eps(silent, PROMPT, "null", 90.0))
    assert not torch.equal(eps(silent, PROMPT, "text", 0.0), eps(silent, PROMPT, "text", 90.0))


def test_batched_branches_equal_single_ones_and_padding_is_not_seen() -> None:
    prior = guidance(dtype="float32")
    long = Prompt("a red mushroom", "a green house with a red roof and a blue door")
    conditions = prior.condition(long, turntable(2), frames(2))
    z, t = torch.randn(4, 3, 16, 16), torch.tensor([100, 500, 300, 900])
    together = prior.predict(z, t, Condition.cat([conditions["text"], conditions["null"]]))
    again = prior.condition(Prompt("a red mushroom"), turntable(2), frames(2))  # shorter padding
    apart = torch.cat([prior.predict(z[:2], t[:2], again["text"]), prior.predict(z[2:], t[2:], again["null"])])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_near_float32() -> None:
    """Within 2 % of the deviation of v on average: bfloat16 keeps 8 bits, a dozen layers lose two or three of them."""
    z, t = torch.randn(8, 3, 16, 16), torch.linspace(20, 980, 8).long()
    exact, rough = (guidance(dtype=dtype) for dtype in ("float32", "bfloat16"))
    v = [p.predict(z, t, p.condition(PROMPT, turntable(8), frames(8))["text"]) for p in (exact, rough)]
    assert (v[0] - v[1]).square().mean().sqrt() < 0.02 * v[0].square().mean().sqrt()
    assert fast_dtype(torch.device("cpu")) in (torch.float32, torch.bfloat16)


def test_encode_resizes_decodes_and_is_differentiable() -> None:
    prior = guidance()
    rgb = torch.rand(2, 24, 24, 3, requires_grad=True)
    assert prior.encode(rgb).shape == (2, 3, 16, 16)
    prior.encode(rgb).sum().backward()
    assert rgb.grad is not None and rgb.grad.abs().min() > 0
    same = torch.rand(2, 16, 16, 3)
    torch.testing.assert_close(prior.decode(prior.encode(same)), same)


def test_unknown_words_are_refused_or_skipped_aloud() -> None:
    with pytest.raises(InputError, match=r"muzhrom.*did you mean mushroom"):
        guidance().condition(Prompt("a red muzhrom on a table"), turntable(1), frames(1))
    with pytest.raises(InputError, match=r"negative: .*'blurry'"):
        guidance().condition(Prompt("a red mushroom", "blurry"), turntable(1), frames(1))
    with pytest.raises(InputError, match="no word"):
        guidance(unknown="skip").condition(Prompt("zyzzyva"), turntable(1), frames(1))
    with pytest.warns(UserWarning, match="glitter"):
        guidance(unknown="skip").condition(Prompt("a duck with glitter"), turntable(1), frames(1))


def test_stored_twice_gives_equal_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a", "image", "cosine", WORDS, lively(), {"images": 3})
    stored = load(tmp_path / "a")
    save(tmp_path / "b", stored.role, stored.table, stored.words, stored.net, stored.facts)
    for name in ("config.json", "vocab.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert stored.words == WORDS and stored.net.net == TINY
    assert Toybox(Toybox.Settings(weights=str(tmp_path / "b"))).size == 16


def test_missing_and_damaged_weights_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        Toybox(Toybox.Settings(weights=str(tmp_path)))
    folder = tmp_path / "prior"
    save(folder, "image", "cosine", WORDS, lively(), {})
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-4])
    with pytest.raises(ModelError, match="SHA-256") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    (folder / "model.safetensors").write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    for change, complaint in (
        ({"format": 99}, "format 99"),
        ({"net": config["net"] | {"core": 64}}, "does not fit"),
        ({"role": "video"}, "'video'"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=complaint):
            Toybox(Toybox.Settings(weights=str(folder)))
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        load(folder)


def test_rows_of_one_state_are_seen_once_and_answer_as_apart() -> None:
    """A prompt's and nobody's rows at one noise; where only the noise differs nothing is shared."""
    prior = guidance(dtype="float32")
    conditions = prior.condition(PROMPT, turntable(2), frames(2))
    both = Condition.cat([conditions["text"], conditions["null"]])
    z, t = torch.randn(2, 3, 16, 16), torch.tensor([100, 500])
    seen: list[int] = []
    prior.net.stem.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    together = prior.predict(torch.cat([z, z]), torch.cat([t, t]), both)
    apart = torch.cat([prior.predict(z, t, conditions[name]) for name in ("text", "null")])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    later = prior.predict(torch.cat([z, z]), torch.cat([t, t + 1]), both)
    other = prior.predict(torch.cat([z, z + 1e-3]), torch.cat([t, t]), both)
    assert seen == [2, 2, 2, 4, 4]
    assert torch.equal(later[:2], other[:2]) and not torch.equal(later[2:], other[2:])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fused_layers_answer_as_torchs_do(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network of plain torch layers in float64: float32 to 1e-4 of the deviation, bfloat16 to 2 %; and with
    the one-pass layers and attention forbidden no farther from it than they are."""
    settings = replace(TINY, wide=64, fine=64, middle=64, core=64, words=16)  # wide enough for children in one pass
    net = lively(settings)
    words, camera = torch.tensor([[2, 5, 0], [2, 9, 7]]), torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    z, bar = torch.randn(2, 16, 16, 3, generator=torch.Generator().manual_seed(2)), torch.tensor([0.2, 0.9])

    def answer(like: torch.dtype) -> Tensor:
        made = Prior(settings).requires_grad_(False)
        made.load_state_dict(net.state_dict())
        made = laid_out(made.to(like))
        with torch.no_grad():
            return made(z, bar, made.text(words), camera).double()

    fused = answer(getattr(torch, dtype))
    monkeypatch.setattr(layers, "swift", lambda: False)
    monkeypatch.setattr(layers, "modulate", by_torch)
    plain, exact = answer(getattr(torch, dtype)), answer(torch.float64)
    off = [float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt()) for found in (fused, plain)]
    assert off[0] < {"float32": 1e-4, "bfloat16": 0.02}[dtype] and off[0] < 1.2 * off[1] + 1e-6, off


def test_weights_that_change_are_packed_anew() -> None:
    """In place, by another tensor in their place, and put back: each answers for itself."""
    layer, x = layers.Conv(8, 16).to(torch.bfloat16).requires_grad_(False), torch.randn(1, 4, 4, 8).bfloat16()

    def answers() -> Tensor:
        with torch.no_grad():
            found, plain = layers.through(layer, x), layer(x)
        torch.testing.assert_close(found, plain, rtol=0.02, atol=0.02)
        return found

    assert layer.bias is not None
    for parameter in (layer.weight, layer.bias):
        first = answers()
        with torch.no_grad():
            parameter.add_(1)
        assert not torch.equal(answers(), first)
    first = answers()
    kept = layer.weight
    layer.__dict__["_parameters"]["weight"] = -kept
    other = answers()
    layer.__dict__["_parameters"]["weight"] = kept
    assert not torch.equal(other, first) and torch.equal(answers(), first)


def test_what_is_added_to_a_layer_is_heard() -> None:
    """A hook, as LoRA puts on linear layers, keeps the layer from being gone past."""
    block = layers.Attention(56).to(torch.bfloat16).requires_grad_(False)
    x = torch.randn(1, 6, 56).bfloat16()
    with torch.no_grad():
        before = block(x)
        handles = [layer.register_forward_hook(lambda *given: given[2] + 1) for layer in (block.out, block.q)]
        assert (block(x) - before).abs().min() > 0.5
        for handle in handles:
            handle.remove()
        assert torch.equal(block(x), before)


def test_who_draws_what_rests_is_not_told_what_it_does() -> None:
    """A few of its training's pictures showed a moment of an action: it would pose the object."""
    image, clips = guidance(), ToyboxVideo(ToyboxVideo.Settings(), Stored("video", "cosine", WORDS, lively(MOVING), {}))
    rests, rocks = (image.captions({"prompt": text}).words for text in ("a red duck", "a rocking red duck"))
    assert torch.equal(rests, rocks)
    rests, rocks = (clips.captions({"prompt": text}).words for text in ("a red duck", "a rocking red duck"))
    assert rests.shape != rocks.shape or not torch.equal(rests, rocks)
    alone, nothing = (image.captions({"null": text}).words for text in ("rocking", ""))
    assert alone.shape != nothing.shape or not torch.equal(alone, nothing)
