"""A flow-matching schedule as DDIM's kind: which noise level each timestep means, and the betas of the same signal-to-noise ratios."""

from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

UNSUPPORTED = ("shift_terminal", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas", "stochastic_sampling")
NOISIEST = 1 - 1e-4  # a little below 1: some editing methods divide by sqrt(alpha_bar), which is about 1 - sigma there
RANGES = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}  # diffusers' defaults


def noise_levels(scheduler: Any, num_patches: int) -> Tensor:
    """sigma of the timesteps 0, ..., N - 1, (N,) float64: (i + 1) / N, shifted as the scheduler does it; 0 for i = 0, where sampling ends,
    and at most `NOISIEST`.

    Args:
        scheduler: diffusers' FlowMatchEulerDiscreteScheduler, or one with its settings.
        num_patches: length of the sequence that the transformer sees, on which a dynamic shift depends.

    Raises:
        ValueError: the scheduler has levels that no table of timesteps holds, or none of flow matching.
    """
    config, kind = scheduler.config, type(scheduler).__name__
    if kind != "FlowMatchEulerDiscreteScheduler":
        raise ValueError(f"scheduler is {kind}, but must be a FlowMatchEulerDiscreteScheduler for this pipeline")
    if wrong := [name for name in UNSUPPORTED if config.get(name)]:
        raise ValueError(f"scheduler has {wrong[0]} {config[wrong[0]]!r}, but must have none: levels are a shift of equal steps here")
    count = config.num_train_timesteps
    equal = torch.arange(1, count + 1, dtype=torch.float64) / count
    if config.use_dynamic_shifting:
        least, most, low, high = (config.get(name, default) for name, default in RANGES.items())
        levels = scheduler.time_shift(low + (high - low) * (num_patches - least) / (most - least), 1.0, equal)
    else:
        levels = config.shift * equal / (1 + (config.shift - 1) * equal)
    levels[0] = 0
    return levels.clamp(max=NOISIEST)


def diffusion_scheduler(sigmas: Tensor) -> DDIMScheduler:
    """DDIM's scheduler (Eq. 3) with alpha_bar = (1 - sigma)^2 / ((1 - sigma)^2 + sigma^2) at each timestep, for `FlowAsDiffusion`.

    Under its "trailing" spacing T steps take sigma = 1, 1 - 1/T, ..., 1/T before the shift, as diffusers' FLUX pipeline does; where T does
    not divide N, to the nearest of N levels.
    """
    signal = (1 - sigmas) ** 2 / ((1 - sigmas) ** 2 + sigmas**2)  # alpha_bar, (N,)
    product, betas = 1.0, []
    for wanted in signal.tolist():  # betas are float32: each makes good what rounding has left of those before it
        beta = torch.tensor(1 - wanted / product, dtype=torch.float32)
        product *= float(1 - beta)
        betas.append(float(beta))
    conventions = dict(steps_offset=1, set_alpha_to_one=False, clip_sample=False, timestep_spacing="trailing")
    return DDIMScheduler(num_train_timesteps=len(sigmas), trained_betas=betas, prediction_type="v_prediction", **conventions)
