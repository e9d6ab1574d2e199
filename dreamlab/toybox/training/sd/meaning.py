# SPDX-License-Identifier: Apache-2.0
"""What captions mean, taught to the text encoder before any picture: kind, action, colours and looks of parts.

Real encoders come to their U-Net with what texts alone can teach, and stay as they are; one that began with the U-Net
hardly learnt which colour is whose: after 240,000 pictures a linear reading of its last token named the second part's
colour in 47 of 100 captions. Texts of the world cost nothing to draw, and what they mean is known.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamlab.core.streams import derive
from dreamlab.toybox.caption import Caption
from dreamlab.toybox.colours import COLOURS, MATERIALS, PATTERNS, Finish
from dreamlab.toybox.motion import ACTIONS
from dreamlab.toybox.shapes import CATEGORIES, finishes
from dreamlab.toybox.training.data import Drawn, draw_caption
from dreamlab.toybox.training.plan import Plan
from dreamlab.toybox.training.sd.shapes import TEXT_WIDTH, Model
from guidance.toybox.net import NetSettings

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

PARTS = 5  # of an object whose colours are asked
NAMED = 2  # of them that nearly all captions name: their pattern, its other colour and their material are asked too
KINDS, DEEDS, STUFFS = tuple(CATEGORIES), ("", *ACTIONS), tuple(MATERIALS)
HUES = (*COLOURS, "")  # "": it has no such part
SIZES = (len(KINDS), len(DEEDS), *[len(HUES)] * PARTS, *[len(PATTERNS), len(COLOURS), len(STUFFS)] * NAMED)
BATCH, RATE, WARMUP = 128, 2e-3, 100
TOKENS = 32  # the longest caption of the world has fewer


def meaning(said: Caption) -> tuple[int, ...]:
    """The answers: kind, action, colours of the first parts as they are (named or usual), and how two of them look."""
    looks = list(finishes(CATEGORIES[said.category], said.finishes).values())[:PARTS]
    hues = [HUES.index(look.colour) for look in looks] + [HUES.index("")] * (PARTS - len(looks))
    found = [KINDS.index(said.category), DEEDS.index(said.action or ""), *hues]
    for look in (*looks, Finish("white"))[:NAMED]:
        found += [PATTERNS.index(look.pattern), list(COLOURS).index(look.second), STUFFS.index(look.material)]
    return tuple(found)


def captions(seed: int, index: int, count: int, *, held_out: bool = False) -> list[Drawn]:
    rng, plan = random.Random(derive(seed, "meaning", index, held_out)), Plan(NetSettings(1))  # noqa: S311
    return [draw_caption(rng, plan, held_out) for _ in range(count)]


def asked(
    encoder: Model, answers: nn.Linear, ids: Tensor, said: Sequence[Drawn], place: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy, mean of all questions, and the share of right answers [questions].

    One token of each caption is read, linearly: `place` [K] in [0, 1) says which from the end mark on. They all pad,
    and have seen the whole caption; a U-Net looks at any of them.
    """
    states = encoder(ids).last_hidden_state.float()
    end = (ids == ids.max()).int().argmax(1)
    which = end + (place * (ids.shape[1] - end)).long()
    right = torch.tensor([meaning(one.caption) for one in said], device=ids.device)
    found = answers(states[torch.arange(len(ids)), which]).split(SIZES, -1)
    losses = torch.stack([F.cross_entropy(one, right[:, i]) for i, one in enumerate(found)])
    hits = torch.stack([(one.argmax(1) == right[:, i]).float().mean() for i, one in enumerate(found)])
    return losses.mean(), hits.detach()


def listen(
    encoder: Model, tokenizer: CLIPTokenizer, seed: int, steps: int, stopping: Callable[[], bool]
) -> dict[str, float] | None:
    """Teach the encoder in place, in five minutes of a core; None if it was stopped on the way. Shares of right answers
    about captions that are held out, in phrasings it never heard: of the worst question, and of the second colour.
    """
    generator = torch.Generator().manual_seed(derive(seed, "listen"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "answers") % 2**63)
        answers = nn.Linear(TEXT_WIDTH, sum(SIZES))
    learning = [*encoder.parameters(), *answers.parameters()]
    optimiser = torch.optim.AdamW(learning, RATE, betas=(0.9, 0.99), weight_decay=0.01)

    def question(index: int, held_out: bool) -> tuple[Tensor, Tensor]:
        said = captions(seed, index, BATCH, held_out=held_out)
        texts = [one.text for one in said]
        ids = tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids
        return asked(encoder, answers, ids, said, torch.rand(BATCH, generator=generator))

    for i in range(steps):
        if stopping():
            return None
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (i + 1) / WARMUP) * (1 - i / steps)
        optimiser.zero_grad()
        question(i, held_out=False)[0].backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
    with torch.no_grad():
        hits = torch.stack([question(i, held_out=True)[1] for i in range(4)]).mean(0)
    return {"understood": hits.min().item(), "kind": hits[0].item(), "second_colour": hits[3].item()}
