# SPDX-License-Identifier: Apache-2.0
"""How an exported surface moves: as bones with a skin where they reproduce the scene's motion, else point by point.

The keys are those moments between which the motion is straight enough. A skin is taken when no point of it is farther
than OFF from where the scene has it and no edge of it is torn; points between two keys go straight, so no edge is ever
longer there than the scene has it at one of them. What a scene cannot follow (a field whose density changes) is
registered: bones move the surface of time 0 onto the surfaces of later times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreamlab.core.bounded import GIB, Unbounded, bounded
from dreamlab.core.files import Json
from dreamlab.core.rotation import in_line
from dreamlab.core.types import Changing, Mesh, Moving, Scene, Skin, Track
from dreamlab.export.registration import registered
from dreamlab.export.rig import track_of
from dreamlab.export.skinning import edges_of, fit_skin, spread, welded
from renderers.surface.views import device_of

KEYS = 48  # after the first: more morph targets are not taken by some programs
FINE = 49  # moments at which the scene is asked where it bends
STRAIGHT = 0.002  # of the diagonal, how far a point may be from the line between keys
OFF, USUALLY = 0.02, 0.004  # of the diagonal, how far a skin may be from the scene anywhere, and on the whole
STILL = 1e-4  # of the diagonal: less is no motion
BONES = (64, 192)  # tried one after another, where the scene names none
MOST_BONES, HELD = 256, 12  # and the fewest points that one is worth
ASKED = 2000  # points that choose keys
TORN = 3.0  # times its length at time 0
SHORT = 2e-4  # of the diagonal: added to lengths, for edges of no length
SECONDS, MEMORY = 900.0, 8 * GIB  # of all this
NO_MOTION = ("obj", "ply", "stl", "maps", "splat-glb", "splat-ply", "splat", "spz")  # formats of one moment
Follow = Callable[[Tensor, Tensor], Tensor]


def motion_of(scene: Scene, mesh: Mesh) -> tuple[Skin | Track | None, Json]:
    """The motion of the mesh's vertices, which stand as the scene does at time 0, and what it keeps of the scene's."""
    if isinstance(scene, Moving):
        return _followed(scene.follow, scene.joints(), scene.loops, mesh)
    if isinstance(scene, Changing):
        skin, facts = registered(scene, mesh)
        return skin, facts | ({} if skin is None else _torn(mesh, track_of(skin, mesh.vertices).points, None))
    return None, {}


def motion_within_bounds(scene: Scene, mesh: Mesh) -> tuple[Skin | Track | None, Json]:
    """The same from a bounded child, which no GPU can follow into. What goes wrong there costs the motion alone, and
    the account says so."""
    if not isinstance(scene, (Moving, Changing)) or device_of(scene).type != "cpu":
        return motion_of(scene, mesh)

    def work() -> tuple[dict[str, Tensor], Json]:
        motion, facts = motion_of(scene, mesh)
        return {} if motion is None else {key.name: getattr(motion, key.name) for key in fields(motion)}, facts

    try:
        done = bounded(work, "motion", SECONDS, MEMORY)
    except Unbounded as error:
        return None, {"way": "lost", "why": str(error)}
    kind = Skin if "weight" in done.tensors else Track
    return (kind(**done.tensors) if done.tensors else None), done.facts


def _followed(follow: Follow, joints: Tensor | None, loops: bool, mesh: Mesh) -> tuple[Skin | Track | None, Json]:
    points, size = mesh.vertices, diagonal(mesh.vertices)
    times = _keys(follow, points, loops, size)
    if times is None:
        return None, {"way": "still", "loops": loops}
    track = follow(points, times)
    track[0] = points
    if loops:
        track[-1] = points
    said: Json = {"keys": len(times), "loops": loops}
    for bones in _bones(joints, points):
        skin = fit_skin(points, mesh.faces, times, track, bones)
        if loops:
            skin = closed(skin)
        facts = _facts(mesh, track_of(skin, points).points, track, size)
        if facts["error_most"] <= OFF * size and facts["error"] <= USUALLY * size and facts["torn"] == 0:
            said |= {"way": "skin", "bones": len(bones)} | facts
            return skin, said | _between(follow, mesh, times, skin)
    found, said = Track(times, track), said | {"way": "morph targets"} | _facts(mesh, track, track, size)
    return found, said | _between(follow, mesh, times, found)


def notes(facts: Json, formats: Iterable[str]) -> list[str]:
    """What of a motion the files do not hold, a line each."""
    if facts.get("way", "still") == "still":
        return []
    if facts["way"] == "lost":
        return [f"the motion is not in the files: {facts['why']}; export again, or with fewer faces"]
    without = [kind for kind in formats if kind in NO_MOTION]
    lines = [f"{', '.join(without)}: as it is at time 0, without its motion"] if without else []
    if facts.get("fraction", 0.0) > OFF:
        lines.append(f"motion: up to {100 * facts['fraction']:.1f} % of the diagonal off the scene's later surfaces")
    if facts.get("empty_at"):
        when = ", ".join(f"{time:.2f}" for time in facts["empty_at"])
        lines.append(f"motion: the scene is empty at {when}; the surface waits there")
    return lines


def closed(skin: Skin) -> Skin:
    """Its last pose is its first."""
    shift, turn = skin.shift.clone(), skin.turn.clone()
    shift[-1], turn[-1] = shift[0], turn[0]
    return replace(skin, shift=shift, turn=turn)


def diagonal(points: Tensor) -> float:
    return max(float((points.amax(0) - points.amin(0)).norm()), 1e-9)


def _keys(follow: Follow, points: Tensor, loops: bool, size: float) -> Tensor | None:
    """Moments [T] between which points go straight, the first 0 and the last 1; none for what stands still."""
    some = points[:: -(-len(points) // ASKED)]
    fine = torch.linspace(0, 1, FINE)
    seen = follow(some, fine)
    seen[0] = some
    if loops:
        seen[-1] = some
    if float((seen - some).norm(dim=-1).max()) < STILL * size:
        return None
    chosen = [0, FINE // 2, FINE - 1]
    while len(chosen) <= KEYS:
        off = (straight(fine, Track(fine[chosen], seen[chosen])) - seen).norm(dim=-1).amax(1)
        if float(off.max()) < STRAIGHT * size:
            break
        chosen = sorted({*chosen, int(off.argmax())})
    return fine[chosen]


def straight(times: Tensor, track: Track) -> Tensor:
    """[S, V, 3] of a track at any times [S]."""
    last = torch.searchsorted(track.times, times.contiguous(), right=True).clamp(1, len(track.times) - 1)
    begin, end = track.times[last - 1], track.times[last]
    share = ((times - begin) / (end - begin))[:, None, None]
    return torch.lerp(track.points[last - 1], track.points[last], share)


def skin_at(skin: Skin, times: Tensor) -> Skin:
    """A skin whose poses are those between its own; quaternions are near one another, so their chord will do."""
    shift = straight(times, Track(skin.times, skin.shift))
    turn = normalize(straight(times, Track(skin.times, in_line(skin.turn))), dim=-1)
    return replace(skin, times=times, shift=shift, turn=turn)


def _bones(joints: Tensor | None, points: Tensor) -> list[Tensor]:
    counts = [count for count in BONES if count * HELD <= len(points)] or [max(1, len(points) // HELD)]
    if joints is not None and 2 <= len(joints) <= MOST_BONES:
        return [joints, spread(points, counts[-1])]
    return [spread(points, count) for count in counts]


def _facts(mesh: Mesh, made: Tensor, scene: Tensor, size: float) -> Json:
    """What a motion keeps of the scene's, at its keys."""
    away = (made - scene).norm(dim=-1)
    return {
        "error": float(away.square().mean().sqrt()),
        "error_most": float(away.max()),
        "fraction": float(away.max()) / size,
    } | _torn(mesh, made, scene)


def _torn(mesh: Mesh, made: Tensor, scene: Tensor | None) -> Json:
    """How far edges are stretched in the file and in the scene, and how many are torn in the file alone."""
    file = stretches(mesh, made)
    if scene is None:
        return {"stretch": float(file.max())}
    own = stretches(mesh, scene)
    torn = int(((file > TORN) & (own <= TORN)).sum())
    return {"stretch": float(file.max()), "scene_stretch": float(own.max()), "torn": torn}


def stretches(mesh: Mesh, track: Tensor) -> Tensor:
    """[E] the most that each edge is longer at any time [T, V, 3] than where the mesh stands."""
    places, row, corners = welded(mesh.vertices, mesh.faces)
    first = torch.zeros(len(places), dtype=torch.long)
    first[row] = torch.arange(len(row))
    a, b = first[edges_of(corners)].T
    short = SHORT * diagonal(mesh.vertices)
    still = (mesh.vertices[a] - mesh.vertices[b]).norm(dim=-1) + short
    most = torch.zeros(len(a))
    for moment in track:
        most = torch.maximum(most, ((moment[a] - moment[b]).norm(dim=-1) + short) / still)
    return most


def _between(follow: Follow, mesh: Mesh, times: Tensor, motion: Skin | Track) -> Json:
    """How far some points are from the scene in the middle between two keys."""
    rows = torch.arange(0, len(mesh.vertices), -(-len(mesh.vertices) // ASKED))
    middle = (times[1:] + times[:-1]) / 2
    scene = follow(mesh.vertices[rows], middle)
    if isinstance(motion, Skin):
        part = replace(motion, index=motion.index[rows], weight=motion.weight[rows])
        # Points stand as the first pose has them, which must stay that of the file.
        made = track_of(skin_at(part, torch.cat([times[:1], middle])), mesh.vertices[rows]).points[1:]
    else:
        made = straight(middle, Track(motion.times, motion.points[:, rows]))
    away = float((made - scene).norm(dim=-1).max())
    return {"error_between_keys": away}
