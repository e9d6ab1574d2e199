# SPDX-License-Identifier: Apache-2.0
"""Cameras: where a view is taken from.

Convention (glTF's): right-handed world, +Y up, metres, the object lives in [-1, 1]^3 and faces +Z.
Azimuth 0 looks at the front and grows counter-clockwise seen from above (90 degrees = from +X);
elevation is positive above the horizon. A camera looks along its own -Z, +Y is up in the picture
(OpenGL); matrices are `camera_to_world`. Pixel centres sit at +0.5, row 0 is the top.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamlab.core.settings import setting


@dataclass(frozen=True)
class Cameras:
    """A batch of B pinhole cameras; `time` in [0, 1] when the scene moves."""

    camera_to_world: Tensor  # [B, 4, 4]
    fovy_deg: Tensor  # [B]
    azimuth_deg: Tensor  # [B] in (-180, 180], of the position as seen from the orbit's centre
    elevation_deg: Tensor  # [B]
    distance: Tensor  # [B]
    time: Tensor | None = None  # [B]

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def __getitem__(self, index: slice | Tensor | list[int]) -> Cameras:
        """A sub-batch: index with a slice or an index tensor."""
        time = None if self.time is None else self.time[index]
        return Cameras(
            self.camera_to_world[index],
            self.fovy_deg[index],
            self.azimuth_deg[index],
            self.elevation_deg[index],
            self.distance[index],
            time,
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Cameras:
        here = self.camera_to_world
        if dtype in (None, here.dtype) and (device is None or torch.device(device) == here.device):
            return self
        fields = {name: value.to(device, dtype) for name, value in vars(self).items() if value is not None}
        return replace(self, **fields)

    def world_to_camera(self) -> Tensor:
        """[B, 4, 4]; the exact inverse of a rigid matrix: transpose, not a solve."""
        rotation = self.camera_to_world[:, :3, :3].transpose(1, 2)
        translation = -rotation @ self.camera_to_world[:, :3, 3:]
        last = self.camera_to_world.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(self), 1, 4)
        return torch.cat([torch.cat([rotation, translation], 2), last], 1)

    def focal_px(self, height: int) -> Tensor:
        """[B] focal length in pixels of a picture `height` pixels high (square pixels)."""
        return 0.5 * height / torch.tan(torch.deg2rad(self.fovy_deg) / 2)

    def rays(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Origins [B, 3] and unit directions [B, H, W, 3] through the pixel centres, in the world."""
        like = self.camera_to_world
        x = torch.arange(width, dtype=like.dtype, device=like.device) + 0.5 - width / 2
        y = height / 2 - torch.arange(height, dtype=like.dtype, device=like.device) - 0.5
        focal = self.focal_px(height)[:, None, None]
        x_cam = (x[None, None, :] / focal).expand(-1, height, -1)
        y_cam = (y[None, :, None] / focal).expand(-1, -1, width)
        local = torch.stack([x_cam, y_cam, -torch.ones_like(x_cam)], -1)
        world = torch.einsum("bij,bhwj->bhwi", like[:, :3, :3], local)
        return like[:, :3, 3], torch.nn.functional.normalize(world, dim=-1)

    def points(self, depth: Tensor) -> Tensor:  # [B, H, W] camera z -> [B, H, W, 3]
        """World points seen at that depth through the pixel centres; differentiable in it."""
        origin, ray = self.rays(*depth.shape[1:])
        along = -(ray * self.camera_to_world[:, None, None, :3, 2]).sum(-1)
        return origin[:, None, None] + ray * (depth / along)[..., None]


def look_at(position: Tensor, target: Tensor, up: Tensor | None = None) -> Tensor:
    """`camera_to_world` [B, 4, 4] of cameras at `position` [B, 3] that look at `target` [B, 3].

    `up` [B, 3] defaults to +Y; a camera that looks straight along `up` takes +Z (or -Z) instead.
    """
    back = torch.nn.functional.normalize(position - target, dim=-1)
    if up is None:
        up = torch.zeros_like(back)
        up[:, 1] = 1.0
    parallel = (back * torch.nn.functional.normalize(up, dim=-1)).sum(-1, keepdim=True).abs() > 1 - 1e-6
    spare = torch.zeros_like(back)
    spare[:, 2] = -torch.sign(back[:, 1])  # seen from above, the front is at the bottom of the picture
    up = torch.where(parallel, spare, up)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back, dim=-1), dim=-1)
    true_up = torch.linalg.cross(back, right, dim=-1)
    pose = torch.eye(4, dtype=position.dtype, device=position.device).repeat(len(position), 1, 1)
    pose[:, :3, 0], pose[:, :3, 1], pose[:, :3, 2], pose[:, :3, 3] = right, true_up, back, position
    return pose


def orbit_position(azimuth_deg: Tensor, elevation_deg: Tensor, distance: Tensor) -> Tensor:
    """[B, 3] points on the orbit around the origin."""
    azimuth, elevation = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    direction = torch.stack([elevation.cos() * azimuth.sin(), elevation.sin(), elevation.cos() * azimuth.cos()], -1)
    return distance[:, None] * direction


def wrap_degrees(angle_deg: Tensor) -> Tensor:
    """Into (-180, 180]."""
    return 180.0 - torch.remainder(180.0 - angle_deg, 360.0)


def orbit(
    azimuth_deg: Sequence[float] | Tensor,
    elevation_deg: float | Sequence[float] | Tensor = 15.0,
    distance: float | Sequence[float] | Tensor = 3.0,
    fovy_deg: float | Sequence[float] | Tensor = 40.0,
) -> Cameras:
    """Cameras on an orbit around the origin, all looking at it; scalars are shared by the batch."""
    azimuth = torch.as_tensor(azimuth_deg, dtype=torch.float32)
    elevation, far, fovy = (
        torch.as_tensor(value, dtype=torch.float32).expand(azimuth.shape).contiguous()
        for value in (elevation_deg, distance, fovy_deg)
    )
    position = orbit_position(azimuth, elevation, far)
    pose = look_at(position, torch.zeros_like(position))
    return Cameras(pose, fovy, wrap_degrees(azimuth), elevation, far)


def turntable(count: int, elevation_deg: float = 15.0, distance: float = 3.0, fovy_deg: float = 40.0) -> Cameras:
    """`count` cameras evenly around the object, the first one in front of it."""
    return orbit([360.0 * i / count for i in range(count)], elevation_deg, distance, fovy_deg)


ELEVATION_RULES = ("sphere", "degrees", "mix")


@dataclass(frozen=True)
class OrbitSettings:
    """How training views are drawn. Ranges are (low, high)."""

    distance: tuple[float, float] = setting((3.0, 3.6), above=0, help="metres from the origin")
    fovy_deg: tuple[float, float] = setting((38.0, 46.0), above=0, high=170)
    elevation_deg: tuple[float, float] = setting((-10.0, 60.0), low=-90, high=90)
    elevation: str = setting("sphere", choices=ELEVATION_RULES, help="uniform by area, by angle, or a coin per view")
    azimuth_deg: tuple[float, float] = setting((-180.0, 180.0), low=-360, high=360)
    stratified: bool = setting(True, help="one azimuth per equal sector, so that a batch sees all sides")
    jitter_position: float = setting(0.0, low=0, help="uniform, +- metres")
    jitter_target: float = setting(0.0, low=0, help="normal, standard deviation in metres")
    jitter_up: float = setting(0.0, low=0, help="normal, on the unit up vector")
    fixed: int = setting(0, low=0, high=10_000, help="draw from this many cameras that never change; 0: new ones")
    moving: bool = setting(False, help="every camera has a time of its own")
    clip: int = setting(0, low=0, high=64, help="so many views in a row are one camera at even times: frames of a clip")
    ring: int = setting(
        0, low=0, high=64, help="so many views in a row stand around in equal turns, at one height and lens"
    )
    ring_elevations: tuple[float, ...] = setting(
        (), low=-90, high=90, help="of a ring's views in turn; none: one for all, drawn from elevation_deg"
    )
    time: tuple[float, float] = setting((0.0, 1.0), low=0, high=1, help="of a moving scene; a part for one segment")
    ring_jitter: bool = setting(False, help="one jitter for all views of a ring, as MVDream's; else one for each")
    relative: bool = setting(False, help="distance in units of 1 / tan(fovy / 2): the object fills pictures alike")

    @property
    def together(self) -> int:
        """How many views in a row belong together: a ring, or the frames of a clip."""
        return max(self.clip, self.ring, 1)


def sample_orbit(settings: OrbitSettings, count: int, generator: torch.Generator) -> Cameras:
    """Draw `count` training cameras. The number of random draws is fixed, so streams stay comparable."""
    if settings.fixed:
        order = torch.randperm(settings.fixed, generator=generator)
        return fixed_orbit(settings, settings.fixed)[order.repeat(-(-count // settings.fixed))[:count]]

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    draw = torch.rand(count, generator=generator)
    low, high = settings.azimuth_deg
    where = (torch.arange(count) + draw) / count if settings.stratified else draw
    azimuth = low + (high - low) * where
    elevation = _draw_elevation(settings, count, generator)
    if settings.ring:
        azimuth, elevation = _ring(low + (high - low) * draw, elevation, settings.ring)
        if heights := settings.ring_elevations:
            elevation = elevation.new_tensor([heights[i % settings.ring % len(heights)] for i in range(count)])
    distance, fovy = uniform(*settings.distance), uniform(*settings.fovy_deg)
    if settings.ring:
        distance, fovy = (value[_first(count, settings.ring)] for value in (distance, fovy))
    if settings.relative:
        distance = distance / torch.tan(torch.deg2rad(fovy) / 2)
    shift = (2 * torch.rand(count, 3, generator=generator) - 1) * settings.jitter_position
    target = torch.randn(count, 3, generator=generator) * settings.jitter_target
    up = torch.randn(count, 3, generator=generator) * settings.jitter_up
    if settings.ring and settings.ring_jitter:
        shift, target, up = (value[_first(count, settings.ring)] for value in (shift, target, up))
    up = up + up.new_tensor([0.0, 1.0, 0.0])
    position = orbit_position(azimuth, elevation, distance) + shift
    # What conditions a prior is where the camera is, not where it was meant to be.
    radius = position.norm(dim=-1)
    azimuth = wrap_degrees(torch.rad2deg(torch.atan2(position[:, 0], position[:, 2])))
    elevation = torch.rad2deg(torch.asin((position[:, 1] / radius).clamp(-1, 1)))
    time = uniform(*settings.time) if settings.moving or settings.clip else None
    drawn = Cameras(look_at(position, target, up), fovy, azimuth, elevation, radius, time)
    return drawn if time is None or not settings.clip else _clips(drawn, time, settings)


def _first(count: int, size: int) -> Tensor:  # [count]
    """The first view of each one's group of `size`."""
    return torch.arange(count) // size * size


def _ring(azimuth: Tensor, elevation: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Each group of `size` around from its first view's azimuth on, at its elevation."""
    first = _first(len(azimuth), size)
    return azimuth[first] + 360.0 / size * (torch.arange(len(azimuth)) - first), elevation[first]


def _clips(cameras: Cameras, time: Tensor, settings: OrbitSettings) -> Cameras:
    """The first camera of each `clip` in a row for all of them, once through `time` from its own moment on."""
    index, first = torch.arange(len(cameras)), _first(len(cameras), settings.clip)
    low, high = settings.time
    span = max(high - low, 1e-6)
    phase = (time[first] - low) / span + index % settings.clip / settings.clip
    return replace(cameras[first], time=low + span * torch.remainder(phase, 1.0))


GOLDEN = 0.618033988749895


def fixed_orbit(settings: OrbitSettings, count: int, offset: float = 0.0) -> Cameras:
    """`count` cameras spread evenly over the band of a sphere that the ranges describe: a Fibonacci lattice.

    Distance and field of view are the middles of their ranges. `offset` in [0, 1) turns the lattice to places in
    between: held-out views. Times, when the scene moves, are spread independently of the angles.
    """
    i = torch.arange(count, dtype=torch.float64)
    low, high = (math.sin(math.radians(edge)) for edge in settings.elevation_deg)
    height = low + (high - low) * torch.remainder((i + 0.5) / count + 0.5 * offset, 1.0)
    west, east = settings.azimuth_deg
    azimuth = west + (east - west) * torch.remainder(i * GOLDEN + offset, 1.0)
    distance, fovy = (sum(limits) / 2 for limits in (settings.distance, settings.fovy_deg))
    distance /= math.tan(math.radians(fovy) / 2) if settings.relative else 1.0
    cameras = orbit(azimuth.float(), torch.rad2deg(torch.asin(height)).float(), distance, fovy)
    # Multiples of sqrt 2 are equidistributed and independent of those of the golden ratio.
    begin, end = settings.time
    time = (begin + (end - begin) * torch.remainder(i * math.sqrt(2) + offset, 1.0)).float()
    return replace(cameras, time=time) if settings.moving else cameras


def _draw_elevation(settings: OrbitSettings, count: int, generator: torch.Generator) -> Tensor:
    low, high = settings.elevation_deg
    u, coin = torch.rand(count, generator=generator), torch.rand(count, generator=generator)
    degrees = low + (high - low) * u
    if settings.elevation == "degrees":
        return degrees
    sin_low, sin_high = math.sin(math.radians(low)), math.sin(math.radians(high))
    sphere = torch.rad2deg(torch.asin((sin_low + (sin_high - sin_low) * u).clamp(-1, 1)))
    if settings.elevation == "mix":
        return torch.where(coin < 0.5, degrees, sphere)
    return sphere
