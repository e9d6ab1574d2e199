# SPDX-License-Identifier: Apache-2.0
"""Several named objects in one scene, of any still kind, each in its own frame and placed by scale, turn about +Y and
position.

They are drawn together, with a mask and a semantic code per object (GALA3D, arXiv:2402.07207; SemanticSDS,
arXiv:2410.09009), or one of them alone in its own frame, where compositional methods optimise it. Clouds of Gaussians
are drawn by one rasterisation, exactly; `merge` puts everything else together by depth and says how exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor

from cuda_ext.splat import splat
from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import SceneCard, SceneKind
from dreamlab.core.rotation import product
from dreamlab.core.schedules import Progress, Schedule, constant
from dreamlab.core.settings import Section, Spec, setting
from dreamlab.core.streams import derive
from dreamlab.core.types import Carve, Frames, Mesh, Offer, ParamGroup, Scene, Splats, Training, Triangles
from renderers.become import become
from renderers.dmtet import DMTet
from renderers.field.merge import Fog, Layer, merge
from renderers.gaussian.density import density_of, level_set
from renderers.gaussian.placed import joined_clouds, placed
from renderers.gaussians import Gaussians
from renderers.hash_field import HashField
from renderers.mesh import TexturedMesh
from renderers.surface.extraction import extract, joined, surface
from renderers.surface.views import Kept

KINDS = (Gaussians, HashField, DMTet, TexturedMesh)
MEMBERS: Mapping[str, SceneKind] = {"gaussians": Gaussians, "field": HashField, "dmtet": DMTet, "mesh": TexturedMesh}
CLOUD = ("means", "log_scales", "quats", "logit_opacity", "logit_color")


@dataclass(frozen=True)
class Placed:
    """One object: what it is, and where it stands. Its point p stands at scale * turn p + position."""

    scene: Annotated[Spec, Section("scenes")]
    position: tuple[float, float, float] = setting((0.0, 0.0, 0.0), help="in the world, metres")
    turn_deg: float = setting(0.0, low=-360, high=360, help="about +Y, counter-clockwise seen from above")
    scale: float = setting(1.0, above=0, high=10)
    box: tuple[float, float, float] = setting((0.8, 0.8, 0.80001), above=0, help="half sides, in its own frame")
    code: tuple[float, float, float] = setting((1.0, 1.0, 1.00001), help="semantic code, rendered like a colour")
    prompt: str = setting(
        "", tacit=True, help="its own words: it is made alone, in turn with the others that have some"
    )
    like: str = setting("", tacit=True, help="the object that this one is, in another place: both are made at once")

    def turn(self, like: Tensor) -> Tensor:
        """[3, 3] from the object's frame to the world's."""
        c, s = math.cos(math.radians(self.turn_deg)), math.sin(math.radians(self.turn_deg))
        return like.new_tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])

    def quat(self, like: Tensor) -> Tensor:
        """The same, [4] wxyz."""
        half = math.radians(self.turn_deg) / 2
        return like.new_tensor([math.cos(half), 0.0, math.sin(half), 0.0])

    def seen_by(self, cameras: Cameras) -> Cameras:
        """The cameras in the object's frame: its pictures there are those of the object placed in the world."""
        pose, turn = cameras.camera_to_world, self.turn(cameras.camera_to_world)
        eye = (pose[:, :3, 3] - pose.new_tensor(self.position)) @ turn / self.scale
        upper = torch.cat([turn.T @ pose[:, :3, :3], eye[..., None]], -1)
        return replace(cameras, camera_to_world=torch.cat([upper, pose[:, 3:]], 1))


def _one_cloud() -> dict[str, Placed]:
    return {"object": Placed(Spec("gaussians", Gaussians.Settings(count=1024)))}


class Several:
    """Objects by name; masks and codes come with the frames."""

    kind: ClassVar[str] = "several"
    paper: ClassVar[str] = "Zhou et al. 2024, arXiv:2402.07207; Yang et al. 2024, arXiv:2410.09009"
    penalties: ClassVar[tuple[str, ...]] = ("box", *dict.fromkeys(p for kind in KINDS for p in kind.penalties))

    @dataclass(frozen=True)
    class Settings:
        objects: Mapping[str, Placed] = field(default_factory=_one_cloud)
        alone: Schedule = setting(constant(0.0), low=0, high=1, help="how often a step shows one object by itself")

    @classmethod
    def card(cls, settings: Settings) -> SceneCard:
        """Of its objects: what any of them can be penalised for, and every file and stage that one starts from."""
        at = {name: placed.scene for name, placed in settings.objects.items()}
        complaint = "" if at else "objects: name at least one"
        for name, spec in at.items():
            complaint = complaint or (f"objects.{name}: {wrong}" if (wrong := _unfit(name, spec)) else "")
        clouds = [spec.settings for spec in at.values() if spec.kind == "gaussians"]
        if not complaint and len({(one.dilation, one.compensate, one.backend) for one in clouds}) > 1:
            complaint = "objects: all Gaussians need the same dilation, compensate and backend"
        complaint = complaint or _unlike(settings.objects)
        if not complaint and len({at.prompt != "" for at in settings.objects.values() if not at.like}) > 1:
            complaint = "objects: all of them have a prompt of their own, or none"
        if complaint:
            return SceneCard(complaint=complaint)
        cards = {name: MEMBERS[spec.kind].card(spec.settings) for name, spec in at.items()}
        able = {penalty for one in cards.values() for penalty in one.penalties if penalty not in one.lacking}
        return SceneCard(
            cls.penalties,
            {name: "an object that has it" for name in cls.penalties if name not in able | {"box"}},
            normals=all(one.normals for one in cards.values()),
            starts=tuple((spec.source, spec.kind) for spec in at.values() if spec.source is not None),
            group=math.lcm(*(one.group for one in cards.values())),
            told=tuple(at.prompt for at in settings.objects.values() if at.prompt),
            backing=tuple(replace(b, where=f"objects.{name}.") for name, one in cards.items() for b in one.backing),
            complaint=next((f"objects.{name}.{one.complaint}" for name, one in cards.items() if one.complaint), ""),
        )

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        self.settings = settings
        self.names = tuple(settings.objects)
        self.members: dict[str, Any] = {
            name: MEMBERS[placed.scene.kind](placed.scene.settings, generator)
            for name, placed in settings.objects.items()
            if not placed.like
        }
        self.own = tuple(self.members)
        self._share()
        self.clouds = tuple(name for name, member in self.members.items() if member.kind == "gaussians")

    def _share(self) -> None:
        """What is like another is that one."""
        self.members = {name: self.members[at.like or name] for name, at in self.settings.objects.items()}

    @property
    def told(self) -> tuple[tuple[str, Scene, str], ...]:
        """Objects with words of their own: name, scene in its own frame, words."""
        return tuple((name, self.members[name], at.prompt) for name, at in self.settings.objects.items() if at.prompt)

    @property
    def taking(self) -> dict[str, str]:
        """The stages that objects start from, by object."""
        objects = self.settings.objects
        return {name: at.scene.source for name in self.own if (at := objects[name]).scene.source is not None}

    def take(self, name: str, source: Scene, stream: torch.Generator, carve: Carve | None = None) -> Kept | None:
        """Object `name` takes over from a scene, or from the object of that name in it, in its own frame."""
        if isinstance(source, Several):
            source = source.members.get(name, source)
        self.members[name], kept = become(source, self.members[name], stream, carve)
        self._share()
        return kept

    def to(self, device: torch.device | str) -> Self:
        self.members |= {name: self.members[name].to(device) for name in self.own}
        self._share()
        return self

    def groups(self) -> Mapping[str, ParamGroup]:
        """Every row learns in every step: what no view sees of a cloud is not told apart here."""
        return {
            f"{name}.{key}": replace(group, rowwise=False)
            for name in self.own
            for key, group in self.members[name].groups().items()
        }

    def cloud(self, name: str) -> dict[str, Tensor]:
        """The Gaussians of one object before their activations, placed in the world."""
        mine, at = self.members[name].params, self.settings.objects[name]
        turn = at.quat(mine["quats"])
        return {
            "means": at.scale * mine["means"] @ at.turn(mine["means"]).T + mine["means"].new_tensor(at.position),
            "log_scales": mine["log_scales"] + math.log(at.scale),
            "quats": product(turn.expand_as(mine["quats"]), mine["quats"]),
            "logit_opacity": mine["logit_opacity"],
            "logit_color": mine["logit_color"],
        }

    def _all_clouds(self) -> dict[str, Tensor]:
        parts = [self.cloud(name) for name in self.clouds]
        return {key: torch.cat([part[key] for part in parts]) for key in CLOUD}

    # ---- pictures ---------------------------------------------------------------------------------------------------
    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        """All objects; in training sometimes one alone. `extra`: masks [B, H, W, objects], codes [B, H, W, 3], and
        `present` [objects], which of them are shown."""
        if training is not None:
            # From the step, not from the stream, which may live on a device: nobody waits for it.
            coin = torch.Generator().manual_seed(
                derive(training.stream.initial_seed(), "alone", training.progress.step)
            )
            if float(torch.rand((), generator=coin)) < self.settings.alone.at(training.progress):
                one = self.names[int(torch.randint(len(self.names), (), generator=coin))]
                return self.render_alone(one, cameras, size, background, training)
        elif not torch.is_grad_enabled() and len(cameras) > 1:
            views = range(len(cameras))
            parts = [self.render(cameras[i : i + 1], size, background[i : i + 1]) for i in views]
            whole = Frames.cat(parts, ("masks", "codes"))
            return replace(whole, extra={**whole.extra, "present": parts[0].extra["present"]})
        return self._together(cameras, size, background, training)

    def render_alone(
        self, name: str, cameras: Cameras, size: int, background: Tensor, training: Training | None = None
    ) -> Frames:
        """One object, in its own frame."""
        shown, _ = self._member(name, cameras, size, background, training)
        row, code = self._labels(name, shown.rgb).split([len(self.names), 3])
        extra = {f"{name}.{key}": value for key, value in shown.extra.items()}
        extra |= {"masks": shown.alpha * row, "codes": shown.alpha * code, "present": row > 0}
        return Frames(shown.rgb, shown.alpha, shown.depth, background, shown.normal, None, extra)

    def _together(self, cameras: Cameras, size: int, background: Tensor, training: Training | None) -> Frames:
        black = torch.zeros_like(background)
        extra: dict[str, Tensor] = {}
        layers: list[Layer] = [self._clouds(cameras, size)] if self.clouds else []
        volumes: list[Fog] = []
        bent = True  # whether all objects have normals
        for name in (name for name in self.names if name not in self.clouds):
            at = self.settings.objects[name]
            shown, seen = self._member(name, at.seen_by(cameras), size, black, training)
            extra |= {f"{name}.{key}": value for key, value in shown.extra.items()}
            label = self._labels(name, shown.rgb)
            bent = bent and shown.normal is not None
            if seen is None:
                normal = torch.zeros_like(shown.rgb) if shown.normal is None else shown.normal @ at.turn(shown.rgb).T
                values = torch.cat([shown.rgb, normal, shown.alpha * label], -1)
                layers.append(Layer(values, shown.alpha, at.scale * shown.depth))
            else:
                samples, normal = seen.found.samples, seen.shot.normal
                normal = torch.zeros_like(seen.colour) if normal is None else normal @ at.turn(normal).T
                values = torch.cat([seen.colour, normal, label.expand(len(seen.colour), -1)], 1)
                ends = replace(samples, t_start=at.scale * samples.t_start, t_end=at.scale * samples.t_end)
                volumes.append(Fog(ends, seen.sigma / at.scale, values))
        only = layers[0] if len(layers) == 1 and not volumes else merge(layers, volumes, cameras, size)
        rgb, turned, masks, codes = only.values.split([3, 3, len(self.names), 3], -1)
        extra |= {"masks": masks, "codes": codes, "present": torch.ones(len(self.names), device=rgb.device) > 0}
        rgb = rgb + (1 - only.alpha) * background[:, None, None]
        return Frames(rgb, only.alpha, only.depth, background, turned if bent else None, None, extra)

    def _member(
        self, name: str, cameras: Cameras, size: int, background: Tensor, training: Training | None
    ) -> tuple[Frames, Any]:
        """One object from cameras in its own frame; of a field also what `see` found, which `merge` takes apart."""
        member, box = self.members[name], self.settings.objects[name].box
        if not isinstance(member, HashField):
            return member.render(cameras, size, background, training), None
        seen = member.see(cameras, size, training)
        shown = member.show(seen, cameras, size, background, training)
        beyond = _beyond(seen.found.points, box)
        outside = (shown.extra["weights"] * beyond).sum() / max(shown.alpha.numel(), 1)
        return replace(shown, extra={**shown.extra, "outside": outside}), seen

    def _clouds(self, cameras: Cameras, size: int) -> Layer:
        """All Gaussians by one rasterisation."""
        p = self._all_clouds()
        counts = [len(self.members[name].params["means"]) for name in self.clouds]
        pairs = zip(self.clouds, counts, strict=True)
        labels = [self._labels(name, p["means"]).expand(count, -1) for name, count in pairs]
        settings = self.members[self.clouds[0]].settings
        drawn = splat(
            p["means"],
            p["quats"],
            p["log_scales"].exp(),
            p["logit_opacity"].sigmoid(),
            p["logit_color"].sigmoid(),
            cameras.camera_to_world,
            cameras.focal_px(size),
            (size, size),
            background=p["means"].new_zeros(len(cameras), 3),
            extra=torch.cat(labels),
            dilation=settings.dilation,
            compensate=settings.compensate,
            backend=settings.backend,
        )
        assert drawn.extra is not None
        return Layer(torch.cat([drawn.rgb, drawn.normal, drawn.extra], -1), drawn.alpha, drawn.depth)

    def _labels(self, name: str, like: Tensor) -> Tensor:
        """[objects + 3]: one in the object's place, and its code."""
        row = [float(each == name) for each in self.names]
        return like.new_tensor([*row, *self.settings.objects[name].code])

    # ---- between steps ----------------------------------------------------------------------------------------------
    def penalty(self, name: str, frames: Frames) -> Tensor:
        """`box`: how far objects reach out of theirs, squared, mean over all. Others: the mean over the objects shown
        whose kind has it, each by itself."""
        if name == "box":
            total = [self._out_of_box(each, frames) for each in self.names]
            return torch.stack(total).mean()
        able = [each for each in self.own if name in self.members[each].penalties]
        own = {each: _of(each, frames) for each in able}
        # A cloud reads its own parameters; anything else must have been drawn.
        shown = [each for each in able if own[each].extra or each in self.clouds]
        parts = [self.members[each].penalty(name, own[each]) for each in shown]
        return torch.stack(parts).mean() if parts else frames.rgb.new_zeros(())

    def _out_of_box(self, name: str, frames: Frames) -> Tensor:
        """Mean over Gaussians, over a surface's vertices, or over a field's pixels by what is seen out there."""
        box = self.settings.objects[name].box
        if name in self.clouds:
            return _beyond(self.members[name].params["means"], box).mean()
        if f"{name}.vertices" in frames.extra:
            return _beyond(frames.extra[f"{name}.vertices"], box).mean()
        return frames.mean(frames.extra.get(f"{name}.outside", frames.rgb.new_zeros(())))

    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor) -> None:
        """Counts are fixed; fields refresh what they skip."""
        for name in self.own:
            self.members[name].adapt(progress, _of(name, frames), healthy)

    def state_dict(self) -> dict[str, Tensor]:
        pairs = ((name, self.members[name].state_dict()) for name in self.own)
        return {f"{name}.{key}": value for name, state in pairs for key, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name in self.own:
            mine = f"{name}."
            self.members[name].load_state_dict(
                {key.removeprefix(mine): v for key, v in state.items() if key.startswith(mine)}
            )

    def splats(self, time: float = 0.0) -> Splats | None:
        """All clouds in the world, where they stand still."""
        if len(self.clouds) < len(self.names):
            return None
        parts = []
        for name in self.clouds:
            own, at = self.members[name].splats(), self.settings.objects[name]
            parts.append(placed(own, at.scale, at.quat(own.quats), own.means.new_tensor(at.position)))
        return joined_clouds(parts)

    def offer(self, resolution: int) -> Offer:
        """All objects in the world: clouds as one surface, the others as they are, coloured at their vertices. None
        floats, however small beside another."""
        surfaces = []
        if self.clouds:
            p = {key: value.detach() for key, value in self._all_clouds().items()}
            shapes = (p["means"], p["quats"], p["log_scales"].exp(), p["logit_opacity"].sigmoid())
            surfaces.append(surface(level_set(density_of(*shapes, p["logit_color"].sigmoid(), resolution))))
        for name in (name for name in self.names if name not in self.clouds):
            found, at = extract(self.members[name], resolution), self.settings.objects[name]
            turn = at.turn(found.vertices).T
            moved = at.scale * found.vertices @ turn + found.vertices.new_tensor(at.position)
            surfaces.append(Mesh(moved, found.faces, found.colours, found.normals @ turn))
        return Triangles(joined(surfaces), whole=True)


def _unfit(name: str, spec: Spec) -> str | None:
    """Why something cannot be an object of a scene."""
    if "." in name:
        return "a name has no dot"
    if spec.kind not in MEMBERS:
        return f"{spec.kind} cannot be an object; {', '.join(MEMBERS)} can"
    s = spec.settings
    refused = {
        "gaussians": lambda: [("sh_degree", s.sh_degree > 0), ("densify", s.densify.kind != "none")],
        "field": lambda: [("latent", s.latent), ("background", s.background.kind != "plain")],
        "dmtet": lambda: [("shows", s.shows != "color")],
        "mesh": lambda: [],
    }[spec.kind]()
    wrong = [key for key, asked in refused if asked]
    return f"scene.{wrong[0]}: an object of a scene cannot have it" if wrong else None


def _unlike(objects: Mapping[str, Placed]) -> str:
    """What is wrong with an object that should be another one; "" when nothing is."""
    for name, at in objects.items():
        first = objects.get(at.like, at)
        if at.like and (first is at or first.like or first.scene != at.scene or at.prompt):
            return f"objects.{name}: like names another object with the same scene, whose prompt is for both"
    return ""


def _of(name: str, frames: Frames) -> Frames:
    """What the frames say of one object."""
    mine = f"{name}."
    own = {key.removeprefix(mine): value for key, value in frames.extra.items() if key.startswith(mine)}
    return replace(frames, extra=own)


def _beyond(points: Tensor, box: tuple[float, float, float]) -> Tensor:
    """[N] squared distance of points [N, 3] from a box."""
    return (points.abs() - points.new_tensor(box)).clamp(min=0).square().sum(-1)
