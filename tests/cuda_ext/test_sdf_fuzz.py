# SPDX-License-Identifier: Apache-2.0
"""Tables nobody would write: random programs agree with the twin, numbers that are not finite do no harm."""

import math

import pytest
import torch

from cuda_ext import sdf as op
from cuda_ext.reference import sdf as twin
from dreamlab.core.cameras import orbit
from dreamlab.toybox.draw import Light
from dreamlab.toybox.program import rotation

PARTS = 3


def random_rows(count: int, height: int, seed: int) -> torch.Tensor:
    """Valid rows of any kind, order, fold and pose."""
    g = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=g)

    rows = torch.zeros(count, height, twin.ROW)
    flat = rows.view(-1, twin.ROW)
    flat[:, twin.KIND] = torch.randint(0, twin.STAR + 1, (len(flat),), generator=g)
    flat[:, twin.OP] = torch.randint(0, 4, (len(flat),), generator=g)
    flat[:, twin.SMOOTH] = draw(0, 0.2, len(flat)) * (torch.rand(len(flat), generator=g) < 0.4)
    flat[:, twin.PART_ID] = torch.randint(0, PARTS, (len(flat),), generator=g)
    flat[:, twin.FOLD] = torch.randint(0, 6, (len(flat),), generator=g)
    flat[:, twin.FOLD_COUNT] = torch.randint(1, 10, (len(flat),), generator=g)
    flat[:, twin.SCALE] = draw(0.5, 1.5, len(flat))
    flat[:, twin.PARAMS : twin.PARAMS + 4] = draw(0.1, 0.5, len(flat), 4)
    for row in flat:
        if row[twin.KIND] == twin.ARC:
            angle = float(draw(0.2, 3.0, 1))
            row[twin.PARAMS + 2], row[twin.PARAMS + 3] = math.sin(angle), math.cos(angle)
        if row[twin.KIND] == twin.STAR:
            row[twin.PARAMS + 3] = 3 + int(draw(0, 5, 1))
        if row[twin.KIND] == twin.ROUND_CONE:
            row[twin.PARAMS + 2] = 0.51 * (row[twin.PARAMS] - row[twin.PARAMS + 1]).abs() + 0.1
        for column, scale in ((twin.FRAME, row[twin.SCALE]), (twin.LOCAL, 1.0)):
            turn = torch.tensor(rotation(draw(-180, 180, 3).tolist()))
            row[column : column + 9] = (turn / scale).flatten()
            row[column + 9 : column + 12] = draw(-0.4, 0.4, 3)
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_random_programs_agree_with_the_twin(seed):
    rows = random_rows(12, 9, seed)
    points = 3 * torch.rand(12, 400, 3, generator=torch.Generator().manual_seed(seed)) - 1.5
    ours, part = op.sdf(rows, points, backend="native")
    theirs, their_part = op.sdf(rows.double(), points.double(), backend="torch")
    # The search for an ellipsoid's nearest point is unfinished in places where its value jumps with the last bit.
    assert ((ours - theirs).abs() > 1e-4 * (1 + theirs.abs())).sum() <= 5
    assert (part != their_part).sum() <= 25


@pytest.mark.parametrize("seed", range(3))
def test_no_program_is_steeper_than_one(seed):
    rows = random_rows(16, 7, 100 + seed).double()
    g = torch.Generator().manual_seed(seed)
    p = 3 * torch.rand(16, 1500, 3, generator=g, dtype=torch.float64) - 1.5
    q = p + 0.3 * torch.rand(16, 1500, 1, generator=g, dtype=torch.float64) * torch.randn(
        p.shape, generator=g, dtype=torch.float64
    )
    rise = (twin.sdf(rows, p)[0] - twin.sdf(rows, q)[0]).abs()
    assert (rise <= (p - q).norm(dim=-1) + 1e-3).all()


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e30, -5.0])
def test_broken_numbers_never_leave_the_tables(poison):
    """Any table gives a picture of the right shape with known parts: no crash, no hang."""
    rows = random_rows(24, 6, 7)
    g = torch.Generator().manual_seed(3)
    where = torch.rand(rows.shape, generator=g) < 0.03
    rows[where] = poison
    rows[..., twin.FOLD_COUNT] = rows[..., twin.FOLD_COUNT].nan_to_num(1).clamp(1, 64)
    parts = torch.rand(24, PARTS, twin.PART, generator=g)
    parts[:, 0, twin.PERIOD] = poison
    view = orbit([10.0])
    pose, focal = view.camera_to_world.expand(24, 1, 4, 4), view.focal_px(12).expand(24, 1)
    bound = torch.tensor([[0.0, 0.0, 0.0, 1.2]]).expand(24, 4)
    drawn = op.draw(rows, parts, bound, pose, focal, Light().packed(), 12, 12, backend="native")
    assert drawn[4].min() >= -1 and drawn[4].max() < PARTS
    assert (drawn[1] >= 0).all() and (drawn[1] <= 1).all()
