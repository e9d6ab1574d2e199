# SPDX-License-Identifier: Apache-2.0
"""`attend` against torch's own attention in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ext import build
from cuda_ext.attend import attend


@pytest.fixture(autouse=True)
def _native() -> None:
    if build.compiler() is None:
        pytest.skip("no host compiler")


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def plainly(query: Tensor, told: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    def split(x: Tensor) -> Tensor:
        return x.double().unflatten(-1, (heads, -1)).transpose(1, 2)

    key, value = told.chunk(2, -1)
    q, k = (F.layer_norm(y, y.shape[-1:]).to(query.dtype).double() for y in (split(query), split(key)))
    added = None if mask is None else mask.double()[:, None, None]
    return F.scaled_dot_product_attention(q, k, split(value), added).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize(
    ("samples", "queries", "keys", "heads", "width"),
    [(2, 256, 256, 4, 56), (3, 64, 7, 4, 56), (2, 13, 33, 1, 96), (1, 5, 1, 2, 8), (2, 17, 50, 3, 5), (1, 9, 16, 1, 9)],
)
def test_as_torchs_attention(
    samples: int, queries: int, keys: int, heads: int, width: int, backend: str, dtype: torch.dtype
) -> None:
    """float32 to 5e-6; bfloat16 to what rounding queries (2^-9 of each) and shares costs: 1 % of the largest."""
    query = drawn(samples, queries, heads * width, dtype=dtype)
    told = 2 * drawn(samples, keys, 2 * heads * width, seed=1, dtype=dtype)
    hidden = drawn(samples, keys, seed=2) > 0.5
    hidden[:, 0] = False
    for mask in (None, torch.zeros(samples, keys).masked_fill(hidden, -torch.inf), drawn(samples, keys, seed=3)):
        found, true = attend(query, told, mask, heads=heads, backend=backend), plainly(query, told, mask, heads)
        assert found.dtype == dtype
        room = {torch.float32: 5e-6, torch.bfloat16: 0.01}[dtype] * true.abs().max()
        assert (found.double() - true).abs().max() <= room
        assert (found.double() - true).square().mean().sqrt() <= 0.3 * room


def test_what_is_hidden_is_not_seen_whatever_it_holds() -> None:
    query, told = drawn(1, 10, 16).bfloat16(), drawn(1, 20, 32, seed=1).bfloat16()
    mask = torch.zeros(1, 20)
    mask[:, 12:] = -torch.inf
    other = told.clone()
    other[:, 12:] *= 1e4
    found = [attend(query, given, mask, heads=2, backend="native") for given in (told, other)]
    assert torch.equal(*found)
    torch.testing.assert_close(attend(query, told[:, :12], heads=2, backend="native"), found[0])


def test_scores_far_apart_pick_one_key() -> None:
    """A mask of 300 for one key: its value comes out."""
    query, told, mask = drawn(1, 9, 24), drawn(1, 40, 48, seed=1), torch.zeros(1, 40)
    mask[0, 17] = 300.0
    found = attend(query, told, mask, heads=3, backend="native")
    torch.testing.assert_close(found, told[:, 17:18, 24:].expand(-1, 9, -1), atol=1e-6, rtol=1e-6)


def test_same_bits_for_any_number_of_threads() -> None:
    before, found = torch.get_num_threads(), []
    query, told = drawn(3, 30, 112).bfloat16(), drawn(3, 40, 224, seed=1).bfloat16()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(attend(query, told, heads=2, backend="native"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_wrong_inputs_are_named() -> None:
    query, told = drawn(2, 3, 8), drawn(2, 5, 16)
    for given, words in (
        ({"query": query.double()}, "float64"),
        ({"query": query[0]}, "query must be"),
        ({"told": told[..., :15]}, "told must be"),
        ({"told": told.bfloat16()}, "told is torch.bfloat16"),
        ({"told": told[:, :0]}, "no keys"),
        ({"heads": 3}, "3 heads of 8"),
        ({"mask": torch.zeros(2, 4)}, "mask must be"),
        ({"mask": torch.zeros(2, 5).bfloat16()}, "mask is torch.bfloat16"),
    ):
        whole = {"query": query, "told": told, "heads": 2} | given
        with pytest.raises(ValueError, match=words):
            attend(whole.pop("query"), whole.pop("told"), **whole)


def test_the_registered_op_is_sound() -> None:
    given = (drawn(2, 3, 8), drawn(2, 5, 16), torch.zeros(2, 5), 2)
    torch.library.opcheck(torch.ops.dreamlab.attend, given, test_utils=("test_schema", "test_faketensor"))
