# SPDX-License-Identifier: Apache-2.0
"""What cannot work together is said when the recipe is read, not at step 1."""

from __future__ import annotations

from dreamlab.core.errors import RecipeError
from dreamlab.core.types import Maker, Prompt
from dreamlab.recipe.grammar import Recipe, Stage, Term, takeovers
from dreamlab.recipe.tables import GUIDANCE, PICTURED, SCENES, SYSTEMS
from dreamlab.toybox.understand import understand
from renderers.become import can_become
from systems.engine.residual import Stateless


def check(recipe: Recipe) -> None:
    """What cannot work together is said when the recipe is read, not at step 1."""
    kinds = {stage.name: stage.scene.kind for stage in recipe.stages}
    for i, stage in enumerate(recipe.stages):
        where = f"stages.{i} ({stage.name!r})"
        if stage.scene.source is not None and len(takeovers(stage.scene)) > 1:
            raise RecipeError(f"{where}: the scene starts from {stage.scene.source!r}, so none of its objects can")
        for source, kind in takeovers(stage.scene):
            if not can_become(kinds[source], kind):
                raise RecipeError(f"{where}: a {kinds[source]} scene cannot become {kind}")
        check_prompts(recipe, stage, where)
        for j, term in enumerate(stage.terms):
            check_term(term, f"{where}: terms.{j}")
            check_views(stage, term, f"{where}: terms.{j}")
            listen = getattr(GUIDANCE[term.guidance.kind], "listen", None)
            for prompt in prompts_of(recipe):
                if term.guidance.kind in ("oracle", "truth"):
                    understand(prompt.text)
                    if style := getattr(term.guidance.settings, "style", ""):
                        understand(style, "style")
                if listen is not None:
                    listen(term.guidance.settings, prompt)


def prompts_of(recipe: Recipe) -> tuple[Prompt, ...]:
    """The prompts of a run in the order of their turns."""
    return tuple(Prompt(text, recipe.negative) for text in (recipe.prompt, *recipe.prompts))


def check_prompts(recipe: Recipe, stage: Stage, where: str) -> None:
    """Whether a stage can serve several prompts, if the recipe has several."""
    makers = sorted(kind for kind, scene in SCENES.items() if issubclass(scene, Maker))
    if stage.scene.kind in makers and stage.particles > 1:
        raise RecipeError(f"{where}.particles: {stage.scene.kind} is one generator; it has no particles")
    if recipe.prompts and stage.scene.kind not in makers:
        raise RecipeError(
            f"{where}.scene: {stage.scene.kind} is of one prompt and the recipe lists prompts; use {', '.join(makers)}"
        )
    if recipe.prompts and looks(recipe):
        raise RecipeError(f"{where}: a term follows the picture of one prompt and the recipe lists prompts")
    for j, term in enumerate(stage.terms if recipe.prompts else ()):
        if not issubclass(SYSTEMS[term.system.kind], Stateless):
            raise RecipeError(
                f"{where}.terms.{j}: {term.system.kind} remembers the renders of one prompt and the recipe lists "
                "prompts; use a rule that keeps no state, as asd and sds"
            )
        if term.prompting.adaptive > 0:
            raise RecipeError(f"{where}.terms.{j}.prompting.adaptive: learns from one prompt, the recipe lists prompts")


def looks(recipe: Recipe) -> bool:
    """Whether some term follows a given picture."""
    kinds = {term.guidance.kind for stage in recipe.stages for term in stage.terms}
    return bool(kinds & PICTURED)


def check_term(term: Term, where: str) -> None:
    """Whether a guidance has what a rule and its prompting ask for."""
    rule, guidance = SYSTEMS[term.system.kind], GUIDANCE[term.guidance.kind]
    offers = getattr(guidance, "offers", None)
    makes = guidance.variants if offers is None else offers(term.guidance.settings)
    asks = getattr(rule, "asks", None)
    needs = rule.needs | {getattr(term.system.settings, "against", None)} - {None} | term.prompting.needs()
    if missing := (needs if asks is None else needs | asks(term.system.settings)) - makes:
        raise RecipeError(
            f"{where}: {term.system.kind} needs the condition {', '.join(sorted(missing))}, "
            f"which {term.guidance.kind} does not make (it makes {', '.join(sorted(makes))})"
        )
    check_settings = getattr(rule, "check", None)
    if check_settings is not None and (complaint := check_settings(term.system.settings)):
        raise RecipeError(f"{where}.system: {complaint}")
    if term.prompting.adaptive > 0 and not getattr(rule, "guided", False):
        raise RecipeError(f"{where}.prompting.adaptive: the unconditional call is the gradient of {term.system.kind}")
    rescaled = getattr(rule, "rescaled", None)
    if term.prompting.rescale > 0 and not (rescaled and rescaled(term.system.settings)):
        raise RecipeError(f"{where}.prompting.rescale: {term.system.kind} has no guidance that it could pull back")
    if term.see != "rgb" and getattr(rule, "colours", False):
        raise RecipeError(f"{where}.see: {term.system.kind} compares colours, so its guidance must be shown rgb")


def check_views(stage: Stage, term: Term, where: str) -> None:
    """Whether the views that a term sees are there, and are such as its guidance can speak of."""
    only = getattr(GUIDANCE[term.guidance.kind], "sees", term.views)
    if only != term.views:
        raise RecipeError(f"{where}.views: {term.guidance.kind} knows the {only} ones alone; write views: {only}")
    if term.views == "given" and max(stage.given.share.values) == 0:
        raise RecipeError(f"{where}.views: none is given; set the stage's given.share, say to 0.25")
