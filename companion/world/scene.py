"""The scene record: everything that determines an image, and the caption that describes it."""

import dataclasses
import hashlib
import math
import random
from dataclasses import dataclass

from .vocabulary import CLASSES, COLOURS, EXTRAS, GROUNDS, GROUNDS_OF, RECOLOURABLE, SETTINGS, STYLES

YAW_LIMIT = math.radians(81)
EXTRA_SHARE, STYLED_SHARE = 0.3, 0.16


def _choice(name: str, value, allowed) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value!r}")


@dataclass(frozen=True)
class Scene:
    """One scene. Angles: yaw and extra_yaw in radians, elevation and light_rotation in degrees; positions in metres.

    Raises:
        ValueError: a field is outside the vocabulary or its range.
    """

    seed: int  # drives the renderer's sampling only
    cls: str  # class word of the main object
    model: int  # which of the class's models
    colour: str | None  # paint, for recolourable classes only
    yaw: float  # turn of the main object about the vertical
    x: float  # position, right of the centre
    z: float  # position, towards the camera
    scale: float
    elevation: float  # camera above the horizon
    setting: str
    ground: str
    light_rotation: float
    extra: str | None = None  # second object
    extra_side: int = 1  # -1 left, 1 right of the main object
    extra_yaw: float = 0.0
    style: str = "photo"

    def __post_init__(self):
        _choice("cls", self.cls, CLASSES)
        _choice("model", self.model, range(len(CLASSES[self.cls])))
        _choice("setting", self.setting, SETTINGS)
        _choice("ground", self.ground, GROUNDS)
        _choice("style", self.style, STYLES)
        _choice("extra_side", self.extra_side, (-1, 1))
        _choice("colour", self.colour, tuple(COLOURS) if self.cls in RECOLOURABLE else (None,))
        _choice("extra", self.extra, (None, *EXTRAS))
        if self.extra == self.cls:
            raise ValueError(f"extra must differ from cls, got {self.extra!r} for both")
        for name, low, high in (("yaw", -YAW_LIMIT - 0.6, YAW_LIMIT + 0.6), ("x", -0.45, 0.45), ("z", -0.45, 0.45), ("scale", 0.7, 1.2)):
            _between(name, getattr(self, name), low, high)
        _between("elevation", self.elevation, 5, 35)
        _between("light_rotation", self.light_rotation, 0, 360)

    def replace(self, **changes) -> "Scene":
        """A copy with some fields changed (validated again)."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict:
        """The record as JSON-ready values."""
        return dataclasses.asdict(self)


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(scene: Scene) -> str:
    """Describe the scene, e.g. `a photo of a red sofa and a teddy bear on a wooden floor in an apartment`."""
    words = f"{STYLES[scene.style]} {_with_article(' '.join(w for w in (scene.colour, scene.cls) if w))}"
    if scene.extra:
        words += f" and {_with_article(scene.extra)}"
    return f"{words} {GROUNDS[scene.ground]} {SETTINGS[scene.setting]}"


def is_held_out(cls: str, ground: str) -> bool:
    """Whether the pair (class, ground) is kept out of train and test: one in ten pairs by hash, for the compositional test."""
    return hashlib.sha256(f"{cls}|{ground}".encode()).digest()[0] % 10 == 0


def sample_scene(seed: int, held_out: bool = False) -> Scene:
    """Draw a scene from `seed`: uniform class, setting, ground of that setting, pose; a second object in 30 % of scenes, a style in 16 %.

    `held_out` draws only the compositional test's (class, ground) pairs, otherwise those pairs never occur.
    """
    rng = random.Random(seed)
    while True:
        cls = rng.choice(tuple(CLASSES))
        setting = rng.choice(tuple(SETTINGS))
        ground = rng.choice(GROUNDS_OF[setting])
        if is_held_out(cls, ground) == held_out:
            break
    return Scene(
        seed=seed,
        cls=cls,
        model=rng.randrange(len(CLASSES[cls])),
        colour=rng.choice(tuple(COLOURS)) if cls in RECOLOURABLE else None,
        yaw=round(rng.uniform(-YAW_LIMIT, YAW_LIMIT), 4),
        x=round(rng.uniform(-0.25, 0.25), 4),
        z=round(rng.uniform(-0.25, 0.2), 4),
        scale=round(rng.uniform(0.85, 1.1), 4),
        elevation=round(rng.uniform(10, 26), 3),
        setting=setting,
        ground=ground,
        light_rotation=round(rng.uniform(0, 360), 2),
        extra=rng.choice([e for e in EXTRAS if e != cls]) if rng.random() < EXTRA_SHARE else None,
        extra_side=rng.choice((-1, 1)),
        extra_yaw=round(rng.uniform(-0.8, 0.8), 4),
        style=rng.choice([s for s in STYLES if s != "photo"]) if rng.random() < STYLED_SHARE else "photo",
    )
