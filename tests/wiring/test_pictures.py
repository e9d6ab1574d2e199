# SPDX-License-Identifier: Apache-2.0
"""Every picture that is written, read back by programs that are not ours: which channel is red, which view lies where,
which way is up, and the colour behind."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.types import Frames, Offer, ParamGroup, Training
from dreamlab.export import export_pictures
from dreamlab.export.png import png_bytes
from dreamlab.recipe.picture import PictureSettings, png_of, read_picture
from dreamlab.run.folder import Run
from dreamlab.run.preview import CHUNK, orbit_views, render_views, save_between, save_preview, save_sheet, save_video
from tests.wiring.toy import Still

CPU = torch.device("cpu")


def shade(azimuth: float, time: float, tint: float = 0.0) -> tuple[float, float, float]:
    """Red tells the azimuth, green the time, blue whose scene it is."""
    return (azimuth % 360) / 400, 0.2 + 0.6 * time, tint


@dataclass
class Painted(Still):
    """A still for every camera: half covered by the colour that its azimuth and time stand for; the picture's upper
    half darker than its lower one, its left one than its right one."""

    tint: float = 0.0
    kind: ClassVar[str] = "painted"

    def groups(self) -> Mapping[str, ParamGroup]:
        return {}

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        assert training is None and not torch.is_grad_enabled() and len(cameras) <= CHUNK
        times = torch.zeros(len(cameras)) if cameras.time is None else cameras.time
        pairs = zip(cameras.azimuth_deg.tolist(), times.tolist(), strict=True)
        colour = torch.tensor([shade(azimuth, time, self.tint) for azimuth, time in pairs])
        picture = colour[:, None, None].expand(-1, size, size, -1).clone()
        picture[:, : size // 2] *= 0.5
        picture[:, :, : size // 2] *= 0.5
        alpha = torch.full((*picture.shape[:3], 1), 0.5)
        rgb = 0.5 * picture + 0.5 * background[:, None, None]
        return Frames(rgb, alpha, alpha, background)

    def offer(self, resolution: int) -> Offer:
        raise NotImplementedError


def check_view(cell: np.ndarray, colour: Sequence[float], tolerance: float = 1.0) -> None:
    """A cell [S, S, 3] of bytes is the painted view of this colour over white."""
    size = len(cell)
    centre = slice(size // 8, size // 2 - size // 8), slice(size // 2 + size // 8, size - size // 8)
    for rows, up in zip(centre, (0.5, 1.0), strict=True):
        for columns, left in zip(centre, (0.5, 1.0), strict=True):
            expected = 255 * (0.5 * np.array(colour) * up * left + 0.5)
            np.testing.assert_allclose(cell[rows, columns].reshape(-1, 3).mean(0), expected, atol=tolerance)


def cells(path: Path, size: int) -> list[np.ndarray]:
    """The cells of a sheet, row by row."""
    sheet = np.asarray(Image.open(path))
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    return [
        sheet[y : y + size, x : x + size]
        for y in range(0, sheet.shape[0], size)
        for x in range(0, sheet.shape[1], size)
    ]


def test_views_are_shown_in_order_over_white_in_bounded_batches() -> None:
    made = list(render_views(Painted(), orbit_views(20), 16, CPU))  # type: ignore[arg-type]
    assert len(made) == 20
    for i, picture in enumerate(made):
        check_view(picture, shade(18.0 * i, i / 20))


def test_a_preview_shows_four_sides_from_left_to_right(tmp_path: Path) -> None:
    save_preview(Painted(), tmp_path / "p.png", CPU, 32)  # type: ignore[arg-type]
    found = cells(tmp_path / "p.png", 32)
    assert len(found) == 4
    for i, cell in enumerate(found):
        check_view(cell, shade(90.0 * i, i / 4))
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_a_sheet_is_filled_row_by_row_and_ends_in_white(tmp_path: Path) -> None:
    save_sheet([np.full((4, 4, 3), (10 * i, 200, 30), np.uint8) for i in range(5)], tmp_path / "s.png", 3)
    found = cells(tmp_path / "s.png", 4)
    assert [tuple(cell[0, 0]) for cell in found] == [*((10 * i, 200, 30) for i in range(5)), (255, 255, 255)]


def frames_of(path: Path, size: int) -> np.ndarray:
    """[N, size, size, 3] as ffmpeg decodes them."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-f", "rawvideo"]
    data = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, size, size, 3)


def test_a_video_holds_the_frames_in_order_in_their_colours(tmp_path: Path) -> None:
    views = render_views(Painted(tint=0.9), orbit_views(10), 64, CPU)  # type: ignore[arg-type]
    save_video(views, tmp_path / "v.mp4", 64)
    found = frames_of(tmp_path / "v.mp4", 64)
    assert len(found) == 10
    for i, frame in enumerate(found):
        check_view(frame, shade(36.0 * i, i / 10, 0.9), tolerance=6.0)  # H.264 and 4:2:0


def test_the_pictures_of_an_export_are_once_around_at_the_recipe_s_size_and_count(tmp_path: Path) -> None:
    from dreamlab.recipe import load
    from dreamlab.recipe.tables import TABLES
    from tests.conftest import TINY

    recipe = load(TINY, TABLES, overrides=["export.size=64", "export.turntable=5"])
    run = Run.create(tmp_path, TINY, recipe.prompt, [])
    paths = export_pictures(run, recipe, Painted(), 7, CPU)  # type: ignore[arg-type]
    assert [path.name for path in paths] == ["contact.png", "poster.png", "turntable.mp4"]
    found = cells(paths[0], 64)
    assert len(found) == 12 and Image.open(paths[0]).size == (4 * 64, 3 * 64)
    for i, cell in enumerate(found):
        check_view(cell, shade(30.0 * i, i / 12))
    turning = frames_of(paths[2], 64)
    assert len(turning) == 5
    for i, frame in enumerate(turning):
        check_view(frame, shade(72.0 * i, i / 5), tolerance=6.0)


class Pair:
    """A maker of two prompts whose scenes tell themselves apart by blue."""

    def tell(self, codes: Tensor) -> None: ...

    def made(self, index: int) -> Any:
        return Painted(0.3 + 0.4 * index)

    def count(self) -> int:
        return 2

    def each(self) -> Iterator[Any]:
        return (self.made(i) for i in range(2))

    def between(self, first: int, second: int, share: float) -> Any:
        return Painted(0.3 + 0.4 * (first + (second - first) * share))


def test_several_prompts_have_a_row_each_and_a_way_from_one_to_the_other(tmp_path: Path) -> None:
    save_preview(Pair(), tmp_path / "p.png", CPU, 32)  # type: ignore[arg-type]
    for i, cell in enumerate(cells(tmp_path / "p.png", 32)):
        check_view(cell, shade(90.0 * (i % 4), i % 4 / 4, 0.3 + 0.4 * (i // 4)))
    save_between(Pair(), tmp_path / "b.png", CPU, 32, 5)  # type: ignore[arg-type]
    found = cells(tmp_path / "b.png", 32)
    assert len(found) == 5
    for i, cell in enumerate(found):
        check_view(cell, shade(45.0, 1 / 8, 0.3 + 0.4 * i / 4))


def test_textures_keep_their_channels_and_rows() -> None:
    picture = torch.zeros(4, 6, 3)
    picture[0, 0] = torch.tensor([1.0, 0.5, 0.2])
    picture[3, 5] = torch.tensor([0.0, 0.2, 1.0])
    read = np.asarray(Image.open(io.BytesIO(png_bytes(picture))))
    assert read.shape == (4, 6, 3) and read[0, 0].tolist() == [255, 128, 51] and read[3, 5].tolist() == [0, 51, 255]
    single = np.asarray(Image.open(io.BytesIO(png_bytes(picture[..., 2:]))))
    assert single.shape == (4, 6) and single[0, 0] == 51 and single[3, 5] == 255


CORNERS = {"top left": (255, 0, 0), "top right": (0, 200, 0), "bottom left": (0, 0, 255), "bottom right": (250, 240, 0)}


def given(mode: str, kind: str) -> bytes:
    """64 x 64: four colours, and nothing (or white) around them."""
    pixels = np.zeros((64, 64, 4), np.uint8) if mode == "RGBA" else np.full((64, 64, 4), 255, np.uint8)
    for (name, colour), (y, x) in zip(CORNERS.items(), [(8, 8), (8, 32), (32, 8), (32, 32)], strict=True):
        assert name
        pixels[y : y + 24, x : x + 24] = (*colour, 255)
    kept = io.BytesIO()
    Image.fromarray(pixels if mode == "RGBA" else pixels[..., :3]).save(
        kept, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {})
    )
    return kept.getvalue()


@pytest.mark.parametrize(("mode", "kind"), [("RGBA", "PNG"), ("RGB", "PNG"), ("RGB", "JPEG")])
def test_a_given_picture_keeps_its_colours_and_sides(tmp_path: Path, mode: str, kind: str) -> None:
    path = tmp_path / "given"
    path.write_bytes(given(mode, kind))
    settings = PictureSettings(fill=0.0, elevation_deg=11.0, distance=2.7, fovy_deg=35.0)
    reference = read_picture(path, settings)
    assert reference.rgb.shape == (64, 64, 3)
    for colour, (y, x) in zip(CORNERS.values(), [(20, 20), (20, 44), (44, 20), (44, 44)], strict=True):
        np.testing.assert_allclose(255 * reference.rgb[y, x], colour, atol=6 if kind == "JPEG" else 0.01)
        assert reference.alpha[y, x] == 1
    assert reference.alpha[2, 2] == 0 and reference.alpha[60, 60] == 0
    camera = reference.camera
    told = [float(value[0]) for value in (camera.azimuth_deg, camera.elevation_deg, camera.distance, camera.fovy_deg)]
    assert told == [0.0, 11.0, pytest.approx(2.7), 35.0]
    own = np.asarray(Image.open(io.BytesIO(png_of(reference))))  # the run's copy
    assert own.shape == (64, 64, 4) and own[2, 2, 3] == 0
    np.testing.assert_allclose(own[20, 20], (*CORNERS["top left"], 255), atol=6 if kind == "JPEG" else 0)
    np.testing.assert_allclose(own[44, 20], (*CORNERS["bottom left"], 255), atol=6 if kind == "JPEG" else 0)


def test_a_picture_turned_by_its_camera_is_put_upright(tmp_path: Path) -> None:
    """EXIF orientation 6: stored on its side, a quarter turn clockwise makes it right."""
    upright = Image.open(io.BytesIO(given("RGB", "PNG")))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif, quality=95, subsampling=0)
    reference = read_picture(tmp_path / "turned.jpg", PictureSettings(fill=0.0))
    np.testing.assert_allclose(255 * reference.rgb[20, 20], CORNERS["top left"], atol=8)
    np.testing.assert_allclose(255 * reference.rgb[44, 44], CORNERS["bottom right"], atol=8)
