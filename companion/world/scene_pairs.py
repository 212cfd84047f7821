"""Pairs of scenes that differ in one field: edits with a known true answer, and drags with handle and target points."""

import random
from dataclasses import dataclass

from .scene import Scene, caption, is_held_out, sample_scene
from .vocabulary import CLASSES, COLOURS, EXTRAS, GROUNDS_OF, RECOLOURABLE, SETTINGS, STYLES

EDITS = ("replace", "add", "recolour", "ground", "setting", "style")
PAIRS_PER_EDIT = 66  # a few more than the 60 promised: pairs whose edited object is hidden are dropped
DRAGS = 130
SEE_THROUGH = ("plant", "vase of flowers", "christmas tree")  # leaves are cut out of flat cards: a card's vertex may show what is behind it
FIRST_SEED = {"edits": 4_000_000, "drags": 5_000_000}


@dataclass(frozen=True)
class Pair:
    """Two scenes with the same seed, camera and light; `edit` names the one field that differs."""

    id: str
    edit: str
    source: Scene
    target: Scene

    def to_dict(self) -> dict:
        """The record as JSON-ready values, with both captions."""
        return {
            "id": self.id,
            "edit": self.edit,
            "source": self.source.to_dict(),
            "target": self.target.to_dict(),
            "source_caption": caption(self.source),
            "target_caption": caption(self.target),
        }


def _own_random(seed: int, purpose: str) -> random.Random:
    """A stream of its own: the scene's stream, replayed, would make the edit a function of the class."""
    return random.Random(f"{seed} {purpose}")


def _other(rng: random.Random, values, current):
    return rng.choice([v for v in values if v != current])


def _edited(scene: Scene, edit: str, rng: random.Random) -> Scene:
    """Change one field of `scene`; the target's (class, ground) pair is one that training saw."""
    if edit == "replace":
        classes = [c for c in CLASSES if c not in (scene.cls, scene.extra) and not is_held_out(c, scene.ground)]
        cls = rng.choice(classes)
        colour = (scene.colour or rng.choice(tuple(COLOURS))) if cls in RECOLOURABLE else None
        return scene.replace(cls=cls, model=rng.randrange(len(CLASSES[cls])), colour=colour)
    if edit == "add":
        return scene.replace(extra=_other(rng, EXTRAS, scene.cls))
    if edit == "recolour":
        return scene.replace(colour=_other(rng, COLOURS, scene.colour))
    if edit == "ground":
        grounds = [g for g in GROUNDS_OF[scene.setting] if not is_held_out(scene.cls, g)]
        return scene.replace(ground=_other(rng, grounds, scene.ground))
    if edit == "setting":
        return scene.replace(setting=rng.choice([s for s in SETTINGS if s != scene.setting and scene.ground in GROUNDS_OF[s]]))
    return scene.replace(style=_other(rng, STYLES, "photo"))


def _suits(scene: Scene, edit: str) -> bool:
    """Whether the edit makes sense on the scene."""
    if scene.style != "photo":
        return False
    if edit == "add":
        return scene.extra is None
    if edit == "recolour":
        return scene.cls in RECOLOURABLE
    if edit == "ground":
        return sum(not is_held_out(scene.cls, g) for g in GROUNDS_OF[scene.setting]) > 1
    if edit == "setting":
        return any(s != scene.setting and scene.ground in GROUNDS_OF[s] for s in SETTINGS)
    return True


def edit_pairs() -> list[Pair]:
    """The edit pairs, `PAIRS_PER_EDIT` of each kind, from the seeds of their own range."""
    pairs, seed = [], FIRST_SEED["edits"]
    for edit in EDITS:
        count = 0
        while count < PAIRS_PER_EDIT:
            seed += 1
            scene = sample_scene(seed)
            if _suits(scene, edit):
                pairs.append(Pair(f"{edit}-{count:03d}", edit, scene, _edited(scene, edit, _own_random(seed, edit))))
                count += 1
    return pairs


def drag_pairs() -> list[Pair]:
    """Drag pairs: the main object turned by 0.25 to 0.6 rad or moved by 0.15 to 0.35 m; photo scenes without a second object."""
    pairs, seed = [], FIRST_SEED["drags"]
    while len(pairs) < DRAGS:
        seed += 1
        scene, rng = sample_scene(seed), _own_random(seed, "drag")
        if scene.style != "photo" or scene.extra or scene.cls in SEE_THROUGH:
            continue
        turn = rng.random() < 0.5
        amount = rng.choice((-1, 1)) * (rng.uniform(0.25, 0.6) if turn else rng.uniform(0.15, 0.35))
        if turn:
            target = scene.replace(yaw=round(scene.yaw + amount, 4))
        elif abs(scene.x + amount) > 0.4:
            continue
        else:
            target = scene.replace(x=round(scene.x + amount, 4))
        pairs.append(Pair(f"drag-{len(pairs):03d}", "turn" if turn else "move", scene, target))
    return pairs
