# SPDX-License-Identifier: Apache-2.0
"""What a call costs at full size is what was counted of the published networks: nothing hidden, nothing left out."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers")

from guidance.layouts import LAYOUTS
from guidance.layouts.build import construct
from guidance.layouts.calls import CALLS, encoder_flops, flops, inputs

TERA = 1e12
# height, width and frames of the latents, 10^12 operations (guidance.md 12.4, performance.md 3)
CHEAP = {
    ("sd15", "unet", 64, 64, 1): 0.803,
    ("mvdream", "unet", 32, 32, 1): 0.181,
    ("zero123", "unet", 32, 32, 1): 0.176,
    ("sdxl", "unet", 128, 128, 1): 6.761,
    ("controlnet-sd15", "", 64, 64, 1): 0.283,
    ("controlnet-sdxl", "", 128, 128, 1): 3.02,
    ("if1xl", "unet", 64, 64, 1): 2.88,
    ("sd3", "transformer", 64, 64, 1): 2.11,
    ("flux2-klein-4b", "transformer", 64, 64, 1): 10.2,
    ("modelscope", "unet", 40, 72, 16): 14.3,
    ("wan21-1.3b", "transformer", 60, 104, 5): 31.6,  # 17 frames
    ("cogvideox-2b", "transformer", 60, 90, 13): 120,  # 49 frames
}
DEAR = {  # other sizes of the same networks, and their siblings
    ("if1m", "unet", 64, 64, 1): 0.229,
    ("sd21v", "unet", 96, 96, 1): 2.149,
    ("sd21", "unet", 64, 64, 1): 0.804,
    ("sd15", "unet", 32, 32, 1): 0.180,
    ("sdxl", "unet", 64, 64, 1): 1.589,
    ("sd3", "transformer", 128, 128, 1): 8.90,
    ("sd35l", "transformer", 128, 128, 1): 31.1,
    ("flux1-dev", "transformer", 64, 64, 1): 21.5,
    ("flux1-dev", "transformer", 128, 128, 1): 74.4,
    ("flux2-klein-4b", "transformer", 128, 128, 1): 34.8,
    ("wan21-1.3b", "transformer", 60, 104, 21): 283,
    ("wan22-5b", "transformer", 44, 80, 31): 517,
}
RELEASE = [pytest.param(*key, marks=pytest.mark.release) for key in DEAR]


@pytest.mark.parametrize(("name", "folder", "height", "width", "frames"), [*CHEAP, *RELEASE])
def test_a_call_costs_what_was_counted(name: str, folder: str, height: int, width: int, frames: int) -> None:
    expected = (CHEAP | DEAR)[name, folder, height, width, frames]
    assert flops(name, folder, height, width, frames) / TERA == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize(
    ("name", "pixels", "backward", "way", "expected"),
    [
        ("sd15", 256, False, "encode", 0.273),
        ("sd15", 512, False, "encode", 1.117),
        ("sd15", 1024, False, "encode", 4.879),
        ("sd15", 256, True, "encode", 0.548),
        ("sd15", 512, True, "encode", 2.268),
        ("sd15", 1024, True, "encode", 10.308),
        ("sd15", 512, False, "decode", 2.515),
        ("sd15", 1024, False, "decode", 10.47),
        ("taesd", 512, False, "encode", 0.122),
        ("taesd", 512, True, "encode", 0.245),
    ],
)
def test_pictures_cost_what_was_counted(name: str, pixels: int, backward: bool, way: str, expected: float) -> None:
    assert encoder_flops(name, pixels, backward, way) / TERA == pytest.approx(expected, rel=0.005)


@pytest.mark.slow
def test_animatediff_costs_what_was_counted() -> None:
    """Sixteen frames of Stable Diffusion 1.5 with the second motion adapter; its parameters and keys likewise."""
    from diffusers import UNetMotionModel
    from torch.utils.flop_counter import FlopCounterMode

    unet, adapter = construct(LAYOUTS["sd15"].part("unet"), "full"), construct(LAYOUTS["motion-v2"].part(""), "full")
    with torch.device("meta"), torch.no_grad():
        net = UNetMotionModel.from_unet2d(unet, adapter, load_weights=False).eval()
        assert sum(value.numel() for value in net.parameters()) == 1_312_730_244
        assert len(net.state_dict()) == 1253
        with FlopCounterMode(display=False) as counter:
            net(torch.randn(1, 4, 16, 64, 64), torch.randn(1), torch.randn(16, 77, 768))
    assert counter.get_total_flops() / TERA == pytest.approx(17.8, rel=0.005)


DENOISERS = [(name, part.folder) for name, layout in LAYOUTS.items() for part in layout.parts if part.kind in CALLS]


@pytest.mark.parametrize(("name", "folder"), DENOISERS)
def test_a_tiny_denoiser_answers_to_every_input(name: str, folder: str) -> None:
    """Random networks with filled convolutions react to all they are given: a swapped input would be seen."""
    network = LAYOUTS[name].part(folder)
    generator = torch.Generator().manual_seed(0)
    net = construct(network, "tiny", "cpu")
    with torch.no_grad():
        for value in net.parameters():
            scale = 0.3 if value.dim() < 2 else value[0].numel() ** -0.5
            value.copy_(scale * torch.randn(value.shape, generator=generator) + (value.dim() == 1))
    frames = 3 if network.kind.startswith(("UNet3D", "UNetSpatio", "Cog", "Wan")) else 1
    if network.full.get("patch_size_t"):
        frames = 4
    given = inputs(network, "tiny", (1, frames, 8, 8), lambda *shape: torch.randn(shape, generator=generator))
    given = {key: value for key, value in given.items() if value is not None}

    def told(changed: str) -> torch.Tensor:
        moved = {key: _moved(value) if key == changed else value for key, value in given.items()}
        with torch.no_grad():
            out = net(**moved, return_dict=False)
        parts = out if isinstance(out, tuple) else (out,)
        flat = [one for part in parts for one in (part if isinstance(part, list | tuple) else [part])]
        return torch.cat([one.flatten() for one in flat])

    before = told("")
    for key in given:
        if key not in ("txt_ids",):  # all zero in every pipeline
            assert (told(key) - before).abs().max() > 1e-5, f"{key} changes nothing"


def _moved(value: object) -> object:
    """The same argument, other numbers."""
    if isinstance(value, dict):
        return {key: _moved(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(inner) for inner in value)
    assert isinstance(value, torch.Tensor)
    return 0.7 * value.roll(1, -1) + 0.1
