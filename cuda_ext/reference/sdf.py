# SPDX-License-Identifier: Apache-2.0
"""Torch twin of the picture maker for programs of signed-distance primitives: the specification of `cuda_ext.sdf`.

A *program* is a table of rows, one primitive each (`rows` [K, P, ROW]), with a table of surface finishes
(`parts` [K, Q, PART]) and a bounding sphere (`bound` [K, 4]: centre, radius). Distances are negative inside.

Where a point goes in a row: frame = A x + a; folded by the row's symmetry; local = B frame + b; then the primitive's
own distance d(local), and  scale * (d - round).  A fold is made of reflections, so it keeps distances.

In which order rows combine (two levels, so that a cut in one group leaves the other groups alone):

    total = far, group = far
    for each row, from first to last:
        GROUP  total = smooth_min(total, group, the group's smoothness); group = row; the group's smoothness = row's
        UNION  group = smooth_min(group, row)      CUT  group = smooth_max(group, -row)
        KEEP   group = smooth_max(group, row)
    distance = smooth_min(total, group, the group's smoothness)

with smooth_min(a, b, k) = min(a, b) - max(k - |a - b|, 0)^2 / 4k (hard for k = 0). A point belongs to the row whose
(signed) distance won the comparisons. Every function here has Lipschitz constant 1, so a ray may step by the distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cuda_ext.sdf_layout import (
    ARC,
    AROUND_Y,
    AROUND_Z,
    BASE,
    BOX,
    CAPSULE,
    CHECKS,
    CUT,
    CYLINDER,
    ELLIPSOID,
    FOLD,
    FOLD_COUNT,
    FRAME,
    FRUSTUM,
    GROUND,
    GROUP,
    HALF_SPACE,
    HEAD,
    KEEP,
    KEY,
    KIND,
    LOCAL,
    METAL_LOSS,
    METALLIC,
    MIRROR_X,
    MIRROR_XZ,
    MIRROR_Z,
    NONE,
    OCCLUSION,
    OP,
    PARAMS,
    PART,
    PART_ID,
    PATTERN,
    PERIOD,
    PLAIN,
    PRISM,
    PYRAMID,
    ROUGHNESS,
    ROUND,
    ROUND_CONE,
    ROW,
    SCALE,
    SECOND,
    SKY,
    SMOOTH,
    SPHERE,
    STAR,
    STRIPES,
    TORUS,
    WRAP,
)  # fmt: skip

FAR = 1e3
HIT = 2e-4  # a ray this close to the surface has arrived
STEPS = 96
NORMAL_STEP = 1e-3
OCCLUSION_REACH = (0.05, 0.12, 0.25)


def _length(*parts: Tensor) -> Tensor:
    return torch.stack(parts).square().sum(0).sqrt()


def _extrude(flat: Tensor, across: Tensor) -> Tensor:
    """Distance of a prism from the distance in its cross-section and the distance past its caps."""
    outside = _length(flat.clamp(min=0), across.clamp(min=0))
    return torch.maximum(flat, across).clamp(max=0) + outside


def _sphere(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> Tensor:
    return _length(x, y, z) - q[0]


def _ellipsoid(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> Tensor:
    """The distance to a convex body is the largest n.p - h(n) over unit n; here h(n) = |r n|.

    The best n is along p / (t + r^2) where 1/|r p / (t + r^2)| = 1. That function of t is concave: Newton steps from
    the left, where one axis alone reaches 1, never pass the root. Any n bounds the distance from below, so an
    unfinished search is safe; it is at most 1e-3 short.
    """
    p, r = torch.stack([x, y, z]), q[:3]
    r2 = r.square()
    lowest = -0.999 * r2.amin(0)
    t = torch.maximum((r * p.abs() - r2).amax(0), lowest)
    for _ in range(4):
        s2 = (r * p / (t + r2)).square()
        n2, slope = s2.sum(0), (s2 / (t + r2)).sum(0)
        t = torch.maximum(t + n2 * (n2.sqrt() - 1) / slope.clamp(min=1e-20), lowest)
    normal = p / (t + r2)
    size = normal.square().sum(0).sqrt()
    support = ((normal * p).sum(0) - (r * normal).square().sum(0).sqrt()) / size.clamp(min=1e-20)
    slab = (p.abs() - r).amax(0)
    return torch.where(size > 1e-12, torch.maximum(support, slab), slab)


def _box(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> Tensor:
    u, v, w = x.abs() - q[0], y.abs() - q[1], z.abs() - q[2]
    inside = torch.maximum(torch.maximum(u, v), w).clamp(max=0)
    return inside + _length(u.clamp(min=0), v.clamp(min=0), w.clamp(min=0))


def _cylinder(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> Tensor:
    return _extrude(_length(x, z) - q[0], y.abs() - q[1])


def _capsule(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> Tensor:
    return _length(x, (y.abs() - q[1]).clamp(min=0), z) - q[0]


def _trapezoid(x: Tensor, y: Tensor, bottom: Tensor, top: Tensor, half: Tensor) -> Tensor:
    """Exact distance to a trapezoid symmetric in x: half widths `bottom` at -half and `top` at +half."""
    x = x.abs()
    cap_x = (x - torch.where(y < 0, bottom, top)).clamp(min=0)
    cap_y = y.abs() - half
    slant_x, slant_y = top - bottom, 2 * half
    along = ((x - bottom) * slant_x + (y + half) * slant_y) / (slant_x.square() + slant_y.square())
    along = along.clamp(0, 1)
    side_x, side_y = x - bottom - along * slant_x, y + half - along * slant_y
    inside = (cap_y < 0) & (side_x * slant_y - side_y * slant_x < 0)
    nearest = torch.minimum(cap_x.square() + cap_y.square(), side_x.square() + side_y.square()).sqrt()
    return torch.where(inside, -nearest, nearest)


def _frustum(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> Tensor:
    return _trapezoid(_length(x, z), y, q[0], q[1], q[2])


def _round_cone(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> Tensor:
    """Hull of a ball of radius q0 at -q2 and one of radius q1 at +q2."""
    rho, up, span = _length(x, z), y + q[2], 2 * q[2]
    sine = (q[0] - q[1]) / span
    cosine = (1 - sine.square()).sqrt()
    along = up * cosine - rho * sine
    low, high = _length(rho, up) - q[0], _length(rho, up - span) - q[1]
    side = rho * cosine + up * sine - q[0]
    return torch.where(along < 0, low, torch.where(along > span * cosine, high, side))


def _torus(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> Tensor:
    return _length(_length(x, z) - q[0], y) - q[1]


def _arc(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> Tensor:
    """A piece of a torus in the xy plane around +y with round ends; q2, q3: sine and cosine of its half angle."""
    x = x.abs()
    beyond = q[3] * x > q[2] * y
    ring = _length(_length(x, y) - q[0], z)
    end = _length(x - q[0] * q[2], y - q[0] * q[3], z)
    return torch.where(beyond, end, ring) - q[1]


def _half_space(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> Tensor:
    return y + 0 * x


def _prism(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> Tensor:
    return _extrude(_trapezoid(x, y, q[0], q[1], q[2]), z.abs() - q[3])


def _pyramid(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> Tensor:
    """Square frustum: exact inside, the largest plane distance (a lower bound) outside."""
    run, rise = q[0] - q[1], 2 * q[2]
    side = (torch.maximum(x.abs(), z.abs()) - (q[0] + q[1]) / 2) * rise + y * run
    return torch.maximum(side / (run.square() + rise.square()).sqrt(), y.abs() - q[2])


def _star(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> Tensor:
    """Prism over a star in the xy plane, a point at +y: outer radius q0, inner q1, half depth q2, q3 points."""
    u, v = _fold_around(y, x, q[3])
    turn = math.pi / q[3]
    edge_u, edge_v = q[1] * turn.cos() - q[0], q[1] * turn.sin()
    along = ((u - q[0]) * edge_u + v * edge_v) / (edge_u.square() + edge_v.square())
    along = along.clamp(0, 1)
    off_u, off_v = u - q[0] - along * edge_u, v - along * edge_v
    inside = edge_u * v - edge_v * (u - q[0]) > 0
    flat = _length(off_u, off_v)
    return _extrude(torch.where(inside, -flat, flat), z.abs() - q[2])


PRIMITIVES: dict[int, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    SPHERE: _sphere,
    ELLIPSOID: _ellipsoid,
    BOX: _box,
    CYLINDER: _cylinder,
    CAPSULE: _capsule,
    FRUSTUM: _frustum,
    ROUND_CONE: _round_cone,
    TORUS: _torus,
    ARC: _arc,
    HALF_SPACE: _half_space,
    PRISM: _prism,
    PYRAMID: _pyramid,
    STAR: _star,
}


def _fold_around(u: Tensor, v: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Fold the plane onto the sector [0, pi/count] by reflections at multiples of pi/count."""
    v = v.abs()
    sectors = count.clone()
    for _ in range(max(1, math.ceil(math.log2(max(2.0, float(count.max())))))):
        active = sectors > 1
        sectors = torch.where(active, ((sectors + 1) / 2).floor(), sectors)
        angle = sectors * math.pi / count
        sine, cosine = angle.sin(), angle.cos()
        past = torch.where(active, (u * sine - v * cosine).clamp(max=0), torch.zeros_like(u))
        u, v = u - 2 * past * sine, v + 2 * past * cosine
    return u, v


def _locate(row: Tensor, points: Tensor) -> Tensor:
    """[K, ROW], [K, N, 3] -> [K, N, 3] in the row's local frame."""
    frame = points @ row[:, FRAME : FRAME + 9].reshape(-1, 3, 3).transpose(1, 2) + row[:, None, FRAME + 9 : FRAME + 12]
    x, y, z = frame.unbind(-1)
    fold = row[:, FOLD, None]
    x = torch.where((fold == MIRROR_X) | (fold == MIRROR_XZ), x.abs(), x)
    z = torch.where((fold == MIRROR_Z) | (fold == MIRROR_XZ), z.abs(), z)
    count = row[:, FOLD_COUNT, None].clamp(min=1).expand_as(x)
    if bool((fold == AROUND_Y).any()):
        u, v = _fold_around(z, x, count)
        z, x = torch.where(fold == AROUND_Y, u, z), torch.where(fold == AROUND_Y, v, x)
    if bool((fold == AROUND_Z).any()):
        u, v = _fold_around(y, x, count)
        y, x = torch.where(fold == AROUND_Z, u, y), torch.where(fold == AROUND_Z, v, x)
    folded = torch.stack([x, y, z], -1)
    return folded @ row[:, LOCAL : LOCAL + 9].reshape(-1, 3, 3).transpose(1, 2) + row[:, None, LOCAL + 9 : LOCAL + 12]


def _row_distance(row: Tensor, points: Tensor) -> Tensor:
    """[K, ROW], [K, N, 3] -> [K, N]; programs may have different primitives in the same row."""
    out = points.new_full(points.shape[:2], FAR)
    local = _locate(row, points)
    for kind in row[:, KIND].unique().int().tolist():
        if kind == NONE:
            continue
        which = (row[:, KIND] == kind).nonzero()[:, 0]
        x, y, z = local[which].unbind(-1)
        params = row[which, PARAMS : PARAMS + 8].t()[:, :, None].expand(8, *x.shape)
        distance = PRIMITIVES[kind](x, y, z, params)
        out[which] = row[which, SCALE, None] * (distance - row[which, ROUND, None])
    return out


def _smooth_min(a: Tensor, b: Tensor, k: Tensor) -> Tensor:
    overlap = (k - (a - b).abs()).clamp(min=0)
    return torch.minimum(a, b) - overlap.square() / (4 * k.clamp(min=1e-12))


def evaluate(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """[K, P, ROW], [K, N, 3] -> signed distance [K, N] and the index [K, N] of the row that decided it."""
    far = points.new_full(points.shape[:2], FAR)
    total, group = far, far
    total_row = group_row = torch.zeros(points.shape[:2], dtype=torch.int64, device=points.device)
    joint = points.new_zeros(len(rows), 1)
    for i in range(rows.shape[1]):
        row = rows[:, i]
        if not bool((row[:, KIND] != NONE).any()):
            continue
        used = (row[:, KIND] != NONE)[:, None]
        op, k, here = row[:, OP, None], row[:, SMOOTH, None], torch.full_like(group_row, i)
        distance = _row_distance(row, points)
        closes = used & (op == GROUP)
        total_row = torch.where(closes & (group < total), group_row, total_row)
        total = torch.where(closes, _smooth_min(total, group, joint), total)
        sign = torch.where((op == CUT) | (op == KEEP), -1.0, 1.0).to(points.dtype)
        mine = torch.where(op == CUT, distance, distance * sign)  # smooth_max(a, b) = -smooth_min(-a, -b)
        wins = mine < group * sign
        joined = sign * _smooth_min(group * sign, mine, k)
        group_row = torch.where(used & (closes | wins), here, group_row)
        group = torch.where(closes, distance, torch.where(used, joined, group))
        joint = torch.where(closes, k, joint)
    winner = torch.where(group < total, group_row, total_row)
    return _smooth_min(total, group, joint), winner


def sdf(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distance [K, N] and part id [K, N] of points [K, N, 3] in programs [K, P, ROW]."""
    distance, winner = evaluate(rows, points)
    return distance, rows[..., PART_ID].long().gather(1, winner)


def trace(rows: Tensor, bound: Tensor, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Sphere tracing of rays [K, R, 3] -> distance along the ray [K, R] (FAR where it misses), hit [K, R] bool."""
    offset = origin - bound[:, None, :3]
    half = (offset * direction).sum(-1)
    inside = half.square() - offset.square().sum(-1) + bound[:, None, 3].square()
    root = inside.clamp(min=0).sqrt()
    t, leave = (-half - root).clamp(min=0), -half + root
    alive = (inside > 0) & (leave > 0)
    hit = torch.zeros_like(alive)
    for _ in range(STEPS):
        columns = alive.any(0).nonzero()[:, 0]  # rays that no program follows any more are left out
        if len(columns) == 0:
            break
        points = origin[:, columns] + t[:, columns, None] * direction[:, columns]
        distance = evaluate(rows, points)[0]
        going = alive[:, columns]
        arrived = going & (distance < HIT)
        hit[:, columns] |= arrived
        step = torch.where(going & ~arrived, distance, torch.zeros_like(distance))
        t[:, columns] += step
        alive[:, columns] = going & ~arrived & (t[:, columns] < leave[:, columns])
    return torch.where(hit, t, torch.full_like(t, FAR)), hit


def normals(rows: Tensor, points: Tensor) -> Tensor:
    """Unit gradients [K, N, 3] by four differences at the corners of a tetrahedron."""
    corners = points.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    shifted = points[:, None] + NORMAL_STEP * corners[None, :, None]
    distance = evaluate(rows, shifted.flatten(1, 2))[0].reshape(len(rows), 4, -1)
    gradient = torch.einsum("kcn,cj->knj", distance, corners)
    return gradient / gradient.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def albedo(rows: Tensor, parts: Tensor, points: Tensor, winner: Tensor) -> tuple[Tensor, Tensor]:
    """Linear colour [K, N, 3] and finish [K, N, PART] of surface points; patterns live in the winning row's frame."""
    own = rows.gather(1, winner[..., None].expand(-1, -1, ROW))
    count = own.shape[0] * own.shape[1]
    local = _locate(own.reshape(count, ROW), points.reshape(count, 1, 3)).reshape(points.shape) * own[..., SCALE, None]
    finish = parts.gather(1, own[..., PART_ID].long()[..., None].expand(-1, -1, PART))
    cell = local / finish[..., PERIOD, None].clamp(min=1e-6)
    slanted = 0.6 * cell[..., 0] + 0.8 * cell[..., 1]  # no face of a box or a disc lies along it
    stripes = torch.remainder((2 * slanted + 0.5).floor(), 2)
    checks = torch.remainder((2 * cell + 0.5).floor().sum(-1), 2)
    off = cell - cell.round()
    spots = (off.square().sum(-1) < 0.36**2).to(cell.dtype)
    pattern = finish[..., PATTERN]
    mix = torch.where(pattern == STRIPES, stripes, torch.where(pattern == CHECKS, checks, spots))
    mix = torch.where(pattern == PLAIN, torch.zeros_like(mix), mix)[..., None]
    return finish[..., BASE : BASE + 3] * (1 - mix) + finish[..., SECOND : SECOND + 3] * mix, finish


def shade(colour: Tensor, finish: Tensor, normal: Tensor, to_eye: Tensor, open_sky: Tensor, light: Tensor) -> Tensor:
    """Linear radiance: hemisphere + wrapped key + lamp at the camera, and one gloss lobe for the key.

    `open_sky` [K, N] is 1 where nothing occludes. The gloss is a Gaussian lobe of n.h; F0 = 0.04, or a metal's colour.
    """
    to_key = light[:3]
    up = 0.5 + 0.5 * normal[..., 1:2]
    hemisphere = light[GROUND : GROUND + 3] * (1 - up) + light[SKY : SKY + 3] * up
    key = (((normal * to_key).sum(-1, keepdim=True) + WRAP) / (1 + WRAP)).clamp(min=0)
    head = (normal * to_eye).sum(-1, keepdim=True).clamp(min=0) * light[HEAD]
    sky = open_sky[..., None]
    arriving = (hemisphere + head) * sky + light[KEY : KEY + 3] * key * (0.5 + 0.5 * sky)
    metallic, rough = finish[..., METALLIC, None], finish[..., ROUGHNESS, None].clamp(min=0.1)
    half = torch.nn.functional.normalize(to_key + to_eye, dim=-1)
    facing = (normal * half).sum(-1, keepdim=True).clamp(min=0)
    lobe = torch.exp((facing - 1) * 2 / rough.pow(4)) * (0.25 / rough.pow(4))
    f0 = 0.04 * (1 - metallic) + colour * metallic
    return colour * (1 - METAL_LOSS * metallic) * arriving + f0 * lobe * light[KEY : KEY + 3] * key * sky


def to_srgb(linear: Tensor) -> Tensor:
    linear = linear.clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-8).pow(1 / 2.4) - 0.055)


def draw(
    rows: Tensor,  # [K, P, ROW]
    parts: Tensor,  # [K, Q, PART]
    bound: Tensor,  # [K, 4]
    camera_to_world: Tensor,  # [K, B, 4, 4]
    focal_px: Tensor,  # [K, B] for a picture `height` pixels high
    light: Tensor,  # [LIGHT]
    height: int,
    width: int,
    supersample: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """rgb [K, B, H, W, 3], alpha [K, B, H, W, 1], depth [.., 1], normal [.., 3], part [K, B, H, W] int64.

    rgb is premultiplied: sRGB of the mean linear colour of the samples that hit, times alpha. depth is the mean camera
    z of those samples (0 where none hit), normal their mean direction; part is the nearest sample's (-1: none).
    """
    s, (count, views) = supersample, camera_to_world.shape[:2]
    x = (torch.arange(width * s).to(rows) + 0.5) / s - width / 2
    y = height / 2 - (torch.arange(height * s).to(rows) + 0.5) / s
    x, y = x.expand(height * s, -1), y[:, None].expand(-1, width * s)
    focal = focal_px[:, :, None, None]
    local = torch.stack([x / focal, y / focal, -torch.ones_like(x / focal)], -1)
    length = local.norm(dim=-1)  # ray length per unit of camera z
    direction = torch.einsum("kbij,kbhwj->kbhwi", camera_to_world[:, :, :3, :3], local / length[..., None])
    direction = direction.reshape(count, -1, 3)
    origin = camera_to_world[:, :, None, :3, 3].expand(-1, -1, height * width * s * s, -1).reshape(count, -1, 3)
    t, hit = trace(rows, bound, origin, direction)
    columns = hit.any(0).nonzero()[:, 0]
    here = hit[:, columns]
    points = (
        origin[:, columns]
        + torch.where(here, t[:, columns], torch.ones_like(t[:, columns]))[..., None] * direction[:, columns]
    )
    winner = evaluate(rows, points)[1]
    normal = normals(rows, points)
    open_sky = torch.ones_like(points[..., 0])
    for reach in OCCLUSION_REACH:
        clear = evaluate(rows, points + reach * normal)[0] / reach
        open_sky = open_sky - light[OCCLUSION] / len(OCCLUSION_REACH) * (1 - clear).clamp(0, 1)
    colour, finish = albedo(rows, parts, points, winner)
    radiance = shade(colour, finish, normal, -direction[:, columns], open_sky, light)

    def spread(values: Tensor, fill: float) -> Tensor:  # [K, hits, C] -> [K, B, H, W, s*s, C]
        full = values.new_full((count, views * height * s * width * s, values.shape[-1]), fill)
        full[:, columns] = torch.where(here[..., None], values, full[:, columns])
        full = full.reshape(count, views, height, s, width, s, -1).permute(0, 1, 2, 4, 3, 5, 6)
        return full.flatten(4, 5)

    mask = spread(here[..., None].to(rows.dtype), 0.0)
    hits = mask.sum(4)
    depth = spread((t / length.flatten(1))[:, columns, None], FAR)
    part_id = spread(rows[..., PART_ID].gather(1, winner)[..., None], -1.0)
    nearest = depth.argmin(4, keepdim=True)
    mean = 1 / hits.clamp(min=1)
    alpha = hits / s**2
    rgb = to_srgb(spread(radiance, 0.0).sum(4) * mean) * alpha
    facing = spread(normal, 0.0).sum(4)
    facing = facing / facing.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return (
        rgb,
        alpha,
        (depth * mask).sum(4) * mean,
        facing,
        part_id.gather(4, nearest)[..., 0, 0].long(),
    )
