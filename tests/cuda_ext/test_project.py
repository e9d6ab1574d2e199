# SPDX-License-Identifier: Apache-2.0
"""`project` against torch's own layers in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ext import build
from cuda_ext.project import pack, project

BACKENDS = ("native", "torch")
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def _native() -> None:
    if build.compiler() is None:
        pytest.skip("no host compiler")


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def plainly(x: Tensor, weight: Tensor, bias: Tensor | None, step: int, children: bool, how: dict[str, Any]) -> Tensor:
    """Torch's layers one after another in float64; the product's input is rounded as the op says."""
    shape = (len(x), *(x.dim() - 2) * [1], -1)
    y = x.double()
    if how.get("normed"):
        y = F.layer_norm(y, y.shape[-1:])
    if how.get("told") is not None:
        a, b = how["told"].double().reshape(shape).chunk(2, -1)
        y = y * (1 + a) + b
    y = (F.silu(y) if how.get("silu") else y).to(x.dtype).double()
    weight, bias = weight.double(), None if bias is None else bias.double()
    if weight.dim() == 2:
        y = F.linear(y, weight, bias)
    else:
        y = F.conv2d(y.permute(0, 3, 1, 2), weight, bias, step, 1).permute(0, 2, 3, 1)
    y = {"none": lambda y: y, "relu2": lambda y: F.relu(y) ** 2, "silu": F.silu}[how.get("act", "none")](y)
    y = y if how.get("gate") is None else y * how["gate"].double().reshape(shape)
    if children:
        parts = y.chunk(4, -1)
        y = torch.stack([torch.stack(parts[:2], 3), torch.stack(parts[2:], 3)], 2).flatten(3, 4).flatten(1, 2)
    return y if how.get("residual") is None else y + how["residual"].double()


SHAPES = [  # of x, outputs, taps, step, children
    ((2, 16, 16, 32), 48, 9, 1, False), ((2, 20, 16, 32), 48, 9, 2, False), ((3, 8, 8, 6), 32, 9, 1, False),
    ((2, 6, 10, 48), 3, 9, 1, False), ((1, 40, 6, 5), 20, 9, 1, False), ((2, 4, 6, 21), 192, 1, 1, True),
    ((2, 70, 224), 672, 1, 1, False), ((2, 64, 672), 224, 1, 1, False), ((3, 5, 7, 33), 17, 1, 1, False),
    ((5, 56), 64, 1, 1, False),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("shape", "outputs", "taps", "step", "children"), SHAPES)
def test_as_torchs_layers(
    shape: tuple[int, ...], outputs: int, taps: int, step: int, children: bool, backend: str, dtype: torch.dtype
) -> None:
    """float32 to 5e-6 of the largest; of bfloat16 the input may round the other way here and there, the result does."""
    b, *size, c = shape
    weight = drawn(outputs, c, *(taps > 1) * (3, 3), seed=1, dtype=dtype) / (c * taps) ** 0.5
    bias, x = drawn(outputs, seed=2, dtype=dtype), drawn(*shape, dtype=dtype)
    out = [n * 2 if children else n // step for n in size]
    like = (b, *out, outputs // 4 if children else outputs)
    told, gate = drawn(b, 2 * c, seed=3, dtype=dtype), drawn(b, outputs, seed=4, dtype=dtype)
    ways: list[dict[str, Any]] = [
        {},
        {"told": told, "normed": True, "silu": True, "act": "silu", "residual": drawn(*like, seed=5, dtype=dtype)},
        {"normed": True, "act": "relu2", "gate": gate},
        {"silu": True, "wide": True, "residual": drawn(*like, seed=5)},
    ]
    for i, how in enumerate(ways):
        given = None if i == 2 else bias
        layer = pack(weight, given)
        found = project(x, layer, step=step, children=children, backend=backend, **how)
        true = plainly(x, weight, given, step, children, how)
        assert found.shape == like and found.dtype == (torch.float32 if how.get("wide") else dtype)
        room = 5e-6 * true.abs().max() if dtype == torch.float32 else 2**-8 * true.abs() + 2**-9 * true.abs().max()
        assert ((found.double() - true).abs() <= room).all(), i


def test_pairs_of_bfloat16_are_summed_in_float32_in_any_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of numbers that bfloat16 holds are exact: the portable way and this machine's instruction agree."""
    x = torch.randint(-8, 9, (2, 8, 8, 12), generator=torch.Generator().manual_seed(0)).bfloat16()
    weight = torch.randint(-4, 5, (20, 12, 3, 3), generator=torch.Generator().manual_seed(1)).bfloat16()
    layer, found = pack(weight, None), []
    for isa in ("portable", build.machine_isa()):
        monkeypatch.setenv("DREAMLAB_ISA", isa)
        build.library.cache_clear()
        try:
            found.append(project(x, layer, wide=True, backend="native"))
        finally:
            monkeypatch.undo()
            build.library.cache_clear()
    exact = F.conv2d(x.double().permute(0, 3, 1, 2), weight.double(), padding=1).permute(0, 2, 3, 1).float()
    assert torch.equal(found[0], exact) and torch.equal(found[1], exact)


def test_same_bits_for_any_number_of_threads_and_samples() -> None:
    before, found = torch.get_num_threads(), []
    layer = pack(drawn(48, 32, 3, 3, dtype=torch.bfloat16), drawn(48))
    x = drawn(3, 40, 12, 32, dtype=torch.bfloat16)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(project(x, layer, normed=True, silu=True, backend="native"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])
    alone = torch.cat([project(one[None], layer, normed=True, silu=True, backend="native") for one in x])
    assert torch.equal(found[0], alone)


def test_wrong_inputs_are_named() -> None:
    x, layer = drawn(2, 4, 4, 8), pack(drawn(16, 8, 3, 3), None)
    flat = pack(drawn(16, 8), None)
    for given, words in (
        ({"x": x.double()}, "float64"),
        ({"x": x.bfloat16()}, "packed as torch.float32"),
        ({"x": x[..., :7]}, "for 8 inputs"),
        ({"act": "gelu"}, "none, relu2, silu"),
        ({"step": 3}, "step is 1, or 2"),
        ({"step": 2, "x": x[:, :3]}, "in steps of 2"),
        ({"x": x[0]}, r"must be \[B, H, W, C\]"),
        ({"layer": flat, "children": True}, "16 outputs of four children"),
        ({"residual": x}, "residual must be"),
        ({"gate": x[0, 0]}, "gate must be"),
        ({"told": drawn(2, 16).bfloat16()}, "told is torch.bfloat16"),
    ):
        whole = {"x": x, "layer": layer} | given
        with pytest.raises(ValueError, match=words):
            project(whole.pop("x"), whole.pop("layer"), **whole)
    with pytest.raises(ValueError, match="weight is"):
        pack(drawn(4, 4, 5, 5), None)


def test_the_registered_op_is_sound() -> None:
    layer = pack(drawn(64, 8), drawn(64))
    given = (drawn(2, 4, 4, 8), layer.weight, layer.bias, drawn(2, 16), drawn(2, 64), None)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.dreamlab.project, (*given, 64, 1, True, False, "relu2", True, True), test_utils=tests
    )
