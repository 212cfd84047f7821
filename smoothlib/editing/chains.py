"""Steps of DDIM laid open, for methods that change more in a step than the noise estimate: their levels, means and posteriors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..denoiser import call_network
from ..diffusion import ddim_scheduler, predict_eps, set_timesteps
from ..sampling import share_of_steps
from ..schedules import level_below

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Branch = tuple[Tensor, Tensor, float]  # latents (B, 4, h, w), prompt embeddings (B, L, D), guidance scale


@dataclass(frozen=True)
class Step:
    """One step of DDIM from timestep t to the one below (Song et al. 2021, Eq. 12 and 16); levels are scalars in float64."""

    t: Tensor  # (), on the network's device
    alpha_bar: Tensor  # (), at t
    alpha_bar_below: Tensor  # (), where the step ends
    sigma: Tensor  # (), standard deviation of the noise that the step adds; 0 for eta = 0
    prediction_type: str

    def noise(self, output: Tensor, x: Tensor) -> Tensor:
        """What the network means by its output as noise, both (B, 4, h, w)."""
        return predict_eps(output, x, self.alpha_bar, self.prediction_type)

    def mean(self, output: Tensor, x: Tensor) -> Tensor:
        """Where the step ends without its random part: sqrt(ab') x0_hat + sqrt(1 - ab' - sigma^2) eps, (B, 4, h, w)."""
        eps = self.noise(output, x)
        x0_hat = (x - (1 - self.alpha_bar).sqrt() * eps) / self.alpha_bar.sqrt()
        return self.from_clean(x0_hat, eps)

    def from_clean(self, x0: Tensor, eps: Tensor) -> Tensor:
        """The mean of the latent below, given the clean latent and the noise at t, (B, 4, h, w)."""
        return self.alpha_bar_below.sqrt() * x0 + (1 - self.alpha_bar_below - self.sigma**2).clamp_min(0).sqrt() * eps

    def noised(self, x0: Tensor, noise: Tensor) -> Tensor:
        """A sample at t: sqrt(ab) x0 + sqrt(1 - ab) noise, (B, 4, h, w)."""
        return self.alpha_bar.sqrt() * x0 + (1 - self.alpha_bar).sqrt() * noise

    def noise_between(self, x: Tensor, x0: Tensor) -> Tensor:
        """The noise that leads from a clean latent to x at t, (B, 4, h, w)."""
        return (x - self.alpha_bar.sqrt() * x0) / (1 - self.alpha_bar).sqrt()


def ddim_steps(pipe: "StableDiffusionPipeline", num_inference_steps: int, *, share: float = 1.0, eta: float = 0.0) -> list[Step]:
    """The last T `share` steps of a DDIM chain of T steps, rounded down, the noisiest first.

    Raises:
        ValueError: more steps than were trained, or a scheduler without DDIM's kind of noise schedule.
    """
    scheduler = ddim_scheduler(pipe)
    steps = []
    for t in set_timesteps(scheduler, num_inference_steps, pipe.unet.device):
        high = scheduler.alphas_cumprod[int(t)].double()
        low = level_below(scheduler, t, scheduler.final_alpha_cumprod).double()
        sigma = eta * ((1 - low) / (1 - high) * (1 - high / low)).sqrt()
        steps.append(Step(t, high, low, sigma, scheduler.config.prediction_type))
    return steps[num_inference_steps - share_of_steps(share, num_inference_steps) :]


def predict_branches(unet: torch.nn.Module, t: Tensor, branches: Sequence[Branch], null_embeds: Tensor) -> list[Tensor]:
    """Guided outputs of several branches, each (B, 4, h, w), from one network call.

    A branch at guidance 1 has no use for the null embedding (B, L, D) and takes one evaluation per latent, any other two.
    """
    rows, embeds = [], []
    for x, cond, guidance_scale in branches:
        rows += [x] if guidance_scale == 1 else [x, x]
        embeds += [cond] if guidance_scale == 1 else [null_embeds, cond]
    outputs = list(call_network(unet, torch.cat(rows), t, torch.cat(embeds)).split(len(branches[0][0])))
    guided = []
    for _, _, guidance_scale in branches:
        first = outputs.pop(0)
        guided.append(first if guidance_scale == 1 else first + guidance_scale * (outputs.pop(0) - first))
    return guided


def check_generator_given(generator: object, method: str) -> None:
    """ValueError where a method that draws noise has nothing to draw it with."""
    if generator is None:
        raise ValueError(f"generator is None, but must be given: {method} draws noise")
