# SPDX-License-Identifier: Apache-2.0
"""The oracle's eps is the exact score: against autograd of the density, Monte Carlo, and limits known by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, turntable
from dreamlab.core.errors import InputError
from dreamlab.core.noise import make_table
from dreamlab.core.types import Condition, Frames, Prompt
from dreamlab.run.worlds import oracle_world
from guidance.oracle import Oracle, centred, mixture_eps
from guidance.shared.worlds import Views, World


def mixture(seed: int = 0, k: int = 4, d: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(1, k, d, generator=generator, dtype=torch.float64)
    return means, torch.randn(1, k, generator=generator, dtype=torch.float64).log_softmax(-1)


@pytest.mark.parametrize("bar", [0.999, 0.9, 0.5, 0.1, 0.005])
@pytest.mark.parametrize("spread", [0.01, 0.3, 1.5])
def test_eps_is_minus_s_times_the_score(bar: float, spread: float) -> None:
    """eps = -s grad log p_t(z_t); the density written as a plain sum, differentiated by autograd."""
    means, log_prior = mixture()
    a, s = math.sqrt(bar), math.sqrt(1 - bar)
    z = (a * means[0, 1] + s * torch.randn(6, dtype=torch.float64)).requires_grad_()
    variance = a * a * spread**2 + s * s
    log_density = torch.logsumexp(log_prior[0] - (z - a * means[0]).square().sum(-1) / (2 * variance), 0)
    (score,) = torch.autograd.grad(log_density, z)
    scales = (torch.tensor([[v]], dtype=torch.float64) for v in (a, s))
    eps = mixture_eps(z.detach()[None], *scales, *centred(means), log_prior, spread)[0]
    torch.testing.assert_close(eps, -s * score, rtol=1e-9, atol=1e-10)


def test_posterior_mean_against_monte_carlo() -> None:
    """E[n | z_t] by importance sampling over x0 of the prior: 4e5 draws, agreement within 4 standard errors."""
    means, log_prior = mixture(k=3, d=2)
    bar, spread = 0.4, 0.5
    a, s = math.sqrt(bar), math.sqrt(1 - bar)
    z = torch.tensor([0.3, -0.4], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    which = torch.multinomial(log_prior[0].exp(), 400_000, replacement=True, generator=generator)
    x0 = means[0, which] + spread * torch.randn(400_000, 2, generator=generator, dtype=torch.float64)
    n = (z - a * x0) / s
    weight = torch.softmax(-n.square().sum(-1) / 2, 0)
    expected = (weight[:, None] * n).sum(0)
    error = ((weight[:, None] * (n - expected)).square().sum(0)).sqrt()
    scales = (torch.tensor([[v]], dtype=torch.float64) for v in (a, s))
    got = mixture_eps(z[None], *scales, *centred(means), log_prior, spread)[0]
    assert ((got - expected).abs() < 4 * error).all()


def test_one_picture_without_spread_gives_the_noise_back() -> None:
    mean, n = torch.randn(1, 1, 8, dtype=torch.float64), torch.randn(1, 8, dtype=torch.float64)
    a, s = torch.tensor([[0.8]]).double(), torch.tensor([[0.6]]).double()
    eps = mixture_eps(a * mean[:, 0] + s * n, a, s, *centred(mean), torch.zeros(1, 1).double(), 1e-9)
    torch.testing.assert_close(eps, n)


def test_float32_agrees_with_float64_at_picture_size() -> None:
    """12 288 numbers a picture: the shifted distances must not lose the posterior to round-off."""
    generator = torch.Generator().manual_seed(1)
    means = torch.rand(2, 5, 12_288, generator=generator, dtype=torch.float64) * 2 - 1
    means = means[:, :1] + 0.02 * (means - means[:, :1])  # pictures that differ little
    table = make_table("cosine")
    for t in (0, 50, 500, 990):
        a, s = table.signal_noise(torch.tensor([t, t]), means[:, 0])
        z = a * means[:, 2] + s * torch.randn(2, 12_288, generator=generator, dtype=torch.float64)
        prior = torch.zeros(2, 5).double()
        exact = mixture_eps(z, a, s, *centred(means), prior, 0.05)
        single = mixture_eps(z.float(), a.float(), s.float(), *centred(means.float()), prior.float(), 0.05)
        assert (single.double() - exact).square().mean().sqrt() < 2e-3, t


def circles(log_text: Tensor) -> World:
    """K gray levels, the same from everywhere; alpha covers the left half."""

    def look(cameras: Cameras, size: int) -> Views:
        levels = torch.tensor([0.1, 0.5, 0.9])
        alpha = torch.zeros(3, len(cameras), size, size, 1)
        alpha[:, :, :, : size // 2] = 1
        return Views(levels[:, None, None, None, None] * alpha.expand(-1, -1, -1, -1, 3), alpha)

    null = torch.zeros(3).log_softmax(0)
    return World(log_text, null, null, look)


def frames(count: int, background: float = 0.25) -> Frames:
    blank = torch.zeros(count, 8, 8, 1)
    return Frames(blank.expand(-1, -1, -1, 3), blank, blank, torch.full((count, 3), background))


def test_conditions_per_camera_and_background() -> None:
    only_last = torch.tensor([-math.inf, -math.inf, 0.0])
    oracle = Oracle(Oracle.Settings(spread=1e-4), lambda prompt: circles(only_last))
    conditions = oracle.condition(Prompt("x"), turntable(2), frames(2))
    assert conditions.keys() == Oracle.card(oracle.settings).conditions
    shared = conditions["text"].shared
    means = (shared["centre"][:, None] + shared["offset"]).reshape(2, 3, 3, 8, 8)
    assert means[1, 2, :, 4, 0].tolist() == pytest.approx([0.8] * 3)  # 0.9 on the scale [-1, 1]
    assert means[0, 0, :, 4, 7].tolist() == pytest.approx([-0.5] * 3)  # the background
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([100, 900])
    z_t = oracle.table.add_noise(means[:, 2], noise, t)
    eps = oracle.predict(z_t, t, conditions["text"])
    torch.testing.assert_close(eps, noise, atol=2e-3, rtol=1e-3)


def test_batched_branches_equal_single_ones() -> None:
    oracle = Oracle(Oracle.Settings(), lambda prompt: circles(torch.tensor([0.0, -1.0, -2.0]).log_softmax(0)))
    conditions = oracle.condition(Prompt("x"), turntable(3), frames(3))
    generator = torch.Generator().manual_seed(0)
    z, t = torch.randn(6, 3, 8, 8, generator=generator), torch.tensor([5, 300, 900, 7, 450, 999])
    together = oracle.predict(z, t, Condition.cat([conditions["text"], conditions["null"]]))
    apart = torch.cat(
        [oracle.predict(z[:3], t[:3], conditions["text"]), oracle.predict(z[3:], t[3:], conditions["null"])]
    )
    torch.testing.assert_close(together, apart)


def test_encode_decode_round_trip_and_gradient() -> None:
    oracle = Oracle(Oracle.Settings(), lambda prompt: circles(torch.zeros(3)))
    rgb = torch.rand(2, 5, 5, 3, requires_grad=True)
    z = oracle.encode(rgb)
    assert z.shape == (2, 3, 5, 5)
    torch.testing.assert_close(oracle.decode(z), rgb)
    z.sum().backward()
    torch.testing.assert_close(rgb.grad, torch.full_like(rgb, 2.0))


def test_the_world_holds_the_prompts_object_and_others() -> None:
    world = oracle_world(Prompt("a red mushroom with a white stem"), Oracle.Settings(others=2, instances=3), seed=0)
    assert world.log_text.exp().tolist() == pytest.approx([1 / 3] * 3 + [0, 0])
    assert world.log_null.exp().sum().item() == pytest.approx(1.0)
    views = world.look(turntable(2), 24)
    assert views.rgb.shape == (5, 2, 24, 24, 3) and (views.rgb <= views.alpha + 1e-5).all()
    red, green, _ = (views.rgb[0].sum((0, 1, 2)) / views.alpha[0].sum()).tolist()
    assert red > 1.3 * green  # a red cap dominates


@pytest.mark.parametrize(
    ("prompt", "hint"), [("a red muzhrom", "mushroom"), ("a zyzzyva", "list objects"), ("a quixotic cat", "quixotic")]
)
def test_unknown_words_are_named(prompt: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        oracle_world(Prompt(prompt), Oracle.Settings(), seed=0)
