"""DDIM's two schedulers on the timesteps that are really used: each step down ends where the next begins, and each step up is its reverse.

diffusers takes the timestep below t to be t - N // T, for N trained timesteps and T steps. That is the next of the schedule under "leading"
spacing alone. Under "linspace" and "trailing" the chain has gaps: a step ends at one noise level, and the network is told another.
"""

from functools import wraps
from typing import Any

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from diffusers.schedulers.scheduling_ddim_inverse import DDIMSchedulerOutput
from torch import Tensor

from .predictions import predict_eps


def timesteps_below(descending: Tensor) -> dict[int, int | None]:
    """Timestep -> the timestep at which its step ends: the next of the schedule, None (the scheduler's final level) after the last."""
    timesteps = descending.tolist()
    return dict(zip(timesteps, [*timesteps[1:], None], strict=True))


class ChainedDDIMScheduler(DDIMScheduler):
    """diffusers' DDIMScheduler, each step of which ends at the next timestep of the schedule (Eq. 3), whatever the spacing."""

    below: dict[int, int | None] | None = None

    @wraps(DDIMScheduler.set_timesteps)
    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        # "trailing" counts down in floating point: for 62 numbers of steps, 61 the first, it adds a timestep -1
        self.timesteps = self.timesteps[:num_inference_steps]
        self.below = timesteps_below(self.timesteps)

    @wraps(DDIMScheduler.step)
    def step(self, model_output: Tensor, timestep: Tensor | int, sample: Tensor, *args: Any, **arguments: Any) -> Any:
        kept = self.final_alpha_cumprod, self.num_inference_steps
        # diffusers' only step whose end can be chosen is the last of a schedule, and of one step the first is the last
        self.final_alpha_cumprod, self.num_inference_steps = level_below(self, timestep, self.final_alpha_cumprod), 1
        try:
            return super().step(model_output, timestep, sample, *args, **arguments)
        finally:
            self.final_alpha_cumprod, self.num_inference_steps = kept


class ChainedDDIMInverseScheduler(DDIMInverseScheduler):
    """The reverse of `ChainedDDIMScheduler` (Eq. 4): the step given t begins at the timestep below t and ends at t.

    The network is asked at t, with a sample that is still at the level below. Its output is converted to noise with the level that it was
    asked at: a denoiser that gives v or the sample is then inverted as the same denoiser that gives the noise. diffusers converts with the
    sample's level, which makes another denoiser of it.
    """

    below: dict[int, int | None] | None = None

    @wraps(DDIMInverseScheduler.set_timesteps)
    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        down = ChainedDDIMScheduler.from_config(self.config)
        down.set_timesteps(num_inference_steps, device)
        self.num_inference_steps, self.timesteps, self.below = num_inference_steps, down.timesteps.flip(0), down.below

    @wraps(DDIMInverseScheduler.step)
    def step(self, model_output: Tensor, timestep: Tensor | int, sample: Tensor, return_dict: bool = True) -> Any:
        low, high = level_below(self, timestep, self.initial_alpha_cumprod), self.alphas_cumprod[int(timestep)]
        eps = predict_eps(model_output, sample, high, self.config.prediction_type)
        x0_hat = (sample - (1 - low) ** 0.5 * eps) / low**0.5
        above = high**0.5 * x0_hat + (1 - high) ** 0.5 * eps
        return DDIMSchedulerOutput(prev_sample=above, pred_original_sample=x0_hat) if return_dict else (above, x0_hat)


def level_below(scheduler: ChainedDDIMScheduler | ChainedDDIMInverseScheduler, timestep: Tensor | int, final: Tensor) -> Tensor:
    """alpha_bar at the timestep below `timestep`, `final` below the last."""
    t = int(timestep)
    if scheduler.below is None or t not in scheduler.below:
        known = "set_timesteps has not been called" if scheduler.below is None else f"{len(scheduler.below)} timesteps are set"
        raise ValueError(f"timestep is {t}, but must be one of the schedule's ({known})")
    lower = scheduler.below[t]
    return final if lower is None else scheduler.alphas_cumprod[lower]
