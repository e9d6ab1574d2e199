# SPDX-License-Identifier: Apache-2.0
"""Noise tables and conversions, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dreamlab.core import noise

T = torch.tensor([0, 10, 500, 998])


def sample(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (4, 3, 5, 5)
    return torch.randn(shape, generator=generator).double(), torch.randn(shape, generator=generator).double()


@pytest.mark.parametrize("kind", noise.TABLES)
def test_tables_fall_from_nearly_one_to_nearly_zero(kind: str) -> None:
    bar = noise.make_table(kind).alpha_bar
    assert len(bar) == 1000 and (bar.diff() < 0).all() and bar[0] > 0.99 and 0 < bar[-1] < 0.06


def test_stable_diffusion_table_against_numpy() -> None:
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    expected = np.cumprod(1 - betas)
    np.testing.assert_allclose(noise.make_table("scaled_linear").alpha_bar, expected, rtol=1e-6)
    assert expected[-1] == pytest.approx(0.0047, abs=1e-4)  # the figure known from Stable Diffusion's scheduler


def test_scaled_linear_equals_diffusers() -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    torch.testing.assert_close(noise.make_table("scaled_linear").alpha_bar, theirs, rtol=2e-5, atol=0)


def test_cosine_table_against_the_paper() -> None:
    def f(t: float) -> float:
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    bar = noise.make_table("cosine").alpha_bar
    for t in (0, 250, 500, 900):
        assert bar[t].item() == pytest.approx(f(t + 1) / f(0), rel=1e-5)


def test_state_x0_and_eps_are_consistent() -> None:
    table = noise.make_table("cosine")
    x0, n = sample()
    z = table.add_noise(x0, n, T)
    a, s = table.signal_noise(T, z)
    torch.testing.assert_close(z, a * x0 + s * n)
    torch.testing.assert_close(table.x0(z, n, T), x0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(noise.eps_from_x0(z, x0, a, s), n, rtol=1e-5, atol=1e-4)


def test_v_speaks_eps() -> None:
    x0, n = sample(1)
    a, s = torch.tensor([0.6, 0.8], dtype=torch.float64)
    z, v = a * x0 + s * n, a * n - s * x0
    torch.testing.assert_close(noise.eps_from_v(z, v, a, s), n)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 5.0, 80.0])
def test_a_denoiser_in_edm_form_is_v_prediction(sigma: float) -> None:
    """Karras et al. 2022, table 1, at sigma_data = 1: D = c_skip x + c_out F with c_skip = 1 / (1 + sigma^2), c_out =
    -sigma / sqrt(1 + sigma^2) for a network that says v; F is fed x / sqrt(1 + sigma^2), the state of alpha_bar."""
    x0, n = (part.numpy() for part in sample(7))
    bar = 1 / (1 + sigma**2)
    z_t = (x0 + sigma * n) * math.sqrt(bar)
    said = math.sqrt(bar) * n - math.sqrt(1 - bar) * x0
    denoised = (x0 + sigma * n) / (1 + sigma**2) - sigma / math.sqrt(1 + sigma**2) * said
    np.testing.assert_allclose(denoised, x0, atol=1e-9)
    a, s = torch.tensor([math.sqrt(bar), math.sqrt(1 - bar)], dtype=torch.float64)
    eps = noise.eps_from_v(torch.from_numpy(z_t), torch.from_numpy(said), a, s)
    np.testing.assert_allclose(eps, n, atol=1e-9)


def test_flow_speaks_eps() -> None:
    x0, n = sample(3)
    s = torch.tensor(0.3).double()
    z_s = (1 - s) * x0 + s * n
    torch.testing.assert_close(noise.eps_from_flow(z_s, n - x0, s), n)


def test_flow_state_holds_the_same_picture_and_noise() -> None:
    x0, n = sample(4)
    bar = torch.tensor(0.37).double()
    z_t = bar.sqrt() * x0 + (1 - bar).sqrt() * n
    z_s, s = noise.flow_state(z_t, bar)
    torch.testing.assert_close(z_s, (1 - s) * x0 + s * n)


def test_flow_table_is_the_variance_preserving_form_of_its_time() -> None:
    bar = noise.make_table("flow", steps=9).alpha_bar
    s = torch.arange(1, 10) / 10
    torch.testing.assert_close(bar.sqrt(), (1 - s) / ((1 - s).square() + s.square()).sqrt())


def test_one_guidance_convention() -> None:
    e_null, e_text = sample(5)
    torch.testing.assert_close(noise.cfg(e_null, e_text, 1.0), e_text)
    torch.testing.assert_close(noise.cfg(e_null, e_text, 0.0), e_null)
    torch.testing.assert_close(noise.cfg(e_null, e_text, 8.0), e_text + 7.0 * (e_text - e_null))  # PLUS(7)


def test_ddim_move_there_and_back() -> None:
    table = noise.make_table("scaled_linear")
    z, eps = sample(6)
    low, high = torch.full((4,), 100), torch.full((4,), 700)
    moved = table.ddim_move(z, eps, low, high)
    torch.testing.assert_close(table.ddim_move(moved, eps, high, low), z, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(table.x0(moved, eps, high), table.x0(z, eps, low), rtol=1e-4, atol=1e-3)


def test_weights_by_name() -> None:
    table = noise.make_table("scaled_linear")
    bar = table.alpha_bar[T].double()
    expected = {
        "sds": 1 - bar,
        "uniform": torch.ones(4).double(),
        "fantasia3d": bar.sqrt() * (1 - bar),
        "ism": ((1 - bar) / bar).sqrt(),
        "bsd": bar.sqrt(),
    }
    assert set(expected) == set(noise.WEIGHTS)
    for name, value in expected.items():
        torch.testing.assert_close(table.weight(name, T).double(), value, rtol=1e-4, atol=1e-7)
