"""Which inversion is asked for, and what it found: the two kinds of value that every editing method accepts."""

import math
from dataclasses import dataclass

from torch import Tensor

from ..diffusion import check_number

KINDS = ("ddim", "null_text", "direct", "fixed_point", "edict", "own")
SHARED_KINDS = ("ddim", "null_text", "direct", "fixed_point")  # those that `inversions.invert` makes: any method may start from them


@dataclass(frozen=True)
class Inversion:
    """The choice of an inversion and its settings.

    Kinds: "ddim" (Eq. 4), "null_text" (Eq. 19), "direct" (Ju et al. 2023, "PnP Inversion"), "fixed_point" (Eq. 4 with the noise at
    the step's upper end), "edict" (Wallace et al. 2023), and "own", which stands for the inversion that belongs to a method.

    Raises:
        ValueError: an unknown kind, or a setting out of its range.
    """

    kind: str = "ddim"
    num_inner_steps: int = 10  # null_text: most Adam steps per sampling step
    lr: float = 1e-2  # null_text: Adam's learning rate at the first step
    num_iterations: int = 5  # fixed_point: network evaluations per step; 1 is plain DDIM inversion
    inversion_guidance_scale: float = 1.0  # guidance of the way up; all of the published methods take 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, but must be one of {', '.join(KINDS)}")
        for name in ("num_inner_steps", "num_iterations"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, but must be a whole number of at least 1")
        check_number("lr", self.lr)
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr!r}, but must be positive")
        check_number("inversion_guidance_scale", self.inversion_guidance_scale)


@dataclass(frozen=True)
class Inverted:
    """What `invert` found for a batch of images; index 0 of what is "per step" is the noisiest step, as in sampling."""

    inversion: Inversion
    pivots: Tensor  # (T + 1, B, 4, h, w): index 0 is z0, index T the noise that sampling starts from
    prompt_embeds: Tensor  # (B, L, D) of the source prompts
    null_embeds: Tensor | None  # (T, B, L, D) per step, or None: the plain empty prompt
    offsets: Tensor | None  # (T, B, 4, h, w) per step, or None: added to the source branch after each step, so that it stays on the pivots
    evaluations: float  # of the network, per image; backward passes are not counted
    guidance_scale: float  # of sampling: what null_embeds and offsets belong to
    num_inference_steps: int  # T
