"""The methods of the benchmark: what each starts from, which setting makes it edit more or less, and which values are tried.

A method has one main strength s. It sets one or more fields of the method's settings, each in proportion to its published value, so that
the curve of a method over s passes through the published settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smoothlib.editing import settings_class
from smoothlib.editing.inverted import Inversion

PUBLISHED_GUIDANCE = 7.5  # of Stable Diffusion: the guidance that the methods' published scales are relative to
INVERSION_TITLES = {
    "null_text": "null-text",
    "ddim": "DDIM",
    "direct": "direct",
    "fixed_point": "fixed-point",
    "edict": "EDICT",
    "own": "",
}


@dataclass(frozen=True)
class Plan:
    """A method as the benchmark runs it.

    fields: settings field -> its value at s = 1. strengths: the values of s on the curve, those that edit least first. few: those of a
    short run. candidates: those that the choice is made among; None: all. guidance: the published guidance scale. own: does it bring its
    own inversion? costly: does it take `num_costly_steps` sampling steps? paper: is it one of the paper's six baselines?
    """

    name: str
    title: str
    fields: Mapping[str, float]
    strengths: tuple[float, ...]
    few: tuple[float, ...]
    candidates: tuple[float, ...] | None = None
    guidance: float = PUBLISHED_GUIDANCE
    own: bool = False
    costly: bool = False
    paper: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)  # settings that differ from the published ones


# The guidance of EDICT and Pix2Pix-Zero is lower than the others', as published: it keeps its ratio to theirs with every model.
PLANS = {
    plan.name: plan
    for plan in (
        Plan("prompt_switch", "prompt switch", {"ratio": 1.0}, (0.4, 0.6, 0.7, 0.8, 0.9, 1.0), (0.6, 0.8, 1.0), (0.6, 0.7, 0.8, 0.9)),
        Plan("sdedit", "SDEdit", {"strength": 1.0}, (0.2, 0.4, 0.6, 0.8), (0.4, 0.8), own=True, paper=True),
        Plan(
            "prompt_to_prompt", "Prompt-to-Prompt", {"cross_replace": 1.0, "self_replace": 0.625}, (0.8, 0.5, 0.2), (0.8, 0.2), paper=True
        ),
        Plan(
            "plug_and_play",
            "Plug-and-Play",
            {"feature_injection": 1.0, "attention_injection": 0.625},
            (0.8, 0.5, 0.2),
            (0.8, 0.2),
            own=True,
            paper=True,
        ),
        Plan("disentangle", "Disentangle", {}, (1.0,), (1.0,), own=True, costly=True, paper=True),
        Plan(
            "pix2pix_zero",
            "Pix2Pix-Zero",
            {"cross_attention_guidance": 0.1},
            (2.0, 1.0, 0.5),
            (1.0,),
            guidance=5.0,
            own=True,
            costly=True,
            paper=True,
        ),
        Plan("cycle_diffusion", "CycleDiffusion", {"strength": 1.0}, (0.5, 0.65, 0.8), (0.5, 0.8), own=True, paper=True),
        Plan("edict", "EDICT", {"strength": 1.0}, (0.5, 0.8), (0.5, 0.8), guidance=3.0, own=True, costly=True),
    )
}


@dataclass(frozen=True)
class Edit:
    """What a row computes: a method with its settings and inversion.

    strength: its s (`Plan`). chosen: is it the strength that the even ids chose? Both say what the row is; neither changes a picture.
    method "source" is the picture as it is, "truth" the true edit, "autoencoder" the true edit encoded and decoded.
    """

    method: str
    settings: Any = None
    inversion: Inversion | None = None
    strength: float | None = None
    chosen: bool = False

    @property
    def key(self) -> "Entry | None":
        """The method and its inversion, whatever the strength."""
        return None if self.settings is None else Entry(self.method, self.inversion.kind)


@dataclass(frozen=True)
class Entry:
    """A method with one of its inversions: what a choice is made for, and what a curve is of."""

    method: str
    inversion: str = "own"

    @property
    def plan(self) -> Plan:
        return PLANS[self.method]

    @property
    def title(self) -> str:
        """ "prompt switch, null-text"."""
        return ", ".join(filter(None, (self.plan.title, INVERSION_TITLES[self.inversion])))


@dataclass(frozen=True)
class Recipe:
    """What all rows of a run share: steps and the model's own guidance; how `Entry` and strength become an `Edit`."""

    guidance_scale: float
    num_inference_steps: int
    num_costly_steps: int
    num_inner_steps: int = 1
    null_text_lr: float = 0.1
    strengths: str = "all"

    def edit(self, entry: Entry, strength: float, chosen: bool = False) -> Edit:
        """The edit of a method at a strength. Raises ValueError where the method does not allow the settings."""
        plan = entry.plan
        settings = settings_class(plan.name)(
            num_inference_steps=self.num_costly_steps if plan.costly else self.num_inference_steps,
            guidance_scale=max(1.0, self.guidance_scale * plan.guidance / PUBLISHED_GUIDANCE),
            **plan.more,
            **{name: round(value * strength, 6) for name, value in plan.fields.items()},
        )
        return Edit(plan.name, settings, self.inversion(entry.inversion), strength, chosen)

    def inversion(self, kind: str) -> Inversion:
        """The inversion of a kind, with the run's own settings of null-text inversion."""
        if kind == "null_text":
            return Inversion(kind, num_inner_steps=self.num_inner_steps, lr=self.null_text_lr)
        return Inversion(kind, num_iterations=FIXED_POINT_ITERATIONS) if kind == "fixed_point" else Inversion(kind)

    def strengths_of(self, entry: Entry) -> tuple[float, ...]:
        """The strengths on the curve; the further inversions of the prompt switch take the few."""
        few = self.strengths == "few" or entry.inversion in ("direct", "fixed_point")
        return entry.plan.few if few else entry.plan.strengths

    def candidates(self, entry: Entry) -> tuple[float, ...]:
        """The strengths that the even ids choose among."""
        allowed = entry.plan.candidates
        return tuple(one for one in self.strengths_of(entry) if allowed is None or one in allowed)


FIXED_POINT_ITERATIONS = 3


def entries(methods: Sequence[str], inversions: Sequence[str]) -> list[Entry]:
    """Every method with its inversion: the prompt switch with each of `inversions`, others that take one with the first of them."""
    found = []
    for name in methods:
        kinds = ("own",) if PLANS[name].own else inversions if name == "prompt_switch" else inversions[:1]
        found += [Entry(name, kind) for kind in kinds]
    return found
