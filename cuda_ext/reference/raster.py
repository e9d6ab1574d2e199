# SPDX-License-Identifier: Apache-2.0
"""Torch twin of the triangle rasteriser: the specification of `cuda_ext.raster`.

Two steps. `visible` decides which triangle a pixel sees; it is exact integer arithmetic on vertices snapped
to 1/256 pixel, so that triangles with a common edge never both own a pixel and never both miss it.
`barycentrics` then measures where in its triangle the pixel lies, from the unsnapped clip positions, and is
differentiable.

Homogeneous pixel coordinates: a vertex (x, y, z, w) becomes X = W/2 (x + w), Y = H/2 (w - y), so that X/w and
Y/w are in pixels and row 0 is the top. The centre of pixel (row, column) is (column + 0.5, row + 0.5).
"""

from __future__ import annotations

import torch
from torch import Tensor

SUB = 256  # steps per pixel of a snapped coordinate
GUARD = float(1 << 20)  # pixels: beyond this a triangle is clipped, so that edge functions fit 64 bits
MIN_W = 1e-8
TINY = 1.2e-38  # what is smaller has no finite inverse
TILE = 16  # the fastest here
CHUNK = 2048  # triangles per tile looked at together: bounds memory


def raster(clip: Tensor, triangles: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Twin of `cuda_ext.raster.raster`: triangle, uv, depth, uv_dxy."""
    triangle = visible(clip, triangles, height, width)
    return triangle, *barycentrics(clip, triangles, triangle)


@torch.no_grad()
def visible(clip: Tensor, triangles: Tensor, height: int, width: int) -> Tensor:
    """[B, V, 4], [T, 3] -> [B, H, W] int32: 1 + the nearest triangle at the pixel's centre, 0 for none.

    Nearest is the smaller z/w, then the smaller triangle; z/w outside [-1, 1] is not seen.
    """
    out = torch.zeros(len(clip), height, width, dtype=torch.int32, device=clip.device)
    for view in range(len(clip)):
        corners, depth, owner = _screen_triangles(clip[view].double(), triangles.long(), height, width)
        _fill(out[view], corners, depth, owner)
    return out


def _screen_triangles(clip: Tensor, triangles: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Snapped corners [n, 3, 2] int64, their z/w [n, 3] float32 and the triangle [n] each came from."""
    x, y, z, w = clip.unbind(-1)
    pixel = torch.stack([(x + w) * (width / 2), (w - y) * (height / 2), z, w], -1)  # [V, 4]
    valid = ((triangles >= 0) & (triangles < len(clip))).all(-1)
    owner = valid.nonzero().squeeze(-1)
    owner = owner[torch.isfinite(clip).all(-1)[triangles[owner]].all(-1)]
    outside = (plane_distances(pixel) < 0)[triangles[owner]]  # [n, 3, 7]
    unseen = outside.all(1).any(-1)
    whole = ~outside.flatten(1).any(-1)
    pieces, owners = [pixel[triangles[owner[whole]]]], [owner[whole]]
    for t in owner[~whole & ~unseen].tolist():
        polygon = clip_polygon([tuple(row) for row in pixel[triangles[t]].tolist()])
        for i in range(1, len(polygon) - 1):
            pieces.append(pixel.new_tensor([[polygon[0], polygon[i], polygon[i + 1]]]))
            owners.append(owner.new_tensor([t]))
    piece = torch.cat(pieces)
    inverse = 1 / piece[..., 3:]
    corners = (piece[..., :2] * inverse * SUB).round().long()
    return corners, (piece[..., 2:3] * inverse).squeeze(-1).float(), torch.cat(owners)


def plane_distances(pixel: Tensor) -> Tensor:
    """[..., 4] -> [..., 7]: negative outside w > 0, near (z = -w), far (z = w), and the four guard planes."""
    x, y, z, w = pixel.unbind(-1)
    guard = GUARD * w
    return torch.stack([w - MIN_W, w + z, w - z, guard - x, guard + x, guard - y, guard + y], -1)


Vertex = tuple[float, ...]


def clip_polygon(polygon: list[Vertex]) -> list[Vertex]:
    """Sutherland-Hodgman against the seven planes.

    A cut edge is always walked from its inner to its outer end, so two triangles that share
    the edge get bit-equal new corners.
    """
    for k in range(7):
        kept: list[Vertex] = []
        for i, here in enumerate(polygon):
            after = polygon[(i + 1) % len(polygon)]
            d0, d1 = _distance(here, k), _distance(after, k)
            if d0 >= 0:
                kept.append(here)
            if (d0 >= 0) != (d1 >= 0):
                inner, outer = (here, after) if d0 >= 0 else (after, here)
                low, high = min(d0, d1), max(d0, d1)
                s, t = -low / (high - low), high / (high - low)  # weights without cancellation
                kept.append(_onto_plane([s * a + t * b for a, b in zip(inner, outer, strict=True)], k))
        polygon = kept
    return polygon


def _distance(v: Vertex, k: int) -> float:
    x, y, z, w = v
    guard = GUARD * w
    return (w - MIN_W, w + z, w - z, guard - x, guard + x, guard - y, guard + y)[k]


def _onto_plane(v: list[float], k: int) -> Vertex:
    """A point near plane k, put on it exactly: coordinates 1e30 apart leave nothing of it to round-off."""
    guard = GUARD * v[3]
    places = ((3, MIN_W), (2, -v[3]), (2, v[3]), (0, guard), (0, -guard), (1, guard), (1, -guard))
    at, value = places[k]
    v[at] = value
    return tuple(v)


def _fill(out: Tensor, corners: Tensor, depth: Tensor, owner: Tensor) -> None:
    """Write the nearest triangle of every pixel of `out` [H, W], tile by tile."""
    height, width = out.shape
    a, b, c = corners.unbind(1)
    area = _cross(b - a, c - a)
    turned = area < 0  # both faces are drawn
    b, c = torch.where(turned[:, None], c, b), torch.where(turned[:, None], b, c)
    za, zb, zc = (
        depth[:, 0],
        torch.where(turned, depth[:, 2], depth[:, 1]),
        torch.where(turned, depth[:, 1], depth[:, 2]),
    )
    low, high = corners.amin(1), corners.amax(1)
    ordered = torch.stack([a, b, c], 1)  # [n, 3, 2]
    edge = ordered.roll(-1, 1) - ordered
    # A centre exactly on an edge belongs to the triangle of which it is a left or a horizontal top edge.
    top_left = (edge[..., 1] < 0) | ((edge[..., 1] == 0) & (edge[..., 0] > 0))
    bias = top_left.long() - 1
    slope = _depth_slope(a, b, c, za, zb, zc, area.abs())
    for y0 in range(0, height, TILE):
        for x0 in range(0, width, TILE):
            y1, x1 = min(y0 + TILE, height), min(x0 + TILE, width)
            ends = low.new_tensor([[x0, y0], [x1, y1]]) * SUB
            here = ((area != 0)[:, None] & (low < ends[1]) & (high >= ends[0])).all(-1).nonzero().squeeze(-1)
            if len(here) == 0:
                continue
            rows = torch.arange(y0, y1, device=out.device)
            columns = torch.arange(x0, x1, device=out.device)
            centre = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).reshape(-1, 2) * SUB + SUB // 2
            nearest = torch.full((len(centre),), torch.inf, device=out.device)
            winner = torch.zeros(len(centre), dtype=torch.int64, device=out.device)
            for part in here.split(CHUNK):
                offset = centre[None, None] - ordered[part][:, :, None]  # [n, 3, P, 2]
                inside = (_cross(edge[part][:, :, None], offset) + bias[part][..., None] >= 0).all(1)
                step = offset[:, 0].float() / SUB
                z = za[part][:, None] + slope[part][:, 1:] * step[..., 1] + slope[part][:, :1] * step[..., 0]
                z = z.clamp(depth[part].amin(-1, keepdim=True), depth[part].amax(-1, keepdim=True))
                z = z.masked_fill(~inside | (z > 1), torch.inf)
                first, who = z.min(0)  # triangles are in ascending order
                who = torch.where(z == first, owner[part][:, None], len(owner) + owner.max() + 1).amin(0)
                better = (first < nearest) | ((first == nearest) & (who + 1 < winner))
                winner = torch.where(better & first.isfinite(), who + 1, winner)
                nearest = torch.where(better, first, nearest)
            out[y0:y1, x0:x1] = winner.reshape(y1 - y0, x1 - x0).int()


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _depth_slope(a: Tensor, b: Tensor, c: Tensor, za: Tensor, zb: Tensor, zc: Tensor, area: Tensor) -> Tensor:
    """[n, 2]: change of z/w per pixel in x and y (z/w is affine on the screen), rounded to float32."""
    ab, ac = (b - a).double(), (c - a).double()
    zab, zac = (zb.double() - za.double()), (zc.double() - za.double())
    scale = SUB / area.clamp(min=1).double()
    dx = (zab * ac[:, 1] - zac * ab[:, 1]) * scale
    dy = (zac * ab[:, 0] - zab * ac[:, 0]) * scale
    return torch.stack([dx, dy], -1).float()


def barycentrics(clip: Tensor, triangles: Tensor, triangle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[B, V, 4], [T, 3], [B, H, W] -> uv [B, H, W, 2], depth [B, H, W], uv_dxy [B, H, W, 4]; zeros where no triangle.

    With corners (X_i, Y_i, w_i) relative to the pixel's centre, the perspective-correct weight of corner i is
    a_i / (a_0 + a_1 + a_2), a_0 = X_1 Y_2 - Y_1 X_2 and cyclic: no division by w, so corners behind the camera
    are as good as others. A centre that snapping moved out of its triangle is taken to the triangle's rim.
    """
    height, width = triangle.shape[1:]
    view, row, column = triangle.nonzero(as_tuple=True)
    corner = triangles.long()[triangle[view, row, column].long() - 1]  # [n, 3]
    x, y, z, w = clip[view[:, None], corner].unbind(-1)  # [n, 3] each
    half_x, half_y = (width / 2 - 0.5 - column).to(w)[:, None], (height / 2 - 0.5 - row).to(w)[:, None]
    big_x, big_y = width / 2 * x + half_x * w, half_y * w - height / 2 * y
    weight, dx, dy = edge_weights(big_x, big_y, w)
    u, v = weight[:, 0], weight[:, 1]
    depth = _finite_ratio((weight * z).sum(-1), (weight * w).sum(-1))
    slope = torch.stack([dx[:, 0] - u * dx.sum(-1), dy[:, 0] - u * dy.sum(-1),
                         dx[:, 1] - v * dx.sum(-1), dy[:, 1] - v * dy.sum(-1)], -1).detach()  # fmt: skip
    slope = torch.where(torch.isfinite(slope), slope, 0)
    at = (view, row, column)
    uv = clip.new_zeros(*triangle.shape, 2).index_put(at, torch.stack([u, v], -1))
    return (
        uv,
        clip.new_zeros(triangle.shape).index_put(at, depth),
        clip.new_zeros(*triangle.shape, 4).index_put(at, slope),
    )


def edge_weights(x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[n, 3] corners about the pixel -> weights [n, 3] and, over the same sum, the slopes of a_i in x and y.

    Where the sum overflows or is empty the pixel takes corner 2, without gradient.
    """
    with torch.no_grad():
        total = _areas(x, y).abs().sum(-1, keepdim=True)
        good = torch.isfinite(total) & (total > TINY)
    x, y = torch.where(good, x, 0), torch.where(good, y, 0)
    area = _areas(x, y)
    side = torch.where(area.sum(-1, keepdim=True) < 0, -1.0, 1.0).to(area)
    inner = (area * side).clamp(min=0)
    total = torch.where(good, inner.sum(-1, keepdim=True), 1)
    weight = torch.where(good, inner, inner.new_tensor([0.0, 0.0, 1.0])) / total
    x1, x2, y1, y2, w1, w2 = (c.roll(shift, 1) for c in (x, y, w) for shift in (-1, -2))
    dx, dy = (y1 * w2 - w1 * y2) * side / total, (w1 * x2 - x1 * w2) * side / total
    return weight, dx, dy


def _areas(x: Tensor, y: Tensor) -> Tensor:
    return x.roll(-1, 1) * y.roll(-2, 1) - y.roll(-1, 1) * x.roll(-2, 1)


def _finite_ratio(z: Tensor, w: Tensor) -> Tensor:
    """z/w, or 1 (the far plane) where round-off left nothing to divide by."""
    good = (w > TINY) & torch.isfinite(z) & torch.isfinite(w)
    return torch.where(good, z, 1) / torch.where(good, w, 1)
