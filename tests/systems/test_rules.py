# SPDX-License-Identifier: Apache-2.0
"""Every rule against its formula, written out independently in float64 on a model that is known in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlab.core.schedules import Progress, constant
from systems import SYSTEMS
from systems.asd import ASD
from systems.balanced import Balanced, min_norm
from systems.cds import CDS
from systems.csd import CSD
from systems.csm import CSM
from systems.engine.inversion import PathSettings, invert
from systems.engine.residual import Look
from systems.ism import ISM
from systems.nfsd import NFSD
from systems.sds import SDS
from systems.semantic import Region
from systems.sjc import SJC
from systems.tsm import TSM
from tests.systems.test_residual import BIASES, look, per

SEEDS = (4, 9)
DISTILLING = [name for name, rule in SYSTEMS.items() if hasattr(rule, "gradient") and name != "grid"]  # takes fours
REQUIRED: dict[str, dict[str, Any]] = {
    "video": {"frames": 3},
    "semantic": {"regions": (Region("a red ball", x=(-5.0, 0.0)), Region("a blue cube", x=(0.0, 5.0)))},
}
ROW_BY_ROW = [name for name in DISTILLING if name not in ("order", "mvdream", "video", "semantic")]  # others mix views
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
BAR = torch.cumprod(1 - BETAS, 0).float().double()  # the table is stored in float32


def biases() -> dict[str, Tensor]:
    return {name: bias(torch.arange(3).double()) for name, bias in BIASES.items()}


def eps(z: Tensor, t: Tensor | int, told: str) -> Tensor:
    """The model of `look`, by its definition."""
    return 0.3 * z + per(torch.as_tensor(t).expand(3) / 1000, z) + per(biases()[told], z)


def guided(z: Tensor, t: Tensor | int, scale: float, against: str = "null") -> Tensor:
    return eps(z, t, against) + scale * (eps(z, t, "text") - eps(z, t, against))


def noisy(z: Tensor, n: Tensor, t: Tensor | int) -> Tensor:
    bar = BAR[t].expand(3)
    return per(bar.sqrt(), z) * z + per((1 - bar).sqrt(), z) * n


def move(z: Tensor, e: Tensor, a: int, b: int) -> Tensor:
    """DDIM, eta 0, as the papers print it."""
    x0 = (z - math.sqrt(1 - BAR[a]) * e) / math.sqrt(BAR[a])
    return math.sqrt(BAR[b]) * x0 + math.sqrt(1 - BAR[b]) * e


class Draws:
    """The same draws as `look(seed=seed)` makes, in the same order."""

    def __init__(self, seed: int) -> None:
        self.z = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.noise_stream = torch.Generator().manual_seed(seed + 1)
        self.time_stream = torch.Generator().manual_seed(seed + 2)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.noise_stream, dtype=torch.float64)

    def noise(self) -> Tensor:
        return self.normal(3, 4, 6, 6)

    def offset_noise(self, strength: float = 0.1) -> Tensor:
        n = self.noise()
        return n + strength * self.normal(1, 4, 1, 1)

    def times(self, low: int, high: int, count: int = 3) -> Tensor:
        return torch.randint(low, high + 1, (count,), generator=self.time_stream)

    def inverted(self, s: int, stride: int = 200) -> tuple[Tensor, int]:
        """z_s and the number of network calls."""
        n = self.offset_noise()
        t = max(s - 5 * stride, 0)
        z, calls = noisy(self.z, n, t), 0
        while t < s:
            after = min(t + stride, s)
            z, t, calls = move(z, eps(z, t, "null"), t, after), after, calls + 1
        return z, calls


START = Progress(0, 10)


def made(rule: Any, seed: int, progress: Progress = START, **settings: Any) -> tuple[Tensor, Look]:
    seen = look(seed=seed)
    seen.progress = progress
    return rule(rule.Settings(**settings)).gradient(seen), seen


@pytest.mark.parametrize("seed", SEEDS)
def test_csd(seed: int) -> None:
    got, seen = made(CSD, seed, text=constant(1.0), negative=constant(-0.25), null=constant(-0.75))
    draws = Draws(seed)
    t = draws.times(20, 980)
    z = noisy(draws.z, draws.noise(), t)
    expected = eps(z, t, "text") - 0.25 * eps(z, t, "negative") - 0.75 * eps(z, t, "null")
    torch.testing.assert_close(got, per(1 - BAR[t], z) * expected)
    assert (seen.calls, seen.rows) == (1, 9)
    normed, _ = made(CSD, seed, normalize=True)
    assert normed.norm().item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("reduced", [True, False])
def test_sjc(reduced: bool) -> None:
    """From the paper's own form: D = x - sigma eps(x / sqrt(1 + sigma^2)), g = -(D - centre) / sigma."""
    got, _ = made(SJC, 4, cfg=constant(101.0), variance_reduced=reduced)
    draws = Draws(4)
    t, n = draws.times(20, 980), draws.noise()
    sigma = per(((1 - BAR[t]) / BAR[t]).sqrt(), n)
    x = draws.z + sigma * n
    denoised = x - sigma * guided(x / (1 + sigma.square()).sqrt(), t, 101.0)
    centre = draws.z if reduced else x
    torch.testing.assert_close(got, -(denoised - centre) / sigma, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_nfsd(seed: int) -> None:
    got, seen = made(NFSD, seed)
    draws = Draws(seed)
    t = draws.times(20, 980)
    z = noisy(draws.z, draws.noise(), t)
    e = {told: eps(z, t, told) for told in biases()}
    natural = torch.where(per(t < 200, z).bool(), e["null"], e["null"] - e["negative"])
    torch.testing.assert_close(got, per(1 - BAR[t], z) * (7.5 * (e["text"] - e["null"]) + natural))
    assert (seen.calls, seen.rows) == (1, 9)


@pytest.mark.parametrize("step", [0, 700, 4000])
@pytest.mark.parametrize("seed", SEEDS)
def test_ism(seed: int, step: int) -> None:
    got, seen = made(ISM, seed, Progress(step, 5000))
    warm = 1 - min(step / 1500, 1)
    draws = Draws(seed)
    t = int(draws.times(20, 500 + int(480 * warm), 1))
    s = max(t - int(80 + warm * 20), 0)
    z_s, calls = draws.inverted(s)
    e_s = eps(z_s, s, "null")
    z_t = move(z_s, e_s, s, t)
    weight = 0.1 * math.sqrt((1 - BAR[t]) / BAR[t])
    torch.testing.assert_close(got, weight * (guided(z_t, t, 7.5) - e_s), rtol=1e-6, atol=1e-7)
    assert seen.calls == calls + 2 <= 7 and seen.rows == 3 * (calls + 1 + 2)


@pytest.mark.parametrize(("rule", "share"), [("linear", 0.3), ("sqrt", math.sqrt(1 - 0.09))])
def test_tsm(rule: str, share: float) -> None:
    got, seen = made(TSM, 4, Progress(100, 2500), mu_rule=rule)
    warm = 1 - 100 / 750
    draws = Draws(4)
    t = int(draws.times(20, 500 + int(480 * warm), 1))
    s = max(t - int(80 + warm * 20), 0)
    mu = round(s + (t - s) * share)
    z_s, calls = draws.inverted(s)
    e_s = eps(z_s, s, "null")
    target = eps(move(z_s, e_s, s, mu), mu, "null")
    weight = 0.1 * math.sqrt((1 - BAR[t]) / BAR[t])
    torch.testing.assert_close(got, weight * (guided(move(z_s, e_s, s, t), t, 7.5) - target), rtol=1e-6, atol=1e-7)
    assert seen.calls == calls + 3


def test_tsm_with_mu_at_s_is_ism() -> None:
    same, _ = made(TSM, 4, Progress(0, 5000), gamma=0.0)
    expected, _ = made(ISM, 4, Progress(0, 5000))
    torch.testing.assert_close(same, expected, rtol=0, atol=0)


def test_ism_with_no_interval_and_no_text_is_zero() -> None:
    for seed in SEEDS:
        got, _ = made(ISM, seed, interval=constant(0.0), cfg=constant(0.0))
        assert got.abs().max() < 1e-12


def test_csm() -> None:
    got, seen = made(CSM, 9, Progress(0, 5000), scale=constant(3.0))
    draws = Draws(9)
    t = int(draws.times(20, 980, 1))
    z_t, calls = draws.inverted(t)
    weight = math.sqrt((1 - BAR[t]) / BAR[t])
    expected = weight * 3.0 * (eps(z_t, t, "text") - eps(z_t, t, "null"))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)
    assert seen.rows == 3 * (calls + 2)


@pytest.mark.parametrize("step", [0, 500, 5000])
def test_cds(step: int) -> None:
    """In the paper's own variables: x = z + sigma n, an Euler step x' = x + (sigma' - sigma) eps."""
    got, seen = made(CDS, 4, Progress(step, 6000))
    draws = Draws(4)
    n = draws.noise()[:1].expand(3, -1, -1, -1)
    near = max(int((0.7 - 0.6 * math.sqrt(min(step / 3000, 1))) * 1000), 100)
    far = min(near + 100 + int(draws.times(0, 199, 1)), 980)
    scale = 101 - 50 * min(step / 3000, 1)
    sigma = [math.sqrt((1 - BAR[t]) / BAR[t]) for t in (far, near)]
    x = draws.z + sigma[0] * n
    e_far = guided(x / math.sqrt(1 + sigma[0] ** 2), far, scale)
    stepped = x + (sigma[1] - sigma[0]) * e_far
    e_near = guided(stepped / math.sqrt(1 + sigma[1] ** 2), near, scale)
    torch.testing.assert_close(got, e_far - e_near, rtol=1e-5, atol=1e-5)
    assert (seen.calls, seen.rows) == (2, 12)


def test_cds_keeps_its_noise_for_ever_and_in_checkpoints() -> None:
    first, other = CDS(CDS.Settings()), CDS(CDS.Settings())
    first.gradient(look(seed=1))
    held = first.state_dict()["fixed_noise"].clone()
    first.gradient(look(seed=2))
    assert torch.equal(first.state_dict()["fixed_noise"], held)
    other.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    torch.testing.assert_close(other.gradient(look(seed=5)), first.gradient(look(seed=5)), rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_asd(seed: int) -> None:
    got, seen = made(ASD, seed, t_min=constant(0.4), t_max=constant(0.999))
    draws = Draws(seed)
    t = draws.times(400, 999)
    u = torch.rand(3, generator=draws.time_stream)
    shift = torch.minimum(0.1 * (t - 400).float(), (999 - t).float())  # capped before the draw multiplies it
    later = t + (shift * u).long()
    n = draws.noise()
    expected = guided(noisy(draws.z, n, t), t, 7.5) - eps(noisy(draws.z, n, later), later, "text")
    torch.testing.assert_close(got, per(1 - BAR[t], n) * expected)
    assert (seen.calls, seen.rows) == (1, 9) and later.max() <= 999


def test_balanced() -> None:
    got, seen = made(Balanced, 4, Progress(0, 5000))
    draws = Draws(4)
    t = int(draws.times(20, 980, 1))
    z = noisy(draws.z, draws.offset_noise(), t)
    g_d = eps(z, t, "null")
    g_c = 18 * (eps(z, t, "text") - g_d)
    rows = []
    for c, d in zip(g_c, g_d, strict=True):
        a = float(((d - c) * d).sum() / (d - c).square().sum())
        a = min(max(a, 0.0), 1.0)
        rows.append(a * c + (1 - a) * d)
    torch.testing.assert_close(got, 0.1 * math.sqrt(BAR[t]) * torch.stack(rows), rtol=1e-6, atol=1e-7)
    assert (seen.calls, seen.rows) == (1, 6)


def test_min_norm_is_the_shortest_vector_of_the_segment() -> None:
    """Inside the segment it is orthogonal to it; against a fine scan of the segment; equal and opposite ends."""
    generator = torch.Generator().manual_seed(0)
    c, d = torch.randn(2, 40, 2, 3, 3, generator=generator, dtype=torch.float64)
    c[:10] = d[:10] * 3 + 0.1 * c[:10]  # ends on one side: the shorter end itself
    found = min_norm(c, d)
    shares = torch.linspace(0, 1, 2001, dtype=torch.float64).reshape(-1, 1, 1, 1, 1)
    scanned = (shares * c + (1 - shares) * d).flatten(2).norm(dim=-1).amin(0)
    assert (found.flatten(1).norm(dim=-1) <= scanned + 1e-9).all()
    interior = ~(torch.isclose(found, c) | torch.isclose(found, d)).flatten(1).all(1)
    inner = (found * (d - c)).flatten(1).sum(1)
    assert interior.sum() > 10 and inner[interior].abs().max() < 1e-9
    torch.testing.assert_close(min_norm(d, d), d)
    torch.testing.assert_close(min_norm(-d, d), torch.zeros_like(d))


def test_sds_is_csd_plus_the_rest() -> None:
    """losses.md 0.7: SDS = coefficients (s, 1 - s) on text and null, and the noise subtracted."""
    s = 20.0
    sds, _ = made(SDS, 4, cfg=constant(s))
    csd, _ = made(CSD, 4, text=constant(s), null=constant(1 - s))
    draws = Draws(4)
    t, n = draws.times(20, 980), draws.noise()
    torch.testing.assert_close(sds, csd - per(1 - BAR[t], n) * n)


def test_inversion_to_zero_asks_nothing() -> None:
    seen = look()
    reached = invert(seen, 0, PathSettings())
    assert seen.calls == 0 and reached.t_index.tolist() == [0, 0, 0]


@pytest.mark.parametrize("target", [1, 199, 200, 201, 999])
def test_inversion_takes_the_steps_it_says(target: int) -> None:
    seen = look()
    reached = invert(seen, target, PathSettings())
    assert seen.calls == math.ceil(target / 200) and reached.t_index.tolist() == [target] * 3


def test_inversion_hardly_depends_on_the_draw() -> None:
    """The point of ISM: two draws of noise end at nearly one state; SDS's two states differ by the noise itself."""
    first, second = look(seed=4), look(seed=4)
    second.noise_stream = torch.Generator().manual_seed(77)
    ends = [invert(seen, 600, PathSettings()).z_t for seen in (first, second)]
    spread = (ends[0] - ends[1]).square().mean().sqrt()
    assert spread < 0.15 and math.sqrt(1 - BAR[600]) > 0.9


@pytest.mark.parametrize("name", DISTILLING)
def test_every_rule_tells_its_paper_and_gives_a_finite_gradient_of_the_right_shape(name: str) -> None:
    rule = SYSTEMS[name]
    required = REQUIRED.get(name, {})
    got, seen = made(rule, 4, Progress(3, 100), **required)
    assert got.shape == seen.z.shape and torch.isfinite(got).all() and not got.requires_grad
    assert "arXiv:" in rule.paper and rule.cost and rule.needs <= {*BIASES, "clip"}
    again = rule(rule.Settings(**required))
    again.load_state_dict(rule(rule.Settings(**required)).state_dict())


@pytest.mark.parametrize("name", ROW_BY_ROW)
def test_a_batch_equals_its_samples_where_times_are_shared(name: str) -> None:
    """No branch may read another sample's state: with one time for all, permuting the batch permutes the gradient."""
    rule = SYSTEMS[name]
    fields = rule.Settings.__dataclass_fields__
    if {"t_min", "t_max"} <= fields.keys() and name not in ("ism", "tsm", "csm", "cds", "balanced"):
        settings: dict[str, Any] = {"t_min": constant(0.5), "t_max": constant(0.5)}
    else:
        settings = {}
    order = torch.tensor([2, 0, 1])
    straight, turned = look(seed=4), look(seed=4)
    noise = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64).expand(
        3, -1, -1, -1
    )
    for seen in (straight, turned):
        seen.noise = lambda: noise.clone()  # type: ignore[method-assign]
    turned.z = turned.z[order]
    turned.conditions = {k: type(c)({n: r[order] for n, r in c.rows.items()}) for k, c in turned.conditions.items()}
    if name == "asd":
        settings["rho"] = 0.0
    if name == "rfds":
        settings = {"s_min": constant(0.5), "s_max": constant(0.5), "rev": True}  # else a weight is drawn per row
    first, second = (rule(rule.Settings(**settings)).gradient(seen) for seen in (turned, straight))
    torch.testing.assert_close(first, second[order])
