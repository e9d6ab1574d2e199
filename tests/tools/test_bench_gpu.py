# SPDX-License-Identifier: Apache-2.0
"""`dreamlab bench gpu` at a tiny size on the CPU: its steps do what they are timed for."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

from benchmarks import gpu
from benchmarks.gpu import SD15, SDXL, Shape, Steps, blocks, encoder, goals
from dreamlab.core.errors import InputError

SMALL = {
    "sample_size": 4, "cross_attention_dim": 16, "attention_head_dim": 4, "block_out_channels": (8, 16),
    "layers_per_block": 1, "norm_num_groups": 4, "down_block_types": blocks("Down", "Block2D", True, False),
    "up_block_types": blocks("Up", "Block2D", False, True),
}  # fmt: skip
VAE = encoder(4, 8, 8, 8) | {"norm_num_groups": 4, "layers_per_block": 1}
TOLD = {
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 60,
}  # fmt: skip
TINY = Shape(32, 60, (3, 16), SMALL, VAE)
TOLD_MORE = Shape(32, 60, (3, 16), SMALL | TOLD, VAE, {"text_embeds": 12, "time_ids": 6})


@functools.cache
def steps(shape: Shape = TINY) -> Steps:
    return Steps(shape, "cpu", torch.float32)


def slopes(made: Steps, call: object, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What a step hands its optimiser."""
    found: list[Tensor] = []
    monkeypatch.setattr(made, "optimised", lambda: found.extend(t.grad.clone() for t in made.leaves))
    made.generator.manual_seed(3)
    for leaf in made.leaves:
        leaf.grad = None
    call()  # type: ignore[operator]
    return found


def test_the_incumbent_s_gradient_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    made = steps()
    ours, theirs = (slopes(made, call, monkeypatch) for call in (made.sds, made.incumbent))
    assert len(ours) == 5
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.abs().max() > 0
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4 * float(mine.abs().max()))


def test_hybrid_latents_are_exact_with_the_small_encoder_s_gradient() -> None:
    made, rgb = steps(), torch.rand(1, 3, 32, 32).requires_grad_()
    latents = {how: made.encoded(rgb, how) for how in ("exact", "tiny", "hybrid")}
    torch.testing.assert_close(latents["hybrid"], latents["exact"])
    slope = torch.randn(latents["tiny"].shape)
    small, mixed = (torch.autograd.grad(latents[how], rgb, slope)[0] for how in ("tiny", "hybrid"))
    assert torch.equal(small, mixed)


@pytest.mark.parametrize("shape", [TINY, TOLD_MORE], ids=["words", "words and sizes"])
def test_a_step_moves_the_splats_and_nothing_else(shape: Shape) -> None:
    made = steps(shape)
    before = [t.detach().clone() for t in made.leaves]
    weights = [p.clone() for p in made.unet.parameters()]
    made.sds(2, learning=True, inversions=1)
    assert all(not torch.equal(a, b) for a, b in zip(before, made.leaves, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights, made.unet.parameters(), strict=True))


def test_every_goal_is_measured_and_flops_grow_with_views() -> None:
    made = steps()
    checks = {check.name: check for check in goals(made, made, made, steps(TOLD_MORE), "cpu", repeats=1)}
    assert {name.split("_")[0] for name in checks} == {f"G{i}" for i in range(1, 7)}
    assert all(check.value >= 0 and check.floor for check in checks.values())
    one, four = (checks[f"G3_share_of_rate_{views}"].details["flops"] for views in ("1_view", "4_views"))
    assert four == pytest.approx(4 * one)  # type: ignore[operator]


def test_the_shapes_are_those_of_the_models() -> None:
    from diffusers import UNet2DConditionModel

    for shape, millions in ((SD15, 860), (SDXL, 2567)):  # as published
        with torch.device("meta"):
            net = UNet2DConditionModel(**shape.unet)
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=1)


def test_without_a_device_it_is_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    with pytest.raises(InputError, match="bench gpu: torch sees no CUDA device"):
        gpu.measure()
