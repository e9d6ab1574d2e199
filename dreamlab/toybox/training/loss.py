# SPDX-License-Identifier: Apache-2.0
"""The training objective: squared error of v = a n - s x0, at full size or at half size, over all t; and beside it
that of what the network's volume shows from the batch's cameras."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.noise import NoiseTable
from dreamlab.toybox.training.data import Batch
from dreamlab.toybox.training.plan import Plan
from dreamlab.toybox.training.roles import ROLES
from guidance.shared.dtypes import fast_dtype
from guidance.toybox.layers import pooled
from guidance.toybox.net import Prior, Text
from guidance.toybox.told import CAMERA_FEATURES
from guidance.toybox.volume import Given
from guidance.toybox.words import NULL, PAD

SHOWN_WEIGHT = (1.0, 1.0, 1.0, 1.0, 1.0, 0.3, 0.3, 0.3, 1.0)  # normals are large and say little more than depth does


@dataclass(frozen=True)
class Chance:
    """Everything random of one step, drawn on the host: the same on every device."""

    t_index: Tensor  # [B], stratified
    noise: Tensor  # [B, S, S, 3]
    no_text: Tensor  # [B] bool
    no_camera: Tensor  # [B] bool
    no_hint: Tensor  # [B] bool

    @staticmethod
    def draw(shape: torch.Size, steps: int, plan: Plan, generator: torch.Generator) -> Chance:
        count, joint = shape[0], plan.joint
        strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        order = torch.randperm(count, generator=generator)  # views of one object must not share a stratum every time
        noise = torch.randn(shape, generator=generator)
        t_index = (strata[order] ** plan.tilt * steps).long().clamp(max=steps - 1)
        no_text, no_camera = (torch.rand(count, generator=generator) < p for p in (plan.drop_text, plan.drop_camera))
        no_hint = torch.rand(count, generator=generator) < plan.drop_hint
        if joint > 1:  # one hint and caption for a group, and mostly one noise level
            first = torch.arange(count) // joint * joint
            same = (torch.rand(count // joint, generator=generator) < plan.same_time).repeat_interleave(joint)
            t_index, no_text, no_hint = torch.where(same, t_index[first], t_index), no_text[first], no_hint[first]
            if share := ROLES[plan.role].same_noise:
                same = (torch.rand(count // joint, generator=generator) < share).repeat_interleave(joint)
                noise = torch.where(same[:, None, None, None], noise[first], noise)
        return Chance(t_index, noise, no_text, no_camera, no_hint)

    def to(self, device: torch.device | str) -> Chance:
        return Chance(*(value.to(device) for value in vars(self).values()))


def errors(net: Prior, table: NoiseTable, batch: Batch, chance: Chance) -> tuple[Tensor, Tensor]:
    """[B] weighted mean squared error of each picture's v, of those that are not graded it means nothing; and the mean
    squared error of what the volume shows."""
    x = 2 * batch.rgb - 1
    bar, noise = table.alpha_bar[chance.t_index], chance.noise
    if not batch.graded.all():  # a picture that is given is clean; one that is withheld is black, at full noise
        given = ~batch.graded
        withheld = given & chance.no_hint & batch.novel
        bar = torch.where(given, (~withheld).to(bar), bar)
        held_back = withheld[:, None, None, None]
        x, noise = x * ~held_back, noise * ~held_back
    bar = bar.clamp(1e-9, 1 - 1e-6)
    half = x.shape[1] == net.net.half
    a, s = (value[:, None, None, None] for value in (bar.sqrt(), (1 - bar).sqrt()))
    z, v = a * x + s * noise, a * noise - s * x
    hint = None if batch.hint is None else batch.hint * ~chance.no_hint[:, None, None, None]
    with mixed_precision(x.device):
        text, camera, seen = _asked(net, batch, chance)
        more = (text, camera, hint, batch.joint, seen)
        guess = net.half_size(z, torch.logit(bar), *more) if half else net(z, bar, *more)
        shown = v.new_zeros(()) if seen is None else _shown_error(net, batch, seen)
    error = (guess.float() - v).square().mean(-1)
    return (batch.weight * error).flatten(1).sum(1) / batch.weight.flatten(1).sum(1), shown


def shape_error(net: Prior, batch: Batch, chance: Chance) -> Tensor:
    """That of what the volume shows alone; the words stay what they are."""
    with mixed_precision(batch.rgb.device):
        seen = _asked(net, batch, chance, words_learn=False)[2]
        if seen is None:
            raise InputError("this prior has no volume to train")
        return _shown_error(net, batch, seen)


def _asked(net: Prior, batch: Batch, chance: Chance, words_learn: bool = True) -> tuple[Text, Tensor, Tensor | None]:
    """Captions and cameras, less those that are left out, and what the pictures' cells see of the volume."""
    ids = torch.full_like(batch.ids, PAD)
    ids[:, 0] = NULL
    ids = torch.where(chance.no_text[:, None], ids, batch.ids)
    camera = batch.camera * ~chance.no_camera[:, None]
    rows = torch.arange(len(ids), device=ids.device)
    if batch.novel:  # each group has one caption and one given picture, its first
        first, row = rows[:: batch.joint], rows // batch.joint
        said = ids[first]
    else:
        said, row = ids.unique(dim=0, return_inverse=True)
    with contextlib.nullcontext() if words_learn else torch.no_grad():
        text = net.text(said)
    if batch.novel:
        there = batch.shown[first]
        picture = 2 * there[..., :3] - there[..., 3:4]  # before mid gray, whatever stands behind the group
        text = net.shaped(text, None, Given(picture, camera[first], ~chance.no_hint[first])).rows(row)
        return text, camera, net.seen(text, camera)
    if not batch.camera[:, CAMERA_FEATURES:].any():  # of a caption one volume, unless it moves
        text = net.shaped(text)
    text = text.rows(row)
    return text, camera, net.seen(text, camera)


def _shown_error(net: Prior, batch: Batch, seen: Tensor) -> Tensor:
    shown, true = net.volume.look(seen).float(), batch.shown
    while true.shape[1] > shown.shape[1]:
        true = pooled(true)
    told = seen.abs().flatten(1).amax(1) > 0  # without a camera nothing is seen
    error = ((shown - true).square() * shown.new_tensor(SHOWN_WEIGHT)).mean((1, 2, 3))
    return (error * told).sum() / told.sum().clamp(min=1)


def mixed_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 products over float32 weights where the device is fast at them."""
    if fast_dtype(device) == torch.bfloat16:
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
