# SPDX-License-Identifier: Apache-2.0
"""adam: against torch.optim where all rows are visible, against the twin, and what it must not touch."""

import pytest
import torch

from cuda_ext import build
from cuda_ext.adam import adam

BACKENDS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(build.compiler() is None, reason="needs a C++ compiler")),
]


def state(shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    param, grad = torch.randn(shape, generator=g), torch.randn(shape, generator=g)
    return [param, grad, torch.zeros(shape), torch.zeros(shape), torch.zeros((), dtype=torch.int64)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(37,), (50, 3), (41, 16, 3)])
def test_all_rows_visible_is_torch_adam(backend, shape):
    ours = state(shape)
    theirs = ours[0].clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.02, betas=(0.8, 0.99), eps=1e-6)
    for step in range(5):
        ours[1] = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        theirs.grad = ours[1].clone()
        optimiser.step()
        adam(*ours, lr=0.02, betas=(0.8, 0.99), eps=1e-6, backend=backend)
    torch.testing.assert_close(ours[0], theirs.detach(), rtol=1e-5, atol=1e-6)
    assert ours[4].item() == 5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("blocks", [False, True], ids=["scattered", "blocks"])
def test_hidden_rows_keep_their_bits_and_visible_ones_do_not_depend_on_them(backend, width, blocks):
    visible = torch.rand(461, generator=torch.Generator().manual_seed(1)) < 0.3
    if blocks:  # of 64: two together, and two by themselves with a mixed one between
        visible[:128], visible[128:192], visible[192:256], visible[320:384] = True, False, True, True
    ours, all_rows = state((461, width)), state((461, width))
    before = [t.clone() for t in ours[:4]]
    adam(*ours, lr=0.1, visible=visible, backend=backend)
    adam(*all_rows, lr=0.1, backend=backend)
    for now, then, everywhere in zip(ours[:4], before, all_rows[:4], strict=True):
        assert torch.equal(now[~visible], then[~visible])
        torch.testing.assert_close(now[visible], everywhere[visible], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_indices_are_a_mask(backend):
    rows = torch.tensor([4, 0, 17])
    mask = torch.zeros(20, dtype=torch.bool)
    mask[rows] = True
    a, b = state((20, 5)), state((20, 5))
    adam(*a, lr=0.1, visible=rows, backend=backend)
    adam(*b, lr=0.1, visible=mask, backend=backend)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("flag", [torch.tensor(1.0), torch.tensor(True), torch.tensor([1])])
def test_skip_leaves_everything_as_it_is(backend, flag):
    ours = state((20, 5))
    ours[1][3] = float("nan")
    before = [t.clone() for t in ours]
    adam(*ours, lr=0.1, skip=flag, backend=backend)
    assert all(torch.equal(x, y) for x, y in zip(ours[2:] + ours[:1], before[2:] + before[:1], strict=True))
    ours[1][3] = 0
    adam(*ours, lr=0.1, skip=flag * 0, backend=backend)
    assert ours[4].item() == 1 and not torch.equal(ours[0], before[0])


def test_native_matches_twin_over_steps():
    if build.compiler() is None:
        pytest.skip("needs a C++ compiler")
    native, twin = state((257, 14)), state((257, 14))
    g = torch.Generator().manual_seed(2)
    for _ in range(20):
        grad, visible = torch.randn(257, 14, generator=g), torch.rand(257, generator=g) < 0.4
        for tensors, backend in ((native, "native"), (twin, "torch")):
            tensors[1] = grad
            adam(*tensors, lr=0.01, visible=visible, backend=backend)
    torch.testing.assert_close(native[0], twin[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(native[3], twin[3], rtol=1e-5, atol=1e-6)


def test_empty_and_wrong():
    adam(*state((0, 3)), lr=0.1)
    with pytest.raises(ValueError, match=r"grad must be \[4, 3\]"):
        bad = state((4, 3))
        bad[1] = torch.zeros(4, 2)
        adam(*bad, lr=0.1)
    with pytest.raises(ValueError, match="contiguous"):
        bad = state((4, 3))
        bad[2] = torch.zeros(3, 4).T
        adam(*bad, lr=0.1)
