# SPDX-License-Identifier: Apache-2.0
"""Streams, safe numerics, slugs and prompts."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dreamlab.core import safemath
from dreamlab.core.errors import InputError
from dreamlab.core.streams import NAMES, Streams, derive
from dreamlab.core.text import MAX_PROMPT, check_prompt, did_you_mean, slug


def test_streams_are_independent_of_each_other() -> None:
    one, two = Streams(7), Streams(7)
    torch.rand(1000, generator=one.noise)
    for name in NAMES:
        if name != "noise":
            first, second = (torch.rand(3, generator=getattr(s, name)) for s in (one, two))
            assert torch.equal(first, second), name


def test_streams_resume_where_they_were() -> None:
    streams = Streams(1)
    torch.rand(5, generator=streams.camera)
    state = {name: value.clone() for name, value in streams.state_dict().items()}
    expected = torch.rand(5, generator=streams.camera)
    other = Streams(99)
    other.load_state_dict(state)
    assert torch.equal(torch.rand(5, generator=other.camera), expected)


def test_neighbouring_seeds_and_names_share_nothing() -> None:
    seeds = {derive(seed, name) for seed in range(50) for name in NAMES}
    assert len(seeds) == 50 * len(NAMES)


def test_unknown_stream_is_named() -> None:
    with pytest.raises(AttributeError, match="'cameras'"):
        Streams(0).cameras  # noqa: B018


@pytest.mark.parametrize("function", [safemath.safe_norm, safemath.safe_normalize])
def test_zero_vector_has_a_finite_gradient(function: object) -> None:
    v = torch.zeros(2, 3, requires_grad=True)
    function(v).sum().backward()  # type: ignore[operator]
    assert v.grad is not None and torch.isfinite(v.grad).all()


def test_safe_divide_at_zero() -> None:
    b = torch.zeros(3, requires_grad=True)
    value = safemath.safe_divide(torch.zeros(3), b)
    value.sum().backward()
    assert torch.equal(value, torch.zeros(3)) and torch.isfinite(b.grad).all()


def test_inverse_sigmoid_at_the_ends() -> None:
    ends = safemath.inverse_sigmoid(torch.tensor([0.0, 1.0, 0.3]))
    assert torch.isfinite(ends).all() and ends[2].sigmoid().item() == pytest.approx(0.3)


def test_srgb_round_trip_and_known_values() -> None:
    c = torch.linspace(0, 1, 101).double().requires_grad_()
    torch.testing.assert_close(safemath.linear_to_srgb(safemath.srgb_to_linear(c)), c)
    assert safemath.srgb_to_linear(torch.tensor(0.5)).item() == pytest.approx(0.214041, abs=1e-6)
    safemath.linear_to_srgb(c).sum().backward()
    assert torch.isfinite(c.grad).all()


@given(st.text(max_size=400))
def test_slug_is_safe_anywhere(text: str) -> None:
    name = slug(text)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) and len(name) <= 42
    assert name not in {"con", "nul", "prn", "aux", "com1", "lpt9"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("A Red  Mushroom!", "a-red-mushroom"), ("CON", "x-con"), ("../../etc", "etc"), ("龍", "dream"), ("é" * 3, "eee")],
)
def test_slug_examples(text: str, expected: str) -> None:
    assert slug(text) == expected


@pytest.mark.parametrize("bad", ["", "   ", "x", "a\0b", "bell\x07", "esc\x1b[31m", "x" * (MAX_PROMPT + 1), "\ud800 a"])
def test_bad_prompts_are_refused_in_one_line(bad: str) -> None:
    with pytest.raises(InputError) as caught:
        check_prompt(bad)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize("good", ["a fox", "x" * 300, "🦆 duck", "בז אדום", "two\nlines", "${oc.env:HOME} fox"])
def test_good_prompts_pass_unchanged(good: str) -> None:
    assert check_prompt(good) == good


def test_suggestions() -> None:
    assert did_you_mean("sh_degre", ["sh_degree", "count"]) == " (did you mean 'sh_degree'?)"
    assert did_you_mean("zzz", ["b", "a"]) == " (known: a, b)"
