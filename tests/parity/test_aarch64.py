# SPDX-License-Identifier: Apache-2.0
"""The native ops on another processor: compiled for 64-bit Arm, run by an emulator, compared with this machine.

The library object is exchanged for one that ships every buffer of a call to a program under qemu and brings the answers
back into the same memory; wrappers, autograd and everything above run unchanged.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cuda_ext import build
from cuda_ext.adam import adam
from cuda_ext.antialias import antialias
from cuda_ext.attend import attend
from cuda_ext.hashgrid import HashGrid, encode
from cuda_ext.interpolate import interpolate
from cuda_ext.march import composite, march
from cuda_ext.modulate import modulate
from cuda_ext.raster import projection, raster
from cuda_ext.splat import splat
from cuda_ext.texture import texture
from cuda_ext.volume import volume
from dreamlab.core.cameras import turntable
from dreamlab.toybox.draw import draw
from dreamlab.toybox.shapes import program

COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
pytestmark = pytest.mark.skipif(
    COMPILER is None or EMULATOR is None,
    reason="needs aarch64-linux-gnu-g++ and qemu-aarch64 (Debian: g++-aarch64-linux-gnu, qemu-user)",
)


class Emulated:
    """Looks like the loaded library of an op; its functions run on the other processor."""

    known: dict[int, tuple[int, Tensor]] = {}  # noqa: RUF012 (address -> bytes and the tensor that keeps it alive)

    def __init__(self, op: str, folder: Path) -> None:
        source = build.SOURCES / f"{op}_cpu.cpp"
        names = re.findall(r"^DL_API [\w]+ (dl_\w+)\(", source.read_text(), re.MULTILINE)
        (folder / f"{op}.inc").write_text("".join(f"X({name})\n" for name in names))
        self.program, self.folder = folder / op, folder
        flags = [f for f in build.FLAGS if f not in ("-shared", "-fPIC", "-fvisibility=hidden")]
        command = [str(COMPILER), *flags, "-static", "-fopenmp", f'-DFUNCTIONS="{folder / op}.inc"']
        main = Path(__file__).with_name("aarch64_main.cpp")
        subprocess.run([*command, str(main), str(source), "-o", str(self.program), "-lm"], check=True)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("dl_"):
            raise AttributeError(name)
        function = Function(self, name)
        self.__dict__[name] = function
        return function


class Function:
    """One C function of the emulated library."""

    restype: Any = ctypes.c_int

    def __init__(self, library: Emulated, name: str) -> None:
        self.library, self.name = library, name

    def __call__(self, *arguments: Any) -> int:
        memory: list[tuple[int, int]] = []  # address, bytes
        relocations: list[tuple[int, int, int]] = []

        def buffer(address: int, size: int) -> int:
            if (address, size) not in memory:
                memory.append((address, size))
            return memory.index((address, size))

        def pointed(address: int) -> int:
            return buffer(address, Emulated.known[address][0])

        packed = []
        for argument in arguments:
            if hasattr(argument, "_obj"):  # ctypes.byref of a structure
                where = buffer(ctypes.addressof(argument._obj), ctypes.sizeof(argument._obj))
                for offset, address in pointers(argument._obj):
                    relocations.append((where, offset, pointed(address)))
                packed.append((1, where))
            elif isinstance(argument, ctypes.c_void_p):
                packed.append((1, pointed(argument.value)) if argument.value else (0, 0))
            else:
                packed.append((0, int(argument)))
        request = [struct.pack("<q", len(self.name)), self.name.encode(), struct.pack("<q", len(memory))]
        request += [struct.pack("<q", size) + ctypes.string_at(address, size) for address, size in memory]
        request.append(struct.pack("<q", len(relocations)))
        request += [struct.pack("<qqq", *relocation) for relocation in relocations]
        request.append(struct.pack("<q", len(packed)) + b"".join(struct.pack("<qq", *pair) for pair in packed))
        there, back = self.library.folder / "request", self.library.folder / "answer"
        there.write_bytes(b"".join(request))
        subprocess.run([str(EMULATOR), str(self.library.program), str(there), str(back)], check=True)
        answer = back.read_bytes()
        at = 8
        structures = {where for where, _, _ in relocations}
        for i, (address, size) in enumerate(memory):
            if i not in structures:  # a structure holds the other machine's pointers
                ctypes.memmove(address, answer[at : at + size], size)
            at += size
        (result,) = struct.unpack("<q", answer[:8])
        return result if self.restype is ctypes.c_int64 else ctypes.c_int(result & 0xFFFFFFFF).value


def pointers(structure: ctypes.Structure) -> list[tuple[int, int]]:
    """(offset, address) of every pointer that is set, arrays of pointers included."""
    found = []
    for name, kind, *_ in structure._fields_:
        offset, value = getattr(type(structure), name).offset, getattr(structure, name)
        if kind is ctypes.c_void_p and value:
            found.append((offset, value))
        elif isinstance(value, ctypes.Array) and kind._type_ is ctypes.c_void_p:
            found += [(offset + 8 * i, address) for i, address in enumerate(value) if address]
    return found


@pytest.fixture
def emulate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], dict[str, Emulated]]:
    """Call it to move every native op to the other processor until the test ends."""
    made: dict[str, Emulated] = {}
    true_pointer = build.pointer

    def pointer(tensor: Tensor | None) -> int | None:
        address = true_pointer(tensor)
        if address and tensor is not None:
            size = max(tensor.numel() * tensor.element_size(), Emulated.known.get(address, (0,))[0])
            Emulated.known[address] = (size, tensor)
        return address

    def library(op: str) -> Emulated:
        if op not in made:
            made[op] = Emulated(op, tmp_path)
        return made[op]

    def start() -> dict[str, Emulated]:
        Emulated.known = {}
        monkeypatch.setattr(build, "pointer", pointer)
        monkeypatch.setattr(build, "library", library)
        monkeypatch.setattr(build, "threads", lambda: 2)
        return made

    return start


def agree(here: list[Tensor], there: list[Tensor], flips: float = 2e-3) -> None:
    """Equal to float32 round-off, but for a bounded share of numbers that sit on a hard cut-off."""
    for i, (a, b) in enumerate(zip(here, there, strict=True)):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = a.detach().double(), b.detach().double()
        off = ~np.isclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max().clamp(min=1e-6)))
        assert off.mean() <= flips, f"output {i}: {off.sum()} of {off.size} differ"


def both(
    run: Callable[[], list[Tensor]], emulate: Callable[[], dict[str, Emulated]]
) -> tuple[list[Tensor], list[Tensor]]:
    here = run()
    made = emulate()
    there = run()
    assert made and all((library.folder / "answer").exists() for library in made.values()), "nothing was emulated"
    return here, there


def test_splat(emulate: Callable[[], dict[str, Emulated]]) -> None:
    def run() -> list[Tensor]:
        g = torch.Generator().manual_seed(0)
        direction = torch.randn(200, 3, generator=g)
        tensors = [0.4 * direction, torch.randn(200, 4, generator=g), 0.05 + 0.05 * torch.rand(200, 3, generator=g)]
        tensors += [torch.rand(200, generator=g), torch.rand(200, 3, generator=g)]
        for tensor in tensors:
            tensor.requires_grad_()
        cameras = turntable(2)
        shown = splat(*tensors, cameras.camera_to_world, cameras.focal_px(33), (33, 33), backend="native")
        pictures = [shown.rgb, shown.alpha, shown.depth, shown.normal]
        loss = sum((p * torch.randn(p.shape, generator=g)).sum() for p in pictures)
        return [*pictures, *torch.autograd.grad(loss, tensors)]  # type: ignore[arg-type]

    agree(*both(run, emulate))


def test_hashgrid(emulate: Callable[[], dict[str, Emulated]]) -> None:
    def run() -> list[Tensor]:
        g = torch.Generator().manual_seed(0)
        grid = HashGrid(levels=6, log2_entries=10)
        x = torch.rand(300, 3, generator=g).requires_grad_()
        table = grid.init_table(g).detach().mul(1e3).requires_grad_()
        out = encode(x, table, grid, backend="native")
        return [out, *torch.autograd.grad((out * torch.randn(out.shape, generator=g)).sum(), [x, table])]

    agree(*both(run, emulate))


def test_triangles(emulate: Callable[[], dict[str, Emulated]]) -> None:
    def run() -> list[Tensor]:
        import trimesh

        g = torch.Generator().manual_seed(0)
        ball = trimesh.creation.icosphere(subdivisions=2)
        faces = torch.from_numpy(np.array(ball.faces)).int()
        vertices = torch.from_numpy(np.array(ball.vertices)).float()
        cameras = turntable(2)
        view = cameras.world_to_camera()
        camera = torch.cat([vertices, torch.ones(len(vertices), 1)], 1) @ view.transpose(1, 2)
        clip = (camera @ projection(40.0, 1.0, 0.1, 10.0).transpose(-1, -2)).contiguous().requires_grad_()
        image = torch.rand(16, 16, 3, generator=g).requires_grad_()
        hit = raster(clip, faces, (40, 40), backend="native")
        uv, slope = interpolate(vertices[:, :2].contiguous(), hit, faces, derivatives=True, backend="native")
        color = texture(image, uv, uv_dxy=slope.flatten(-2), backend="native")
        soft = antialias(color, hit, clip, faces, backend="native")
        return [hit.triangle, hit.uv, color, soft, *torch.autograd.grad(soft.square().sum(), [clip, image])]

    agree(*both(run, emulate), flips=5e-3)


def test_volume(emulate: Callable[[], dict[str, Emulated]]) -> None:
    def run() -> list[Tensor]:
        g = torch.Generator().manual_seed(0)
        grid = torch.randn(2, 6, 6, 6, 20, generator=g).requires_grad_()
        near, direction = (0.5 * torch.randn(3, 50, 3, generator=g) for _ in range(2))
        direction = torch.nn.functional.normalize(direction, dim=-1)
        seen = volume(grid, torch.tensor([0, 1, 0]), near, direction, samples=14, shift=2.0, backend="native")
        return [seen, *torch.autograd.grad(seen.square().sum(), [grid])]

    agree(*both(run, emulate))


def test_march(emulate: Callable[[], dict[str, Emulated]]) -> None:
    def run() -> list[Tensor]:
        g = torch.Generator().manual_seed(0)
        origins = torch.tensor([0.0, 0.0, 3.0]) + 0.1 * torch.randn(60, 3, generator=g)
        directions = torch.nn.functional.normalize(torch.randn(60, 3, generator=g) - origins, dim=-1)
        occupied = torch.rand(8, 8, 8, generator=g) < 0.3
        box = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
        samples = march(origins, directions, occupied, box, step=0.05, backend="native")
        points = samples.points(origins, directions)
        inputs = [(8 * torch.sin(5 * points).abs().sum(1)).requires_grad_(), points.sigmoid().requires_grad_()]
        got = composite(*inputs, samples, backend="native")
        outputs = [got.rgb, got.alpha, got.depth, got.distortion]
        loss = sum((o * torch.randn(o.shape, generator=g)).sum() for o in outputs)
        return [points, *outputs, *torch.autograd.grad(loss, inputs)]  # type: ignore[arg-type]

    agree(*both(run, emulate))


def test_rows_of_the_prior(emulate: Callable[[], dict[str, Emulated]]) -> None:
    def run() -> list[Tensor]:
        g = torch.Generator().manual_seed(0)
        found = []
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(2, 9, 40, generator=g).to(dtype).requires_grad_()
            told = torch.randn(2, 80, generator=g).to(dtype).requires_grad_()
            for tensor in (x, told):
                build.pointer(tensor)  # modulate hands over addresses of what need not be dense
            y = modulate(x, told, silu=True, backend="native")
            seen = attend(x.detach(), torch.cat([x, x], -1).detach(), heads=2, backend="native")
            found += [y, *torch.autograd.grad(y.float().square().sum(), [x, told]), seen]
        return [value.float() for value in found]

    agree(*both(run, emulate), flips=5e-3)


def test_world(emulate: Callable[[], dict[str, Emulated]]) -> None:
    def run() -> list[Tensor]:
        shown = draw(program("duck"), turntable(2), 24)
        return [shown.rgb, shown.alpha, shown.depth, shown.normal]

    agree(*both(run, emulate), flips=1e-2)


def test_adam(emulate: Callable[[], dict[str, Emulated]]) -> None:
    def run() -> list[Tensor]:
        g = torch.Generator().manual_seed(0)
        tensors = [torch.rand(70, 3, generator=g) for _ in range(4)]
        step = torch.tensor(3)
        for tensor in tensors:
            build.pointer(tensor)  # adam hands its buffers over itself
        adam(*tensors, step, lr=0.1, visible=torch.rand(70, generator=g) < 0.5, backend="native")
        return [*tensors, step]

    agree(*both(run, emulate))
