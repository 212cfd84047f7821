"""How a drag is done: DragDiffusion's settings, checked when they are made."""

import math
from dataclasses import dataclass

from ..diffusion import check_number


@dataclass(frozen=True)
class Drag:
    """How a drag is done; the defaults are those published. Lengths in cells are of a grid of half the picture's height and width."""

    num_inference_steps: int = 50
    strength: float = 0.7  # share of the steps that the inversion goes up
    iterations: int = 80  # most updates of the latent
    lr: float = 0.01  # of Adam
    reach: float = 2.0  # a handle nearer to its target than this has arrived, cells
    motion_radius: int = 1  # of the patch around a handle, cells
    tracking_radius: int = 3  # how far a handle is looked for, cells
    mask_weight: float = 0.1  # of the change outside the mask
    lora_strength: float = 1.0  # of each image's own LoRA

    def __post_init__(self) -> None:
        for name, least in (("num_inference_steps", 2), ("iterations", 0), ("motion_radius", 0), ("tracking_radius", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}, but must be a whole number of at least {least}")
        check_number("lr", self.lr, 1e-9, 10)
        check_number("reach", self.reach, 1e-6)
        check_number("mask_weight", self.mask_weight, 0)
        check_number("lora_strength", self.lora_strength, 0)
        check_number("strength", self.strength, 0, 1)
        if not self.steps_up:
            raise ValueError(f"strength is {self.strength:g}, but must be at least {0.5 / self.num_inference_steps:g}, half a step")

    @property
    def steps_up(self) -> int:
        """How many steps the inversion takes (published: 35 of 50)."""
        return math.floor(self.num_inference_steps * self.strength + 0.5)
