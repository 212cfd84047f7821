"""Networks that ask for more than latent, time and prompt, as networks that ask for these three alone; and a flow as a diffusion model.

Each is a thin module around a network of diffusers, whose weights it shares: an adapter put onto the one acts in the other.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..denoiser import call_network
from .conditions import unpack


class Conditioned(nn.Module):
    """A network whose conditions travel in the prompt's embedding (`conditions.pack`); its output is the network's own.

    Args:
        inner: a UNet or transformer of diffusers.
        sizes: name -> number of values of each condition, in the order of `pack`.
        time_scale: what the network's time is of the scheduler's: FLUX reads sigma, the others 1000 sigma or a timestep.
    """

    def __init__(self, inner: nn.Module, sizes: Mapping[str, int], time_scale: float = 1.0) -> None:
        super().__init__()
        self.inner, self.sizes, self.time_scale = inner, dict(sizes), time_scale

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.inner.dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.inner.device

    @property
    def down_blocks(self) -> nn.ModuleList:
        """Of a UNet; TypeError for a transformer."""
        return self._blocks("down_blocks")

    @property
    def mid_block(self) -> nn.Module | None:
        """Of a UNet; TypeError for a transformer."""
        return self._blocks("mid_block")

    @property
    def up_blocks(self) -> nn.ModuleList:
        """Of a UNet; TypeError for a transformer."""
        return self._blocks("up_blocks")

    def _blocks(self, name: str) -> nn.Module:
        network = self.inner.inner if isinstance(self.inner, Conditioned) else self.inner
        if not hasattr(network, name):
            raise TypeError(
                f"pipe's network is {type(network).__name__}, but must be a UNet of down, middle and up blocks (StableDiffusionPipeline, "
                "StableDiffusionXLPipeline): this method reads or changes attention maps or features there"
            )
        return getattr(network, name)

    def forward(self, sample: Tensor, timestep: Tensor | int, encoder_hidden_states: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """The network's output at `sample` (B, C, h, w), for embeddings with conditions, (B, L + R, D)."""
        embeds, added = unpack(encoder_hidden_states, self.sizes)
        time = timestep * self.time_scale if self.time_scale != 1 else timestep
        return (self.ask(sample, time, embeds, added),)

    def ask(self, x_t: Tensor, time: Tensor | int, embeds: Tensor, added: dict[str, Tensor]) -> Tensor:
        """One call of the network."""
        self._check_sides(x_t)
        return call_network(self.inner, x_t, time, embeds, added)

    def _check_sides(self, x_t: Tensor, patch: int | None = None) -> None:
        patch = patch or getattr(self.inner, "config", {}).get("patch_size") or 1
        if x_t.shape[-2] % patch or x_t.shape[-1] % patch:
            sides = f"{x_t.shape[-2]} x {x_t.shape[-1]}"
            raise ValueError(f"latents have sides {sides}, but must have multiples of {patch} for {type(self.inner).__name__}")


class Patched(Conditioned):
    """FLUX's transformer, which takes patches of 2 x 2 latents in a row, their places, and, where distilled, a guidance scale.

    Args:
        embedded_guidance: the scale that a network reads which was distilled with guidance (FLUX.1-dev's 3.5); others ignore it.
    """

    def __init__(self, inner: nn.Module, sizes: Mapping[str, int], time_scale: float, embedded_guidance: float) -> None:
        super().__init__(inner, sizes, time_scale)
        self.embedded_guidance = embedded_guidance

    def ask(self, x_t: Tensor, time: Tensor | int, embeds: Tensor, added: dict[str, Tensor]) -> Tensor:
        """One call of the network, in and out of patches."""
        self._check_sides(x_t, 2)
        count, channels, height, width = x_t.shape
        patches = x_t.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)  # (B, h/2, w/2, C, 2, 2)
        rows, columns = torch.arange(height // 2), torch.arange(width // 2)
        places = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), rows, columns)  # (h/2 w/2, 3)
        added = added | {"img_ids": places.to(x_t), "txt_ids": torch.zeros(embeds.shape[1], 3).to(x_t)}
        if self.inner.config.guidance_embeds:
            added["guidance"] = torch.full((count,), float(self.embedded_guidance), device=x_t.device)
        output = call_network(self.inner, patches.flatten(1, 2).flatten(2), time, embeds, added)  # (B, h/2 w/2, 4C)
        output = output.unflatten(2, (channels, 2, 2)).unflatten(1, (height // 2, width // 2)).permute(0, 3, 1, 4, 2, 5)
        return output.reshape(x_t.shape)


class FlowAsDiffusion(Conditioned):
    r"""A flow-matching network as the diffusion model with the same marginals, in the form v (`v_prediction`).

    With x = (1 - sigma) x0 + sigma eps and n = sqrt((1 - sigma)^2 + sigma^2), y = x / n is Eq. 2's x_t of alpha_bar = ((1 - sigma) / n)^2,
    and the network's velocity u = eps - x0 means v = sqrt(alpha_bar) eps - s x0 = (1 - 2 sigma) y + n u. One DDIM step (Eq. 3) on y is one
    Euler step on x, exactly, so sampling, inversion (Eq. 4, 19) and the prompt switch (Eq. 15) are defined as they stand.

    Args:
        flow: the network, its time being `num_timesteps` sigma before its own scale.
        sigmas: (N,) of the timesteps 0, ..., N - 1 (`flow.noise_levels`).
    """

    def __init__(self, flow: Conditioned, sigmas: Tensor) -> None:
        super().__init__(flow, {})
        self.sigmas = sigmas

    def forward(self, sample: Tensor, timestep: Tensor | int, encoder_hidden_states: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """v (B, C, h, w) at y = `sample`, for one timestep or one per sample (B,)."""
        self.sigmas = self.sigmas.to(sample.device)
        sigma = self.sigmas[torch.as_tensor(timestep, device=sample.device).long()]
        time = (sigma * len(self.sigmas)).float()
        sigma = sigma.reshape(-1, 1, 1, 1) if sigma.ndim else sigma
        n = ((1 - sigma) ** 2 + sigma**2).sqrt().to(sample.dtype)
        velocity = call_network(self.inner, n * sample, time, encoder_hidden_states)
        return ((1 - 2 * sigma).to(sample.dtype) * sample + n * velocity,)
