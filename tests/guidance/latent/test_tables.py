# SPDX-License-Identifier: Apache-2.0
"""Noise tables of pretrained models against their own schedulers and published anchors."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from dreamlab.core.errors import ModelError
from dreamlab.core.noise import eps_from_flow, eps_from_v, x0_from_eps
from guidance.latent.tables import clock_of, flow_clock, sigma_clock

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ANCHORS = {  # alpha_bar at 0, 20, 250, 500, 750, 980, 998, of the models that users have
    "scaled_linear": (0.99914998, 0.9813143, 0.6737923, 0.27633247, 0.056169804, 0.0058437791, 0.0047166958),
    "linear": (0.99914998, 0.97999913, 0.56878805, 0.16077162, 0.022519225, 0.0019822165, 0.0015981406),
    "squaredcos_cap_v2": (0.99995869, 0.99811417, 0.84588802, 0.49228504, 0.14317866, 0.0008765292, 2.43e-6),
    "cogvideox-2b": (0.99745433, 0.94387283, 0.38905371, 0.095328101, 0.010838902, 2.443e-5, 6.23e-8),
    "cogvideox-5b": (0.99915, 0.98001333, 0.65245702, 0.24101878, 0.032799118, 7.7076e-5, 1.968e-7),
}
SCHEDULERS = {
    "scaled_linear": PNDMScheduler(**SD, skip_prk_steps=True, steps_offset=1),
    "linear": DDIMScheduler(**{**SD, "beta_schedule": "linear"}),
    "squaredcos_cap_v2": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    "cogvideox-2b": CogVideoXDDIMScheduler(**SD, rescale_betas_zero_snr=True, snr_shift_scale=3.0,
                                           prediction_type="v_prediction"),
    "cogvideox-5b": CogVideoXDDIMScheduler(**SD, rescale_betas_zero_snr=True, snr_shift_scale=1.0,
                                           prediction_type="v_prediction"),
}  # fmt: skip


def config(scheduler: object) -> dict[str, object]:
    return {**scheduler.config, "_class_name": type(scheduler).__name__}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_betas_meet_their_anchors(name: str) -> None:
    clock = clock_of(config(SCHEDULERS[name]), "here")
    at = torch.tensor([0, 20, 250, 500, 750, 980, 998])
    bar = clock.table.alpha_bar
    # The last ones of a table that ends in nothing are cut off where a state says nothing of the picture.
    torch.testing.assert_close(bar[at], torch.tensor(ANCHORS[name]).clamp(min=1e-7), rtol=2e-3, atol=1e-8)
    assert (bar > 0).all() and len(bar) == 1000 and torch.equal(clock.time, torch.arange(1000.0))
    assert clock.form == ("v" if name.startswith("cog") else "eps")


def test_a_scheduler_that_predicts_v_answers_with_the_library_s_clean_picture() -> None:
    theirs = DDIMScheduler(**SD, prediction_type="v_prediction", clip_sample=False)
    clock = clock_of(config(theirs), "here")
    generator = torch.Generator().manual_seed(0)
    z, v = torch.randn(2, 1, 4, 8, 8, generator=generator)
    theirs.set_timesteps(50)
    t = theirs.timesteps[7]
    a, s = clock.table.signal_noise(t[None], z)
    assert clock.form == "v"
    x0 = x0_from_eps(z, eps_from_v(z, v, a, s), a, s)
    torch.testing.assert_close(x0, theirs.step(v, t, z).pred_original_sample, rtol=1e-5, atol=1e-5)


def test_a_folder_may_say_that_there_is_no_signal_at_the_end() -> None:
    """Lin et al. 2023: sqrt(alpha_bar) shifted and scaled so that the last is 0 and the first stays."""
    plain = clock_of(config(DDIMScheduler(**SD)), "here").table.alpha_bar.double().sqrt()
    clock = clock_of(config(DDIMScheduler(**SD, rescale_betas_zero_snr=True)), "here")
    expected = ((plain - plain[-1]) * plain[0] / (plain[0] - plain[-1])).square()
    torch.testing.assert_close(clock.table.alpha_bar.double()[:-1], expected[:-1].clamp(min=1e-7), rtol=1e-3, atol=1e-7)
    assert clock.table.alpha_bar[-1] == pytest.approx(1e-7)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_a_flow_keeps_its_time_and_meets_the_library_s_step(shift: float) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    clock = clock_of(config(theirs), "here")
    assert clock.form == "flow" and (clock.time > 0).all() and (clock.time < 1).all() and (clock.time.diff() > 0).all()
    # u of 1001 parts inside against their 1000: a time between two of ours.
    assert clock.time[500] == pytest.approx(float(theirs.sigmas.flip(0)[500]), abs=2e-3)
    generator = torch.Generator().manual_seed(0)
    z, v = torch.randn(2, 1, 4, 8, 8, generator=generator)
    theirs.set_timesteps(10)
    s, then = theirs.sigmas[3], theirs.sigmas[4]
    eps = eps_from_flow(z, v, s)
    moved = z + (then - s) * v
    torch.testing.assert_close(theirs.step(v, theirs.timesteps[3], z).prev_sample, moved)
    # z_s of the same x0 and n at the next time.
    torch.testing.assert_close((1 - then) * (z - s * v) + then * eps, moved, rtol=1e-4, atol=1e-5)


def test_alpha_bar_of_a_flow_is_that_of_the_same_picture_and_noise() -> None:
    clock = flow_clock(3.0)
    s = clock.time.double()
    a, b = 1 - s, s
    torch.testing.assert_close(
        clock.table.alpha_bar.double(), a.square() / (a.square() + b.square()), rtol=1e-3, atol=0
    )


def test_sigmas_are_the_preconditioning_of_the_library() -> None:
    """z = x0 + sigma n, fed z / sqrt(sigma^2 + 1): EulerDiscrete's clean picture from v is ours at
    alpha_bar = 1 / (1 + sigma^2)."""
    theirs = EulerDiscreteScheduler(
        prediction_type="v_prediction", timestep_type="continuous", use_karras_sigmas=True, sigma_min=0.002,
        sigma_max=700.0, timestep_spacing="leading", steps_offset=1,
    )  # fmt: skip
    theirs.set_timesteps(25)
    clock = sigma_clock(0.002, 700.0)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    v = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert (
        float(theirs.timesteps[0]) == pytest.approx(float(clock.time[-1]), rel=1e-4) == pytest.approx(1.63777, rel=1e-4)
    )
    for step in (10, 20):
        theirs._step_index = step
        t, sigma = theirs.timesteps[step], theirs.sigmas[step]
        z_t = theirs.scale_model_input(z, t)
        a, b = 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5
        x0 = x0_from_eps(z_t, eps_from_v(z_t, v, a, b), a, b)
        theirs._step_index = step
        torch.testing.assert_close(theirs.step(v, t, z).pred_original_sample, x0, rtol=1e-4, atol=1e-4)


def test_an_unknown_scheduler_is_one_line() -> None:
    with pytest.raises(ModelError, match="folder/scheduler: a KarrasVeScheduler is none of"):
        clock_of({"_class_name": "KarrasVeScheduler"}, "folder/scheduler")
    with pytest.raises(ModelError, match="prediction_type 'score' is none of"):
        clock_of({"_class_name": "DDIMScheduler", "prediction_type": "score"}, "folder/scheduler")
