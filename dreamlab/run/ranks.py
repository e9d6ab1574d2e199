# SPDX-License-Identifier: Apache-2.0
"""One run worked on by several processes, its ranks: what costs is shared out, everything else is done by all alike.

A rank draws some of a step's views, encodes those, and answers some rows of each call of the network; what it made all
others get. So every rank holds the whole step. What looks across views sees them all, random numbers come from the same
streams on every rank, and what is decided is decided alike: no rule and no scene knows that there are ranks. Gradients
flow back to the pictures that a rank has drawn itself, and those of the parameters are added up once per step.

`Alone` is the run of a single process: every method is the plain thing, and torch.distributed is never loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TypeVar

import torch
from torch import Tensor

from cuda_ext.context import Context
from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import InputError, RankLost
from dreamlab.core.streams import ViewShare, ViewStream
from dreamlab.core.types import Frames, Scene, Tallying, Training
from dreamlab.run.folder import Onlooker, Run
from dreamlab.run.signals import StopSignal
from systems.engine.regularisers import REGULARISERS, penalty
from systems.engine.residual import UNAIDED, Unaided

Made = TypeVar("Made")


class Alone:
    """One process does all of a step."""

    rank, count = 0, 1

    def listen(self, stop: StopSignal) -> None:
        """What this process is asked."""

    def own(self, run: Run) -> Run:
        """The run as this process may use it: one writes."""
        return run

    def by(self, group: int) -> Alone:
        """The same for a stage whose views stay together by so many."""
        return self

    def render(self, scene: Scene, cameras: Cameras, size: int, background: Tensor, training: Training) -> Frames:
        """The views of a step, all of them."""
        return scene.render(cameras, size, background, training)

    def encode(self, work: Callable[[Frames], Tensor], seen: Frames, rows: Sequence[int] | None, fold: int) -> Tensor:
        """What `work` makes of frames, `fold` of which are one row of it; `rows` are theirs in the step, None: all."""
        return work(seen)

    def company(self, group: int) -> Unaided:
        """Who answers the calls of a network that sees `group` rows in a row as one."""
        return UNAIDED

    def penalty(self, name: str, scene: Scene, frames: Frames) -> Tensor:
        """A regulariser."""
        return penalty(name, scene, frames)

    def add_up(self, scene: Scene) -> None:
        """After a backward pass: gradients, and what a scene counts, of all views."""

    def halts(self, stop: StopSignal) -> bool:
        """Whether the run stops after this step: whichever rank is asked to, all do."""
        return stop.requested

    def in_turn(self, work: Callable[[], Made]) -> Made:
        """First by the rank that writes, then by the others."""
        return work()

    def settle(self, scene: Scene, done: int) -> None:
        """Before the steps of a stage: all ranks hold one scene, and stand at one step."""


ALONE = Alone()


class Ranks(Alone):
    """One of several processes that torch.distributed has brought together."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self._stop = StopSignal()
        self.sent = 0  # bytes that this rank has had to tell others
        self.together = 1  # views that stay on one rank
        self._views: list[int] = []  # that each rank has in this step
        self._sums: list[tuple[Tensor, Tensor]] = []  # what a scene counts, and as it was before the step
        self._most: list[Tensor] = []
        self._asked = 0  # exit code of a stop that some rank was asked for

    def listen(self, stop: StopSignal) -> None:
        self._stop = stop

    def own(self, run: Run) -> Run:
        return run if self.rank == 0 else Onlooker(run.path)

    def by(self, group: int) -> Ranks:
        self.together = group
        return self

    # ---- what is shared out -----------------------------------------------------------------------------------------
    def shares(self, rows: int, group: int = 1) -> list[int]:
        """How many of some rows each rank has: whole groups, as even as can be."""
        groups = -(-rows // group)  # the last may be smaller
        ends = [min(groups * r // self.count * group, rows) for r in range(self.count + 1)]
        return [end - begin for begin, end in pairwise(ends)]

    def place(self, shares: Sequence[int]) -> slice:
        """Where this rank's rows are."""
        ends = [0, *accumulate(shares)]
        return slice(ends[self.rank], ends[self.rank + 1])

    def render(self, scene: Scene, cameras: Cameras, size: int, background: Tensor, training: Training) -> Frames:
        self._views = shares = self.shares(len(cameras), self.together)
        mine = self.place(shares)
        stream = training.stream
        assert isinstance(stream, ViewStream)
        stream.part = ViewShare(mine.start, shares[self.rank], len(cameras), self._counted)
        own = scene.render(cameras[mine], size, background[mine], training)
        sums, most = scene.tallies() if isinstance(scene, Tallying) else ((), ())
        self._sums, self._most = [(tally, tally.clone()) for tally in sums], list(most)
        return self._whole(own, shares)

    def _whole(self, own: Frames, shares: Sequence[int]) -> Frames:
        """The frames of all ranks; what is no picture stays ours."""
        known = {"rgb": own.rgb, "alpha": own.alpha, "depth": own.depth, "background": own.background}
        known |= {} if own.normal is None else {"normal": own.normal}
        views = shares[self.rank]
        drawn = {name: value for name, value in own.extra.items() if value.dim() == 4 and len(value) == views}
        maps = [*known.values(), *drawn.values()]
        flat = torch.cat([value.reshape(views, -1).to(own.rgb) for value in maps], 1)
        pieces = _Gather.apply(flat, self, shares).split([value[0].numel() for value in maps], 1)
        whole = [piece.reshape(-1, *value.shape[1:]) for piece, value in zip(pieces, maps, strict=True)]
        pictures = dict(zip(known, whole[: len(known)], strict=True))
        extra = {**own.extra, **dict(zip(drawn, whole[len(known) :], strict=True))}
        visible = own.visible
        if visible is not None:
            visible = self.reduced(visible.to(torch.uint8), "MAX").bool()
        return Frames(**pictures, visible=visible, extra=extra, parts=_Parts(self, views))

    def encode(self, work: Callable[[Frames], Tensor], seen: Frames, rows: Sequence[int] | None, fold: int) -> Tensor:
        """Each rank encodes what it has drawn; where one has nothing, or a part of what is one row, each does all."""
        rows = range(sum(self._views)) if rows is None else rows
        bounds = [0, *accumulate(self._views)]
        counts = [sum(begin <= row < end for row in rows) for begin, end in pairwise(bounds)]
        if not all(counts) or any(count % fold for count in counts):
            return work(seen)
        mine = self.place(counts)
        own = work(seen.take(range(mine.start, mine.stop)))
        return _Gather.apply(own, self, [count // fold for count in counts])

    def company(self, group: int) -> Unaided:
        return _Company(self, group)

    # ---- what flows back --------------------------------------------------------------------------------------------
    def penalty(self, name: str, scene: Scene, frames: Frames) -> Tensor:
        """Of pictures: as any loss. Else every rank finds the same value from parameters that all of them have, and of
        all those gradients each counts a part; so what is a rank's alone must count that many times."""
        if name in REGULARISERS:
            return REGULARISERS[name](frames)
        count = self.count
        normal = None if frames.normal is None else _Scaled.apply(frames.normal, count)
        rgb, alpha, depth = (_Scaled.apply(value, count) for value in (frames.rgb, frames.alpha, frames.depth))
        counted = replace(frames, rgb=rgb, alpha=alpha, depth=depth, normal=normal)
        return _Scaled.apply(scene.penalty(name, counted), 1 / count)

    def add_up(self, scene: Scene) -> None:
        tensors = [group.tensor for group in scene.groups().values()]
        there = [tensor.grad is not None for tensor in tensors]
        code = self._stop.exit_code if self._stop.requested else 0
        *somewhere, self._asked = self.tell([*map(int, there), code])
        pairs = [(tensor, tensor.grad) for tensor, one in zip(tensors, somewhere, strict=True) if one]
        parts = [torch.zeros_like(tensor) if grad is None else grad for tensor, grad in pairs]
        parts += [tally.sub_(before) for tally, before in self._sums]
        summed = self.summed(parts)
        for (tensor, _), grad in zip(pairs, summed, strict=False):
            tensor.grad = grad
        for (tally, before), more in zip(self._sums, summed[len(pairs) :], strict=True):
            tally.copy_(before + more)
        for tally in self._most:
            tally.copy_(self.reduced(tally, "MAX"))

    def summed(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Over all ranks, in one message."""
        if not parts:
            return []
        flat = self.reduced(torch.cat([part.reshape(-1) for part in parts]), "SUM")
        pieces = flat.split([part.numel() for part in parts])
        return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]

    # ---- what all must agree on -------------------------------------------------------------------------------------
    def halts(self, stop: StopSignal) -> bool:
        if self._asked:
            stop.requested, stop.exit_code = True, self._asked
        return bool(self._asked)

    def in_turn(self, work: Callable[[], Made]) -> Made:
        if self.rank == 0:
            made = work()
            self.tell([0])
            return made
        self.tell([0])
        return work()

    def settle(self, scene: Scene, done: int) -> None:
        most, least = self.tell([done, -done])
        if most != -least:
            raise InputError(
                f"rank {self.rank} of {self.count} finds the run at step {done}, others between {-least} and {most}: "
                "all must see one run folder; put it on a disk that the machines share"
            )
        for group in scene.groups().values():
            tensor = group.tensor.detach()
            sent = tensor.contiguous()
            self._do("broadcast", sent, 0, bytes=sent.numel() * sent.element_size())
            tensor.copy_(sent)

    def tell(self, numbers: Sequence[int]) -> list[int]:
        """The largest of what each rank says, place by place; on the host."""
        return [int(n) for n in self.reduced(torch.tensor(numbers, dtype=torch.int64), "MAX").tolist()]

    def _counted(self, rows: int) -> tuple[int, int]:
        """How many rows the ranks before this one have, and all."""
        found = self.tell([rows if r == self.rank else 0 for r in range(self.count)])
        return sum(found[: self.rank]), sum(found)

    def collect(self, own: Tensor, shares: Sequence[int]) -> Tensor:
        """The rows of all ranks, in order; of any type, as bytes."""
        row = own.new_empty(1, *own.shape[1:]).view(1, -1).view(torch.uint8).shape[1]
        mine = own.new_empty(0).view(torch.uint8).new_zeros(max(shares), row)
        mine[: len(own)] = own.detach().contiguous().view(len(own), -1).view(torch.uint8)
        found = [torch.empty_like(mine) for _ in shares]
        self._do("all_gather", found, mine, bytes=mine.numel())
        rows = torch.cat([piece[:share] for piece, share in zip(found, shares, strict=True)])
        return rows.view(own.dtype).view(-1, *own.shape[1:])

    def reduced(self, value: Tensor, how: str) -> Tensor:
        """Of all ranks, the same bits on each."""
        from torch.distributed import ReduceOp

        found = value.detach().clone()
        self._do("all_reduce", found, getattr(ReduceOp, how), bytes=found.numel() * found.element_size())
        return found

    def _do(self, name: str, *arguments: object, bytes: int) -> None:
        """A collective operation; it fails where another process has gone."""
        import torch.distributed as dist

        self.sent += bytes
        try:
            getattr(dist, name)(*arguments)
        except RuntimeError as error:
            said = " ".join(str(error).split())[:120]
            raise RankLost(f"rank {self.rank} of {self.count}: another process of this run is gone ({said})") from None


@dataclass(frozen=True)
class _Company(Unaided):
    """The calls of a network, shared out in whole groups of rows; of fewer groups than ranks all do everything."""

    ranks: Ranks
    group: int

    def each(self, work: Callable[[slice], Tensor], rows: int) -> Tensor:
        shares = self.ranks.shares(rows, self.group)
        if rows % self.group or not all(shares):
            return work(slice(None))
        return self.ranks.collect(work(self.ranks.place(shares)), shares)

    def portion(self, rows: int) -> tuple[slice, float]:
        shares = self.ranks.shares(rows, self.group)
        if rows % self.group or not all(shares):
            return slice(None), 1 / self.ranks.count
        return self.ranks.place(shares), shares[self.ranks.rank] / rows

    def add_up(self, *values: Tensor) -> list[Tensor]:
        return self.ranks.summed(values)


@dataclass(frozen=True)
class _Parts:
    """Of frames: how sums over one rank's views become those over all."""

    ranks: Ranks
    views: int

    def sum(self, value: Tensor) -> Tensor:
        return _Sum.apply(value, self.ranks)


class _Gather(torch.autograd.Function):
    """The rows of all ranks; what flows back reaches a rank's own."""

    @staticmethod
    def forward(ctx: Context, own: Tensor, ranks: Ranks, shares: Sequence[int]) -> Tensor:
        ctx.mine = ranks.place(shares)
        return ranks.collect(own, shares)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0][ctx.mine], None, None


class _Sum(torch.autograd.Function):
    """Over all ranks, in a value of which each rank's gradient counts a part (`Ranks.penalty`)."""

    @staticmethod
    def forward(ctx: Context, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.count = ranks.count
        return ranks.reduced(value, "SUM")

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] * ctx.count, None


class _Scaled(torch.autograd.Function):
    """The same, with so many times the gradient."""

    @staticmethod
    def forward(ctx: Context, value: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] * ctx.scale, None
