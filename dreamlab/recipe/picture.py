# SPDX-License-Identifier: Apache-2.0
"""A user's picture as a reference: read, cut out, put into a square, given a camera.

    alpha     a file whose pixels are transparent here and there says itself where the object is
    cut out   else the background must be plain: the colour of the border (its median). Pixels within NEAR of it that
              the border reaches through others like them are background; those beside it are unmixed into object and
              background, c = a f + (1 - a) b, with f the most different colour among their neighbours
    square    the object's bounding box, centred, fills `fill` of the side; `fill: 0` keeps the framing and only pads
    fit       a guidance that knows how large its objects are, and how they stand, may move and turn the square
    hints     what it shows and from which side may be said; else guidances that ask read it off the picture
    camera    at azimuth 0: the picture says what the front is. Elevation, distance and field of view are settings
    cutout    or a network finds the object (`guidance.latent.estimators`), where one is named
    surface   its depth and normals go the same way: maps that a user has (`recipe.surface_maps`), or what a network
              sees in the whole picture; its depth is then an order, nearest 0 and farthest 1 of the object

Distances between colours are the largest difference of a channel, sRGB in [0, 1].
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, normalize

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.errors import InputError
from dreamlab.core.foreign.apart import parsed
from dreamlab.core.foreign.files import checked_size
from dreamlab.core.foreign.picture_parser import MAX_FILE
from dreamlab.core.settings import FILES, setting
from dreamlab.core.types import Framing, Hints, Reference
from dreamlab.recipe.surface_maps import LIGHT, read_depth, read_normal

SMALLEST, LARGEST = 64, 256  # side of the square
NEAR = 0.1  # of the background's colour
PLAIN = 0.8  # share of the border that must be near its median
CLEAR = 0.01  # share of more than half transparent pixels from which alpha is believed
PLAIN_WAY = "plain"  # of cutting out
LEAST = 0.005  # share of the picture that the object must cover


@dataclass(frozen=True)
class PictureSettings:
    """The picture to follow, and where it was taken from."""

    file: str = setting("", file="picture", help="PNG or JPEG; a run keeps its own cut-out copy")
    elevation_deg: float = setting(20.0, low=-80, high=80, help="of the camera above the horizon")
    distance: float = setting(3.2, above=0, high=100, help="metres to the object's centre; the object's radius is 0.9")
    fovy_deg: float = setting(42.0, above=0, high=170)
    fill: float = setting(0.65, low=0, high=1, help="share of the side that the object fills; 0: the framing is kept")
    fit: bool = setting(True, help="with a fill above 0: framed as the guidance knows its objects, if it knows them")
    side_deg: float | None = setting(
        None,
        low=-180,
        high=180,
        help="azimuth it is seen from: 0 its front, 90 its left; none: read off it",
        tacit=True,
    )
    kind: str = setting("", help="what it is, of `list objects`; none: as the prompt says, or read off it", tacit=True)
    colours: tuple[str, ...] = setting((), help="of its two main parts, by name; none: read off it", tacit=True)
    cutout: str = setting("plain", help="plain: by alpha, or one colour around it; or a model of family cutout")
    depth: str = setting("", file="map", help="PNG of its depth, 8 or 16 bits, up to scale and shift; or a model of it")
    depth_light: str = setting("far", choices=LIGHT, help="what is light in it; near: estimators of disparity")
    normal: str = setting(
        "", file="map", help="PNG of normals, (n + 1) / 2: x right, y up, z to the camera; or a model"
    )


def read_picture(path: Path, settings: PictureSettings) -> Reference:
    """The picture as a reference with its maps; InputError says in one line what is wrong with a file."""
    camera = orbit([0.0], settings.elevation_deg, settings.distance, settings.fovy_deg)
    seen, rgba = _parts(path, settings)
    layers = [rgba]
    if settings.depth:
        layers.append(rgba[..., 3:] * _depth(seen, rgba[..., 3], settings))
    if settings.normal:
        layers.append(rgba[..., 3:] * _normal(seen, settings.normal, camera))
    square = _square(torch.cat(layers, -1), settings.fill, path)
    hints = Hints(settings.side_deg, settings.kind, settings.colours)
    return replace(_parted(square, camera, settings.depth != "", settings.normal != ""), hints=hints)


def found_in(path: Path, settings: PictureSettings) -> Tensor:
    """[H, W] where the object is in the whole picture, as far as that is read."""
    return _parts(path, settings)[1][..., 3]


def _parts(path: Path, settings: PictureSettings) -> tuple[Tensor, Tensor]:
    """The picture before white, as pictures of objects are, and cut out: premultiplied colours and alpha."""
    whole = read_pixels(path)
    seen = whole[..., :3] * whole[..., 3:] + 1 - whole[..., 3:]
    return seen, _cut_out(whole, path) if settings.cutout == PLAIN_WAY else _found(whole, seen, settings.cutout, path)


def _depth(seen: Tensor, alpha: Tensor, settings: PictureSettings) -> Tensor:
    """[H, W, 1] in [0, 1], larger is farther; from a file, or from an estimate of disparity."""
    if FILES["map"](settings.depth):
        return read_depth(Path(settings.depth), alpha.shape, settings.depth_light)
    from guidance.latent.estimators import disparity

    near = disparity(seen, settings.depth)
    of_object = near[alpha > 0.5] if bool((alpha > 0.5).any()) else near
    low, high = of_object.min(), of_object.max()
    return ((high - near) / (high - low).clamp(min=1e-6)).clamp(0, 1)[..., None]


def _normal(seen: Tensor, named: str, camera: Cameras) -> Tensor:
    """[H, W, 3] unit normals in the world of the camera."""
    if FILES["map"](named):
        return read_normal(Path(named), seen.shape[:2], camera)
    from guidance.latent.estimators import normals

    return normals(seen, named) @ camera.camera_to_world[0, :3, :3].T


def _found(whole: Tensor, seen: Tensor, model: str, path: Path) -> Tensor:
    """[H, W, 4] premultiplied: what a network takes for the object."""
    from guidance.latent.estimators import cover

    alpha = (cover(seen, model) * whole[..., 3])[..., None]
    if float((alpha > 0.5).float().mean()) > 1 - LEAST:
        raise InputError(
            f"image {path}: {model} finds no background in it; cut the object out yourself, and save a PNG with a "
            "transparent background"
        )
    return torch.cat([whole[..., :3] * alpha, alpha], -1)


def _parted(layers: Tensor, camera: Cameras, depth: bool, normal: bool) -> Reference:
    """A reference of premultiplied layers: colour, alpha, and what is known of the surface."""
    alpha = layers[..., 3:4].clamp(0, 1)
    straight = layers / alpha.clamp(min=1e-4)
    return Reference(
        straight[..., :3].clamp(0, 1),
        alpha,
        camera,
        straight[..., 4:5] * (alpha > 0) if depth else None,
        normalize(straight[..., -3:], dim=-1) if normal else None,
    )


def reframed(reference: Reference, framing: Framing) -> Reference:
    """The picture moved, enlarged and stood upright, before nothing."""
    known = [value for value in (reference.depth, reference.normal) if value is not None]
    straight = torch.cat([reference.rgb, torch.ones_like(reference.alpha), *known], -1)
    (x, y), (to_x, to_y), scale = framing.centre, framing.wanted, framing.scale
    # The place of the old picture that each new pixel shows: turned (place - wanted) / scale + centre.
    lean = math.radians(framing.lean_deg)
    cos, sin = math.cos(lean) / scale, math.sin(lean) / scale
    affine = torch.tensor([[[cos, -sin, x - cos * to_x + sin * to_y], [sin, cos, y - sin * to_x - cos * to_y]]])
    picture = (straight * reference.alpha).permute(2, 0, 1)[None]
    moved = grid_sample(picture, affine_grid(affine, list(picture.shape), align_corners=False), align_corners=False)[0]
    known_of = reference.depth is not None, reference.normal is not None
    return replace(_parted(moved.permute(1, 2, 0), reference.camera, *known_of), hints=reference.hints)


def png_of(reference: Reference) -> bytes:
    """An 8-bit RGBA PNG; `read_picture` of it with `fill: 0` gives the reference back, to 1/255."""
    from PIL import Image

    rgba = torch.cat([reference.rgb, reference.alpha], -1)
    buffer = io.BytesIO()
    Image.fromarray((rgba.clamp(0, 1) * 255).round().byte().numpy(), "RGBA").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def read_pixels(path: Path) -> Tensor:
    """[H, W, 4] straight sRGB and alpha, upright."""
    checked_size(path, "image", MAX_FILE)
    return torch.from_numpy(parsed("picture", path, "image")["rgba"]).float() / 255


def _cut_out(rgba: Tensor, path: Path) -> Tensor:
    """[H, W, 4] premultiplied, from alpha or by the plain background."""
    alpha = rgba[..., 3:]
    if float((alpha < 0.5).float().mean()) >= CLEAR:
        return torch.cat([rgba[..., :3] * alpha, alpha], -1)
    from scipy.ndimage import label, maximum_filter

    rgb = rgba[..., :3]
    border = torch.cat([rgb[0], rgb[-1], rgb[1:-1, 0], rgb[1:-1, -1]])
    ground = border.median(0).values
    plain = float(((border - ground).abs().amax(-1) < NEAR).float().mean())
    if plain < PLAIN:
        raise InputError(
            f"image {path}: its background is not plain (only {plain:.0%} of the border has one colour); "
            "cut the object out and save a PNG with a transparent background, or name a model in image.cutout"
        )
    apart = (rgb - ground).abs().amax(-1)
    parts, _ = label((apart < NEAR).numpy())
    edge = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    outside = torch.from_numpy(np.isin(parts, edge[edge > 0]))
    around = torch.from_numpy(maximum_filter(outside.numpy(), 3))
    most = torch.from_numpy(maximum_filter(apart.numpy(), 3))
    mixed = (apart / most.clamp(min=1e-6)).clamp(0, 1)
    cover = torch.where(around, mixed, torch.ones(())) * ~outside
    return torch.cat(
        [(rgb - (1 - cover[..., None]) * ground).clamp(min=0).minimum(cover[..., None]), cover[..., None]], -1
    )


def _square(layers: Tensor, fill: float, path: Path) -> Tensor:
    """[S, S, C] premultiplied, padded with nothing; the fourth layer is alpha."""
    there = layers[..., 3] > 0.5
    if float(there.float().mean()) < LEAST:
        raise InputError(f"image {path}: no object found in it (less than {LEAST:.1%} is not background)")
    high, wide = there.shape
    side, middle = max(high, wide), (high / 2, wide / 2)
    if fill > 0:
        rows, columns = (torch.nonzero(there.any(axis)).flatten() for axis in (1, 0))
        box = [(int(line[0]), int(line[-1]) + 1) for line in (rows, columns)]
        side = max(2, round(max(last - first for first, last in box) / fill))
        middle = (sum(box[0]) / 2, sum(box[1]) / 2)
    square = torch.zeros(side, side, layers.shape[-1])
    top, left = (round(centre - side / 2) for centre in middle)
    kept = layers[max(top, 0) : top + side, max(left, 0) : left + side]
    square[max(-top, 0) : max(-top, 0) + kept.shape[0], max(-left, 0) : max(-left, 0) + kept.shape[1]] = kept
    size = min(max(side, SMALLEST), LARGEST)
    if size == side:
        return square
    resized = interpolate(square.permute(2, 0, 1)[None], (size, size), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0)
