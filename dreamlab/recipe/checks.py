# SPDX-License-Identifier: Apache-2.0
"""What cannot work together is said when the recipe is read, not at step 1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from cuda_ext.backend import absent
from cuda_ext.packages import PACKAGES
from dreamlab.core.cards import GuidanceCard, RuleCard, SceneCard, WordsHeard
from dreamlab.core.errors import RecipeError
from dreamlab.core.text import check_prompt
from dreamlab.core.types import Prompt
from dreamlab.recipe.grammar import Recipe, Stage, Term
from dreamlab.recipe.tables import TABLES
from dreamlab.toybox.asked import dressed, hearing, moved
from dreamlab.toybox.understand import understand
from renderers.become import can_become


def check(recipe: Recipe) -> None:
    """Every stage, its scene, and each of its terms."""
    kinds = {stage.name: stage.scene.kind for stage in recipe.stages}
    for i, stage in enumerate(recipe.stages):
        where, scene = f"stages.{i} ({stage.name!r})", TABLES.scene(stage.scene)
        check_scene(stage, scene, kinds, where)
        check_materials(stage, where)
        check_hollow(stage, where)
        check_cameras(stage, f"{where}: cameras")
        check_prompts(recipe, stage, scene, where)
        check_at_once(recipe, stage, where)
        for j, term in enumerate(stage.terms):
            place, (guide, rule) = f"{where}: terms.{j}", cards_of(term)
            check_term(term, guide, rule, place)
            check_frames(term, guide, rule, scene, place)
            check_views(replace(stage, views=stage.views // stage.at_once), term, guide, rule, place)
            check_stands(stage, term, guide, recipe.image.elevation_deg, place)
            for prompt in told(recipe, stage):
                check_prompt(prompt.text)
                check_words(guide, prompt)


def cards_of(term: Term) -> tuple[GuidanceCard, RuleCard]:
    """What a term's guidance and rule say of themselves."""
    guidance, system = term.guidance, term.system
    return TABLES.guidance[guidance.kind].card(guidance.settings), TABLES.systems[system.kind].card(system.settings)


def every_card(recipe: Recipe) -> Iterator[tuple[Term, GuidanceCard]]:
    """The terms of all stages with their guidance's card."""
    return ((term, cards_of(term)[0]) for stage in recipe.stages for term in stage.terms)


def prompts_of(recipe: Recipe) -> tuple[Prompt, ...]:
    """The prompts of a run in the order of their turns."""
    return tuple(Prompt(text, recipe.negative) for text in (recipe.prompt, *recipe.prompts))


def own_words(recipe: Recipe, stage: Stage) -> tuple[Prompt, ...]:
    """Those of a stage's objects, where they have some."""
    return tuple(Prompt(text, recipe.negative) for text in TABLES.scene(stage.scene).told)


def told(recipe: Recipe, stage: Stage) -> tuple[Prompt, ...]:
    """What the guidances of a stage are told."""
    return own_words(recipe, stage) or prompts_of(recipe)


def looks(recipe: Recipe) -> bool:
    """Whether some term follows a given picture."""
    return any(guide.picture for _, guide in every_card(recipe))


def check_words(guide: GuidanceCard, prompt: Prompt) -> None:
    """Whether a guidance knows what it is told."""
    if guide.world:
        understand(prompt.text)
        for name, text in guide.quotes.items():
            understand(text, name)
    guide.listen(prompt)


def hearings(recipe: Recipe) -> Iterator[WordsHeard]:
    """What every term's guidance makes of what it is asked for. What one makes move, another may make still."""
    moves = any(guide.clip for _, guide in every_card(recipe))
    dresses = recipe.stages[-1].materials.by == "words" and recipe.stages[-1].scene.kind == "mesh"
    for stage in recipe.stages:
        said = tuple(prompt.text for prompt in told(recipe, stage))
        for term in stage.terms:
            guide, rule = cards_of(term)
            texts = rule.texts or said
            for text in texts:
                heard = hearing(text, guide.clip) if guide.world else guide.hear(text)
                heard = dressed(heard) if dresses else heard
                yield moved(heard) if moves else heard


def check_scene(stage: Stage, scene: SceneCard, kinds: dict[str, str], where: str) -> None:
    """A scene by itself, what it starts from, and what is asked of its state."""
    if scene.complaint:
        raise RecipeError(f"{where}.scene: {scene.complaint}")
    check_backing(scene, stage.scene.kind, where)
    if stage.scene.source is not None and scene.starts:
        raise RecipeError(f"{where}: the scene starts from {stage.scene.source!r}, so none of its objects can")
    for source, kind in TABLES.takeovers(stage.scene):
        if not can_become(kinds[source], kind):
            raise RecipeError(f"{where}: a {kinds[source]} scene cannot become {kind}")
    for name in stage.regularisers:
        if name in scene.lacking:
            raise RecipeError(f"{where}: regularisers.{name}: this {stage.scene.kind} needs {scene.lacking[name]}")


def check_materials(stage: Stage, where: str) -> None:
    """Whether there is a surface to be told what it is made of, and who can tell."""
    by, kind = stage.materials.by, stage.scene.kind
    if by == "none":
        return
    place = f"{where}.materials.by: {by}"
    if kind not in ("mesh", "several"):
        raise RecipeError(f"{place}: a {kind} has no surface of its own to find materials of; use scene: mesh")
    if stage.particles > 1:
        raise RecipeError(f"{place}: particles are several scenes; set particles: 1")
    if by == "words" and not cards_of(stage.terms[0])[0].dresses:
        raise RecipeError(
            f"{place}: {stage.terms[0].guidance.kind} draws no materials by words; use by: light, or none"
        )
    if by == "light" and kind == "mesh" and stage.scene.settings.shading != "lamp":
        raise RecipeError(
            f"{place}: it is the world's own light that pictures are held against; set scene.shading: lamp"
        )


def check_hollow(stage: Stage, where: str) -> None:
    """Whether there is a surface to be emptied, and who knows of what."""
    by, kind = stage.hollow.by, stage.scene.kind
    if by == "none":
        return
    place = f"{where}.hollow.by: {by}"
    if kind != "several" and (kind != "mesh" or stage.scene.source is None):
        raise RecipeError(f"{place}: what is taken out of is an earlier stage's surface; use scene: mesh with `from:`")
    if not cards_of(stage.terms[0])[0].empties:
        raise RecipeError(f"{place}: {stage.terms[0].guidance.kind} knows of no inside; use by: none")


def check_backing(scene: SceneCard, kind: str, where: str) -> None:
    """Whether the packages that are asked for have an op of the scene, and can run here."""
    for runs in scene.backing:
        if runs.backend not in PACKAGES:
            continue
        place, ops = f"{where}.scene.{runs.where}backend", PACKAGES[runs.backend].ops
        if runs.backend not in runs.able:
            said = f"{runs.backend} runs {', '.join(ops)}, which this {kind} does not call"
            raise RecipeError(f"{place}: {said}; packages that it can use: {', '.join(runs.able)}")
        if reason := absent(runs.backend):
            raise RecipeError(f"{place}: {runs.backend}: {reason}; auto is ours")


def packages(recipe: Recipe) -> tuple[str, ...]:
    """Those that a recipe's scenes ask for."""
    asked = (runs.backend for stage in recipe.stages for runs in TABLES.scene(stage.scene).backing)
    return tuple(dict.fromkeys(name for name in asked if name in PACKAGES))


def check_prompts(recipe: Recipe, stage: Stage, scene: SceneCard, where: str) -> None:
    """Whether a stage can serve several prompts, if the recipe has several."""
    if scene.many and stage.particles > 1:
        raise RecipeError(f"{where}.particles: {stage.scene.kind} is one generator; it has no particles")
    if not recipe.prompts:
        return
    if not scene.many:
        makers = [kind for kind, entry in sorted(TABLES.scenes.items()) if entry.card(entry.Settings()).many]
        raise RecipeError(
            f"{where}.scene: {stage.scene.kind} is of one prompt and the recipe lists prompts; use {', '.join(makers)}"
        )
    if looks(recipe):
        raise RecipeError(f"{where}: a term follows the picture of one prompt and the recipe lists prompts")
    for j, term in enumerate(stage.terms):
        if cards_of(term)[1].remembers:
            raise RecipeError(
                f"{where}.terms.{j}: {term.system.kind} remembers the renders of one prompt and the recipe lists "
                "prompts; use a rule that keeps no state, as asd and sds"
            )
        if term.prompting.adaptive > 0:
            raise RecipeError(f"{where}.terms.{j}.prompting.adaptive: learns from one prompt, the recipe lists prompts")


def check_at_once(recipe: Recipe, stage: Stage, where: str) -> None:
    """Whether as many prompts or particles as a step shows are there, and can share its views evenly."""
    count, many = stage.at_once, len(recipe.prompts) + 1
    if count == 1:
        return
    what, there = ("prompts", many) if many > 1 else ("particles", stage.particles)
    if there < count or (many > 1 and there % count):
        fits = f"no divisor of its {there} {what}" if many > 1 else f"and there are {there} {what}"
        raise RecipeError(f"{where}.at_once: {count}, {fits}")
    if stage.views % (count * stage.cameras.together):
        whole = f", {stage.cameras.together} of them together" if stage.cameras.together > 1 else ""
        raise RecipeError(f"{where}.at_once: {count} {what} cannot share {stage.views} views evenly{whole}")
    if stage.given.used or any(term.sample for term in stage.terms):
        raise RecipeError(f"{where}.at_once: every term sees all views then; leave out `given` and `sample`")


def check_term(term: Term, guide: GuidanceCard, rule: RuleCard, where: str) -> None:
    """Whether a guidance has what a rule and its prompting ask for."""
    makes, needs = guide.conditions, rule.conditions | term.prompting.needs()
    if missing := needs - makes:
        raise RecipeError(
            f"{where}: {term.system.kind} needs the condition {', '.join(sorted(missing))}, "
            f"which {term.guidance.kind} does not make (it makes {', '.join(sorted(makes))})"
        )
    if rule.adapter and not guide.adapter:
        raise RecipeError(f"{where}: {term.system.kind} trains an adapter, which {term.guidance.kind} does not offer")
    if rule.clip and not guide.clip:
        raise RecipeError(f"{where}: {term.system.kind} scores whole clips, which {term.guidance.kind} here does not")
    if guide.whole and guide.clip and guide.folds == 1 and not rule.clip:
        raise RecipeError(
            f"{where}: {term.guidance.kind} looks at frames of one time of noise, and {term.system.kind} draws one for "
            "each; use system: video"
        )
    if guide.folds > 1 and rule.frames:
        folded = f"{term.guidance.kind} makes one latent of {guide.folds} frames"
        raise RecipeError(f"{where}: {term.system.kind} compares each frame with its latent, and {folded}")
    if rule.complaint:
        raise RecipeError(f"{where}.system: {rule.complaint}")
    if term.prompting.adaptive > 0 and not rule.guided:
        raise RecipeError(f"{where}.prompting.adaptive: the unconditional call is the gradient of {term.system.kind}")
    if term.prompting.rescale > 0 and not rule.rescales:
        raise RecipeError(f"{where}.prompting.rescale: {term.system.kind} has no guidance that it could pull back")


def check_frames(term: Term, guide: GuidanceCard, rule: RuleCard, scene: SceneCard, where: str) -> None:
    """Whether the scene renders what the guidance is shown and the rule compares."""
    if term.see != "rgb" and rule.colours:
        raise RecipeError(f"{where}.see: {term.system.kind} compares colours, so its guidance must be shown rgb")
    if term.see == "latent" and not scene.latents:
        raise RecipeError(f"{where}.see: latent: the scene renders no latents; use a field with latent: true")
    if guide.lights and not scene.lights:
        raise RecipeError(
            f"{where}: {term.guidance.kind} is shown light pictures; use a mesh with light_pictures: true"
        )
    bent = {f"{where}.see: {term.see}": term.see.startswith("normal")}
    bent |= {f"{where}: {term.guidance.kind}": guide.normals, f"{where}.system.normal": rule.normals}
    for what, asked in bent.items():
        if asked and not scene.normals:
            raise RecipeError(f"{what} needs normals, which the scene does not render; for a field set scene.normals")


def check_cameras(stage: Stage, where: str) -> None:
    """Whether the stage's cameras can be drawn as they are described."""
    if stage.given.views and (max(stage.given.share.values) > 0 or stage.given.views > stage.views):
        said = "and a share" if max(stage.given.share.values) > 0 else f"of {stage.views} views"
        raise RecipeError(f"{where.removesuffix('cameras')}given.views: {stage.given.views} {said}; leave one out")
    cameras, group = stage.cameras, stage.cameras.together
    if cameras.fixed:
        asked = {"ring": cameras.ring, "clip": cameras.clip, "jitter_position": cameras.jitter_position}
        asked |= {"jitter_target": cameras.jitter_target, "jitter_up": cameras.jitter_up}
        for name, value in asked.items():
            if value:
                raise RecipeError(f"{where}.{name}: cameras.fixed never change; leave one of the two out")
    for name, asks in (("ring_jitter", cameras.ring_jitter), ("ring_elevations", bool(cameras.ring_elevations))):
        if asks and not cameras.ring:
            raise RecipeError(f"{where}.{name}: there is no ring; set cameras.ring")
    if cameras.ring_elevations and cameras.ring % len(cameras.ring_elevations):
        raise RecipeError(f"{where}.ring_elevations: {len(cameras.ring_elevations)} do not go into a ring of {group}")
    if cameras.ring and cameras.clip:
        raise RecipeError(f"{where}: a ring stands around and a clip is seen from one place; leave one of the two out")
    word = "clip" if cameras.clip else "ring"
    if group > 1 and stage.given.used:
        check_given_beside(stage, word, where)
    elif stage.views % group:
        raise RecipeError(f"{where}.{word}: {stage.views} views are no {word}s of {group}; make views a multiple of it")


def check_given_beside(stage: Stage, word: str, where: str) -> None:
    """Whether rings stay whole beside views of the prompt's picture: as many of those in every step."""
    group, own = stage.cameras.together, stage.given.always(stage.views)
    whole = own is not None and (stage.views - own) % group == 0
    if word == "clip" or min(stage.given.widen.values) < 1 or not whole:
        raise RecipeError(
            f"{where}.{word}: given views break a {word} apart; leave one of the two out"
            + f", or keep rings whole beside it: views: {group + 1}, given.views: 1" * (word == "ring")
        )


def seen_by(stage: Stage, term: Term) -> int | None:
    """How many of a step's views a term sees; None where that changes from step to step."""
    if term.views == "all" or (term.views == "others" and not stage.given.some):
        return min(term.sample, stage.views) if term.sample else stage.views
    own = stage.given.always(stage.views)
    if own is None:
        return None
    count = own if term.views == "given" else stage.views - own
    return min(term.sample, count) if term.sample else count


def views_together(stage: Stage) -> int:
    """How many successive views one process must draw, where several share a step."""
    if stage.at_once > 1:
        return stage.views // stage.at_once  # of one prompt, or one particle
    folds = (cards_of(term)[0].folds for term in stage.terms)
    return math.lcm(TABLES.scene(stage.scene).group, *folds)


def check_ranks(recipe: Recipe, ranks: int) -> None:
    """Whether every stage's views can be shared out."""
    for i, stage in enumerate(recipe.stages):
        group = views_together(stage)
        most = -(-stage.views // group)
        if most < ranks:
            what = f"{stage.views} views" if group == 1 else f"{stage.views} views by {group}"
            more = f"at_once={ranks}" if stage.at_once > 1 else f"views={ranks * group}"
            raise RecipeError(
                f"stages.{i} ({stage.name!r}): {what}, which {ranks} processes cannot share: start at most "
                f"{most}, or set {more}"
            )


def check_views(stage: Stage, term: Term, guide: GuidanceCard, rule: RuleCard, where: str) -> None:
    """Whether the views that a term sees are there, as many and in such groups as its guidance and rule take."""
    if guide.views not in ("all", term.views) and not rule.conditions <= guide.anywhere:
        raise RecipeError(
            f"{where}.views: {term.guidance.kind} knows the {guide.views} ones alone; write views: {guide.views}"
        )
    if term.views == "given" and not stage.given.some:
        raise RecipeError(f"{where}.views: none is given; set the stage's given.share, say to 0.25")
    count = seen_by(stage, term)
    if rule.views > 1 and (count is None or count % rule.views):
        shown = "a changing number of" if count is None else count
        raise RecipeError(
            f"{where}: {term.system.kind} takes views by {rule.views}, and sees {shown} here; set `views`"
        )
    if count is not None and count < rule.least:
        raise RecipeError(f"{where}: {term.system.kind} compares at least {rule.least} views, and sees {count} here")
    if rule.clip and stage.cameras.clip != rule.views:
        raise RecipeError(
            f"{where}.system.frames: {rule.views}, and the stage's clips have {stage.cameras.clip} frames: "
            "set cameras.clip and frames to one number"
        )
    together = stage.cameras.together
    if rule.group and together > 1 and rule.group != together:
        raise RecipeError(
            f"{where}.system.group: {rule.group}, and {together} views of this stage belong together; make them equal"
        )
    check_together(stage, term, guide, count, where)


def check_together(stage: Stage, term: Term, guide: GuidanceCard, count: int | None, where: str) -> None:
    """Whether the rows that a guidance looks at as one are one: frames of a clip, or views of one moment."""
    if guide.together == 1:
        return
    name, cameras, group = term.guidance.kind, stage.cameras, guide.together
    if not guide.whole:
        group = min(group, stage.views)
    what = "frames" if guide.clip else "views"
    if count is None or (term.sample and term.sample < stage.views):
        raise RecipeError(f"{where}: {name} looks at {group} {what} together, and would see views drawn one by one")
    if count % group:
        raise RecipeError(f"{where}: {name} looks at {guide.together} {what} together; {count} is no multiple of that")
    if guide.clip and cameras.clip != group:
        raise RecipeError(
            f"{where}: {name} looks at clips of {group} frames, and cameras.clip is {cameras.clip}; set it to {group}"
        )
    if not guide.clip and cameras.clip:
        raise RecipeError(f"{where}: {name} looks at views of one moment, and cameras.clip makes frames of many")
    if not guide.clip and cameras.ring and cameras.ring != group:
        raise RecipeError(f"{where}: {name} looks at {group} views together, and cameras.ring is {cameras.ring}")


def check_stands(stage: Stage, term: Term, guide: GuidanceCard, height: float, where: str) -> None:
    """Whether the cameras stand where a guidance that knows no others wants them; the picture's is at azimuth 0."""
    if not guide.stands:
        return
    cameras, count = stage.cameras, len(guide.stands)
    wanted = [height if guide.level else stand.elevation_deg for stand in guide.stands]
    first = guide.stands[0].azimuth_deg
    if not (
        cameras.ring == count
        and all(abs(each - first) < 1e-2 for each in cameras.azimuth_deg)
        and all(up is None or abs(up - there) < 1e-3 for up, there in zip(wanted, heights(stage), strict=False))
    ):
        up = [f"{each:g}" for each in wanted if each is not None]
        period = next((n for n in range(1, len(up)) if up == (up[:n] * len(up))[: len(up)]), len(up))
        told = f", ring_elevations: [{', '.join(up[:period])}]" if up else ""
        raise RecipeError(
            f"{where}: {term.guidance.kind} knows {count} fixed cameras; set "
            f"cameras: {{ring: {count}, azimuth_deg: [{first:g}, {first:g}]{told}}}"
        )
    for name, (low, high) in (("distance", cameras.distance), ("fovy_deg", cameras.fovy_deg)):
        if low != high:
            said = f"knows an object of one size; set cameras.{name} to one value, say [{low:g}, {low:g}]"
            raise RecipeError(f"{where}: {term.guidance.kind} {said}")
    jitter = {"position": cameras.jitter_position, "target": cameras.jitter_target, "up": cameras.jitter_up}
    for name, much in jitter.items():
        if much > 0:
            raise RecipeError(f"{where}: {term.guidance.kind} knows fixed cameras; set cameras.jitter_{name} to 0")
    if guide.backdrop not in ("", stage.background):
        said = f"paints before {guide.backdrop}; set the stage's background: {guide.backdrop}"
        raise RecipeError(f"{where}: {term.guidance.kind} {said}")
    if stage.given.some and term.views != "others":
        raise RecipeError(f"{where}: {term.guidance.kind} knows its own cameras alone; write views: others")


def heights(stage: Stage) -> list[float]:
    """Elevations of a ring's views; of those that are drawn, none that could be the wanted one."""
    low, high = stage.cameras.elevation_deg
    drawn = stage.cameras.ring_elevations or (low if low == high else math.inf,)
    return [drawn[i % len(drawn)] for i in range(stage.cameras.ring)]
