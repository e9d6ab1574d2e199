# SPDX-License-Identifier: Apache-2.0
"""`modulate` against torch's own layers in float64, closed forms and finite differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ext import build
from cuda_ext.modulate import MOST_WIDTH, modulate
from cuda_ext.reference import modulate as reference

BACKENDS = ("native", "torch")


@pytest.fixture(autouse=True)
def _native() -> None:
    if build.compiler() is None:
        pytest.skip("no host compiler")


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def plainly(x: Tensor, told: Tensor | None, normed: bool, silu: bool, groups: int) -> Tensor:
    """Torch's layers one after another in float64."""
    y = x.double()
    if normed:
        y = F.layer_norm(y.reshape(*y.shape[:-1], groups, -1), (y.shape[-1] // groups,)).reshape(y.shape)
    if told is not None:
        width = x.shape[-1]
        a, b = (told.double()[:, i * width : (i + 1) * width] for i in (0, 1))
        shape = (len(x), *(x.dim() - 2) * [1], width)
        y = y * (1 + a.reshape(shape)) + b.reshape(shape)
    return F.silu(y) if silu else y


CASES = [
    ((3, 5, 7, 48), True, 1), ((2, 37, 224), True, 1), ((2, 4, 4, 4, 32), True, 1), ((4, 33), True, 1),
    ((1, 1, 1), True, 1), ((2, 19, 224), False, 4), ((5, 3, 100), False, 1), ((2, 5, MOST_WIDTH), True, 1),
    ((3, 16, 170), False, 17),
]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "is_told", "groups"), CASES)
def test_as_torchs_layers_with_their_gradients(
    shape: tuple[int, ...], is_told: bool, groups: int, dtype: torch.dtype, backend: str
) -> None:
    """float32 to 2e-6 of the largest; bfloat16 is float64 rounded once (8 bits: 2^-8 of each)."""
    for normed, silu in ((True, True), (True, False), (False, True)):
        leaves = [(3 * drawn(*shape) + 0.5).to(dtype).requires_grad_()]
        if is_told:
            leaves.append(drawn(shape[0], 2 * shape[-1], seed=1).to(dtype).requires_grad_())
        exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
        probe = drawn(*shape, seed=2).to(dtype)
        found = modulate(*leaves, normed=normed, silu=silu, groups=groups, backend=backend)
        true = plainly(exact[0], exact[1] if is_told else None, normed, silu, groups)
        pairs = zip(
            [found, *torch.autograd.grad(found, leaves, probe)],
            [true, *torch.autograd.grad(true, exact, probe.double())],
            strict=True,
        )
        for mine, other in pairs:
            assert mine.dtype == dtype
            room = {torch.float32: (0.0, 2e-6), torch.bfloat16: (2**-8, 2e-6)}[dtype]
            limit = room[0] * other.abs() + room[1] * other.abs().max().clamp(min=1)
            assert ((mine.double() - other).abs() <= limit).all(), (normed, silu)


def test_the_twins_gradient_is_that_of_finite_differences() -> None:
    x, told = drawn(2, 3, 6, dtype=torch.float64).requires_grad_(), drawn(2, 12, seed=1, dtype=torch.float64)
    for given in ((x, told.requires_grad_(), True, True, 1), (x, None, True, False, 2), (x, None, False, True, 1)):
        assert torch.autograd.gradcheck(reference.modulate, given)


def test_rows_that_do_not_lie_together_are_read_where_they_are() -> None:
    """A half of a wider map, every other sample, and what is not even in memory at all."""
    wide, told = drawn(4, 6, 5, 96), drawn(4, 5, 96, seed=1)
    for x, a in (
        (wide[..., 48:], told[:, 2]),
        (wide[::2, :, :, :48], told[::2, 1]),
        (wide[..., :48].transpose(1, 2), told[:, 0]),
        (wide[..., ::2], told[:, 3]),
    ):
        found = modulate(x, a, silu=True, backend="native")
        torch.testing.assert_close(found, modulate(x.contiguous(), a.contiguous(), silu=True, backend="torch"))


def test_odd_numbers_go_through() -> None:
    """Far out SiLU is 0 or the number itself; what is not finite stays so in its row and touches no other."""
    x = torch.tensor([[[-1e30, -200.0, -90.0, 90.0, 200.0, 1e30]]])
    torch.testing.assert_close(modulate(x, normed=False, silu=True, backend="native"), F.silu(x), atol=2e-8, rtol=1e-6)
    for dtype in (torch.float32, torch.bfloat16):
        rows = drawn(1, 20, 24).to(dtype)
        rows[0, 3, 5], rows[0, 7, 0] = torch.nan, torch.inf
        found = modulate(rows, silu=True, backend="native").isfinite().all(-1)[0]
        assert found.sum() == 18 and not found[3] and not found[7]
        assert modulate(rows, normed=False, backend="native")[0, 3, 5].isnan()
    assert not modulate(torch.full((1, 2, 8), 7.0), backend="native").any()


def test_same_bits_for_any_number_of_threads() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            x, told = drawn(5, 50, 48).bfloat16().requires_grad_(), drawn(5, 96, seed=1).bfloat16().requires_grad_()
            value = modulate(x, told, silu=True, backend="native")
            found.append((value, *torch.autograd.grad(value.float().square().sum(), (x, told))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_nothing_is_nothing() -> None:
    for shape in ((0, 4, 8), (2, 0, 8)):
        x = torch.zeros(shape, requires_grad=True)
        found = modulate(x, torch.zeros(shape[0], 16), backend="native")
        assert found.shape == shape and torch.autograd.grad(found.sum(), x)[0].shape == shape


def test_wrong_inputs_are_named() -> None:
    x, told = drawn(2, 3, 8), drawn(2, 16)
    for given, words in (
        ({"x": x.half()}, "float16"),
        ({"x": x[0, 0]}, r"give \[B, ..., C\]"),
        ({"told": told[:1]}, "told must be"),
        ({"told": told.bfloat16()}, "told is torch.bfloat16"),
        ({"told": None, "groups": 3}, "3 groups of 8"),
        ({"groups": 2}, "told is of one group"),
        ({"x": drawn(2, 2000), "told": None, "backend": "native"}, "at most 1024"),
    ):
        whole = {"x": x, "told": told} | given
        with pytest.raises(ValueError, match=words):
            modulate(whole.pop("x"), whole.pop("told"), **whole)
    torch.testing.assert_close(modulate(drawn(2, 2000)), F.layer_norm(drawn(2, 2000), (2000,)))


def test_registered_ops_are_sound() -> None:
    x, told = drawn(2, 3, 8).requires_grad_(), drawn(2, 16).requires_grad_()
    for given in ((x, told, True, True, 1), (x, None, True, False, 2)):
        torch.library.opcheck(torch.ops.dreamlab.modulate, given)
