# SPDX-License-Identifier: Apache-2.0
"""On a CUDA device: splat and adam against the CPU, the same bits twice, a captured graph."""

import pytest
import torch

from cuda_ext.adam import adam
from cuda_ext.splat import splat
from dreamlab.core.cameras import orbit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NAMES = ("means", "quats", "scales", "opacities", "sh", "extra")


def run(device, count=800):
    g = torch.Generator().manual_seed(0)
    scene = {
        "means": 0.5 * torch.randn(count, 3, generator=g),
        "quats": torch.randn(count, 4, generator=g),
        "scales": 0.05 * (0.5 * torch.randn(count, 3, generator=g)).exp(),
        "opacities": 0.05 + 0.9 * torch.rand(count, generator=g),
        "sh": 0.4 * torch.randn(count, 9, 3, generator=g),
        "extra": torch.randn(count, 9, generator=g),
    }
    leaves = {name: tensor.to(device).requires_grad_() for name, tensor in scene.items()}
    cameras = orbit([0.0, 120.0], 15.0).to(device=device)
    first = [leaves[k] for k in NAMES[:4]]
    options = {"sh": leaves["sh"], "extra": leaves["extra"], "compensate": True, "backend": "native"}
    out = splat(*first, None, cameras.camera_to_world, cameras.focal_px(90), (90, 110), **options)
    loss = sum((x * x).sum() for x in (out.rgb, out.alpha, out.depth * out.alpha, out.normal, out.extra))
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return [out.rgb, out.alpha, out.depth * out.alpha, out.normal, out.extra], list(grads)


def test_splat_matches_the_cpu():
    pictures, grads = run("cpu")
    there, grads_there = run("cuda")
    for a, b in zip(pictures, there, strict=True):
        assert ((a - b.cpu()).abs() > 1e-4 + 1e-4 * a.abs()).float().mean() < 2e-3
    for name, a, b in zip(NAMES, grads, grads_there, strict=True):
        assert (a - b.cpu()).norm() < 1e-3 * a.norm(), name


def test_splat_same_bits_twice():
    first, second = run("cuda"), run("cuda")
    assert all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def test_splat_forward_in_a_graph():
    cameras = orbit([0.0], 15.0).to(device="cuda")
    g = torch.Generator().manual_seed(0)
    scene = [0.3 * torch.randn(200, 3, generator=g), torch.randn(200, 4, generator=g), torch.full((200, 3), 0.05)]
    scene = [t.cuda() for t in (*scene, torch.full((200,), 0.5), torch.rand(200, 3, generator=g))]
    rest = (cameras.camera_to_world, cameras.focal_px(64), (64, 64))
    eager = splat(*scene, *rest).rgb
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = splat(*scene, *rest).rgb
    graph.replay()
    torch.testing.assert_close(captured, eager, rtol=0, atol=0)


def test_adam_matches_the_cpu():
    g = torch.Generator().manual_seed(0)
    param, grad = torch.randn(300, 7, generator=g), torch.randn(300, 7, generator=g)
    visible = torch.rand(300, generator=g) < 0.5
    results = []
    for device in ("cpu", "cuda"):
        state = [param.clone().to(device), grad.to(device), *(torch.zeros(300, 7, device=device) for _ in range(2))]
        step = torch.zeros((), dtype=torch.int64, device=device)
        for _ in range(3):
            adam(*state, step, lr=0.05, visible=visible.to(device), backend="native")
        results.append(state[0].cpu())
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
