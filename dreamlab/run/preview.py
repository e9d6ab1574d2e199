# SPDX-License-Identifier: Apache-2.0
"""Pictures of a scene for people: previews while it forms, a contact sheet and a turntable at the end."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, turntable
from dreamlab.core.errors import InputError
from dreamlab.core.types import Frames, Maker, Scene

ELEVATION_DEG, DISTANCE, FOVY_DEG = 15.0, 3.2, 42.0
SHOWN = 4  # prompts in a preview
PREVIEW = 128  # pixels a side of one of its views
FPS = 24
CHUNK = 8  # views rendered in one call; bounds memory
RUNS = 3  # zlib's Z_RLE: PNGs of renders in a third of the time, and within 15 % of the size, of a search for matches


def seen_by(scene: Scene, cameras: Cameras, size: int, device: torch.device) -> Iterator[Frames]:
    """Frames over white, some cameras at a time."""
    for start in range(0, len(cameras), CHUNK):
        some = cameras[start : start + CHUNK].to(device)
        with torch.no_grad():  # never across a yield: two of these in turn would end in each other's state
            frames = scene.render(some, size, torch.ones(len(some), 3, device=device))
        yield frames


def render_views(scene: Scene, cameras: Cameras, size: int, device: torch.device) -> Iterator[np.ndarray]:
    """uint8 pictures [H, W, 3] over white, one per camera."""
    for frames in seen_by(scene, cameras, size, device):
        yield from to_bytes(frames.rgb)


def to_bytes(rgb: Tensor) -> np.ndarray:
    """[B, H, W, 3] in [0, 1] to uint8, rounded."""
    return (rgb * 255).add_(0.5).clamp_(0.5, 255.5).byte().cpu().numpy()


def orbit_views(count: int) -> Cameras:
    """Once around the object, and once through its motion if it moves."""
    return replace(turntable(count, ELEVATION_DEG, DISTANCE, FOVY_DEG), time=torch.arange(count) / count)


def save_preview(
    scene: Scene,
    path: Path,
    device: torch.device,
    size: int = PREVIEW,
    which: Sequence[int] | None = None,
    saw: Callable[[Frames], object] = lambda frames: None,
) -> None:
    """Four sides in a row; a row for each prompt of a maker, or for some of them. `saw` is shown each row's frames."""
    shown: Iterable[Scene] = (scene,)
    if isinstance(scene, Maker):
        shown = scene.each() if which is None else (scene.made(i) for i in which)
    views: list[np.ndarray] = []
    for one in shown:
        for frames in seen_by(one, orbit_views(4), size, device):
            saw(frames)
            views += list(to_bytes(frames.rgb))
    save_sheet(views, path, columns=4)


def handful(scene: Scene, turn: int) -> list[int] | None:
    """The prompts that preview `turn` shows of a maker's many, the next ones each time; a preview of a thousand costs
    what one of a few does."""
    if not isinstance(scene, Maker):
        return None
    count = scene.count()
    return [(turn * SHOWN + k) % count for k in range(SHOWN)] if count > SHOWN else list(range(count))


def save_between(maker: Maker, path: Path, device: torch.device, size: int, columns: int = 7) -> None:
    """A row for each pair of neighbouring prompts: one view of the scenes of codes on the line between them."""
    pairs = [(i, i + 1) for i in range(maker.count() - 1)]
    shares = torch.linspace(0, 1, columns).tolist()
    made = (maker.between(*pair, share) for pair in pairs for share in shares)
    save_sheet([next(render_views(one, orbit_views(8)[1:2], size, device)) for one in made], path, columns)


def save_sheet(pictures: list[np.ndarray], path: Path, columns: int, text: Mapping[str, str] | None = None) -> None:
    """A grid of equally sized pictures as one PNG, with words by name inside."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    blank = np.full_like(pictures[0], 255)
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    rows[-1] = rows[-1] + [blank] * (columns - len(rows[-1]))
    sheet = np.concatenate([np.concatenate(row, 1) for row in rows], 0)
    temporary = path.with_name(f".{path.name}.tmp")
    told = PngInfo()
    for name, words in (text or {}).items():
        told.add_itxt(name, words)
    Image.fromarray(sheet).save(temporary, format="PNG", pnginfo=told, compress_type=RUNS)
    temporary.replace(path)


def _ffmpeg(path: Path) -> str:
    import imageio_ffmpeg

    try:
        program: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise _without_video(path, f"none is found ({' '.join(str(error).split())[:120]})") from None
    return program


def save_gif(video: Path, path: Path) -> None:
    """Of an MP4, with a palette of its own; loops for ever."""
    temporary = path.with_name(f".{path.stem}.tmp.gif")
    palette = "split[a][b];[a]palettegen=stats_mode=diff[p];[b][p]paletteuse=dither=bayer:bayer_scale=4"
    command = [_ffmpeg(path), "-y", "-loglevel", "error", "-i", str(video), "-filter_complex", palette, "-loop", "0"]
    done = subprocess.run([*command, str(temporary)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0 or not temporary.is_file():
        temporary.unlink(missing_ok=True)
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _without_video(path, f"it failed: {said[-1] if said else 'no message'}")
    temporary.replace(path)


def save_video(pictures: Iterator[np.ndarray], path: Path, width: int, height: int | None = None) -> None:
    """H.264, yuv420p, plays everywhere. ffmpeg runs as a program of its own; a missing one is said in one line."""
    program, temporary = _ffmpeg(path), path.with_name(f".{path.stem}.tmp.mp4")
    command = [program, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height or width}"]
    command += ["-r", str(FPS), "-i", "-", "-an", "-c:v", "libx264", "-preset", "veryfast", "-crf", "16"]
    command += ["-pix_fmt", "yuv420p", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-movflags", "+faststart"]
    command += [str(temporary)]
    try:
        ffmpeg = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise _without_video(path, f"{program} cannot be started ({error.strerror})") from error
    with ffmpeg:
        assert ffmpeg.stdin is not None and ffmpeg.stderr is not None
        try:
            for picture in pictures:
                ffmpeg.stdin.write(np.ascontiguousarray(picture).tobytes())
            ffmpeg.stdin.close()
        except BrokenPipeError:
            pass  # its own words, below, say why
        complaint = ffmpeg.stderr.read().decode(errors="replace").strip()
    if ffmpeg.returncode != 0:
        temporary.unlink(missing_ok=True)
        raise _without_video(path, f"{program} failed: {complaint.splitlines()[-1] if complaint else 'no message'}")
    if not temporary.is_file():
        raise _without_video(path, f"{program} ended well and wrote nothing")
    temporary.replace(path)


def _without_video(path: Path, why: str) -> InputError:
    """All else that is exported is there by then."""
    way_out = "let IMAGEIO_FFMPEG_EXE name one that works"
    return InputError(f"{path}: no video, ffmpeg is to blame: {why}; {way_out}; model and contact sheet are there")
