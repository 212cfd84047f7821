"""Base models of other architectures as the one that the rest of the library knows: latent, timestep, prompt; DDIM's schedule.

`base_view(pipe)` gives what `ddim_invert`, `null_text_inversion`, `sample`, `latent_walk`, `real_image_interpolation` and the editing
methods take for a pipeline. `trained` and `trained_scheduler` are the network and the levels for `regularized_loss`: the network's own
kind of output, velocity for flow matching, at the levels that it was trained at.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from ..diffusion import ddim_scheduler
from .conditions import pack
from .flow import diffusion_scheduler, noise_levels
from .networks import Conditioned, FlowAsDiffusion, Patched


class PlainVAE:
    """An autoencoder whose latents are shifted before they are scaled (SD3, FLUX), or too large for float16 (SDXL), as a plain one."""

    def __init__(self, vae: nn.Module) -> None:
        self.inner, self.config, self.shift = vae, vae.config, vae.config.get("shift_factor") or 0.0
        if vae.config.get("force_upcast") and vae.dtype == torch.float16:
            vae.to(torch.float32)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.inner.dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.inner.device

    def parameters(self) -> Any:
        """Of the autoencoder."""
        return self.inner.parameters()

    def encode(self, images: Tensor) -> SimpleNamespace:
        """As the autoencoder's, of which the posterior's mode is used."""
        mode = self.inner.encode(images).latent_dist.mode() - self.shift
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: mode))

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        """As the autoencoder's."""
        return self.inner.decode(z + self.shift, return_dict=return_dict)


class BaseView:
    """A pipeline of another architecture as the library knows pipelines; made by `base_view`.

    Attributes:
        pipe: the pipeline, whose weights are shared.
        size: (height, width) of the images in pixels.
        unet, scheduler: for everything but training: `epsilon`, `v_prediction` or `sample`, DDIM's schedule.
        trained, trained_scheduler: for `regularized_loss`.
    """

    def __init__(self, pipe: Any, size: tuple[int, int]) -> None:
        self.pipe, self.size = pipe, size
        self.tokenizer, self.vae_scale_factor = pipe.tokenizer, pipe.vae_scale_factor
        self.vae = PlainVAE(pipe.vae)
        self.trained, self.trained_scheduler = self._network(), pipe.scheduler
        self.unet, self.scheduler = self._as_diffusion()

    @property
    def device(self) -> torch.device:
        """Of the network."""
        return self.unet.device

    def _network(self) -> Conditioned:
        raise NotImplementedError

    def _encoded(self, prompts: list[str], device: torch.device) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Embeddings (B, L, D) and conditions, each (B, n)."""
        raise NotImplementedError

    def _as_diffusion(self) -> tuple[nn.Module, DDIMScheduler]:
        config = {name: value for name, value in ddim_scheduler(self.pipe).config.items() if name != "thresholding"}  # False, its default
        return self.trained, DDIMScheduler.from_config(config)

    @torch.no_grad()
    def encode_prompt(self, prompt: list[str], device: torch.device, *_: Any) -> tuple[Tensor, None]:
        """As `StableDiffusionPipeline`'s without guidance: the embeddings with their conditions, (B, L + R, D), and None."""
        return pack(*self._encoded(list(prompt), device)), None

    def prepare_extra_step_kwargs(self, generator: torch.Generator | None, eta: float) -> dict[str, Any]:
        """What a DDIM step takes besides."""
        return {"eta": eta, "generator": generator}


class XLView(BaseView):
    """Stable Diffusion XL: pooled text and sizes; the empty prompt is zero where the pipeline says so, as in its training."""

    def _network(self) -> Conditioned:
        _check_plain(self.pipe.unet, ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim"))
        _check_channels(self.pipe.unet, self.pipe.vae.config.latent_channels)
        return Conditioned(self.pipe.unet, {"text_embeds": self.pipe.text_encoder_2.config.projection_dim, "time_ids": 6})

    def _encoded(self, prompts: list[str], device: torch.device) -> tuple[Tensor, Mapping[str, Tensor]]:
        embeds, _, pooled, _ = self.pipe.encode_prompt(prompts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False)
        if self.pipe.config.force_zeros_for_empty_prompt:
            given = torch.tensor([float(bool(prompt)) for prompt in prompts]).to(embeds)
            embeds, pooled = embeds * given[:, None, None], pooled * given[:, None]
        sizes = torch.tensor([[*self.size, 0, 0, *self.size]]).to(embeds)  # original size, upper left corner of the crop, size
        return embeds, {"text_embeds": pooled, "time_ids": sizes.expand(len(prompts), -1)}


class FlowView(BaseView):
    """What Stable Diffusion 3 and FLUX have in common: a transformer, a pooled text, flow matching."""

    def _as_diffusion(self) -> tuple[nn.Module, DDIMScheduler]:
        height, width = (side // (2 * self.vae_scale_factor) for side in self.size)
        sigmas = noise_levels(self.trained_scheduler, height * width)
        self.trained_scheduler = type(self.trained_scheduler).from_config(self.trained_scheduler.config)  # all levels, none chosen
        return FlowAsDiffusion(self.trained, sigmas), diffusion_scheduler(sigmas)


class SD3View(FlowView):
    """Stable Diffusion 3 and 3.5."""

    def _network(self) -> Conditioned:
        _check_channels(self.pipe.transformer, self.pipe.vae.config.latent_channels)
        return Conditioned(self.pipe.transformer, {"pooled_projections": self.pipe.transformer.config.pooled_projection_dim})

    def _encoded(self, prompts: list[str], device: torch.device) -> tuple[Tensor, Mapping[str, Tensor]]:
        texts = dict.fromkeys(("prompt", "prompt_2", "prompt_3"), prompts)
        embeds, _, pooled, _ = self.pipe.encode_prompt(**texts, device=device, do_classifier_free_guidance=False)
        return embeds, {"pooled_projections": pooled}


class FluxView(FlowView):
    """FLUX.1: the prompt's embedding is T5's; a distilled network reads its guidance scale, 3.5, beside that of Eq. 5."""

    embedded_guidance = 3.5  # the pipeline's default

    def _network(self) -> Conditioned:
        network = self.pipe.transformer
        _check_channels(network, 4 * self.pipe.vae.config.latent_channels)
        sizes = {"pooled_projections": network.config.pooled_projection_dim}
        return Patched(network, sizes, 1 / self.pipe.scheduler.config.num_train_timesteps, self.embedded_guidance)

    def _encoded(self, prompts: list[str], device: torch.device) -> tuple[Tensor, Mapping[str, Tensor]]:
        embeds, pooled, _ = self.pipe.encode_prompt(prompts, device=device)
        return embeds, {"pooled_projections": pooled}


PLAIN = "StableDiffusionPipeline"  # which the library takes as it is
VIEWS = {"StableDiffusionXLPipeline": XLView, "StableDiffusion3Pipeline": SD3View, "FluxPipeline": FluxView}


def base_view(pipe: Any, *, size: int | tuple[int, int] | None = None) -> Any:
    """A pipeline of one of the classes above in the form that the rest of the library takes; a StableDiffusionPipeline is returned itself.

    Args:
        pipe: a text-to-image pipeline of diffusers.
        size: of the images in pixels, one side or (height, width); None: what the pipeline was made for.

    Raises:
        TypeError: another class of pipeline.
        ValueError: a network, scheduler or size of another kind.
    """
    names = [kind.__name__ for kind in type(pipe).__mro__]
    if PLAIN in names:
        return pipe
    kind = next((VIEWS[name] for name in names if name in VIEWS), None)
    if kind is None:
        raise TypeError(f"pipe is {type(pipe).__name__}, but must be a {', '.join([PLAIN, *VIEWS][:-1])} or {list(VIEWS)[-1]}")
    size = size or pipe.default_sample_size * pipe.vae_scale_factor
    height, width = (size, size) if isinstance(size, int) else size
    factor = pipe.vae_scale_factor * (2 if issubclass(kind, FlowView) else 1)
    if height < 1 or width < 1 or height % factor or width % factor:
        raise ValueError(f"size is {height} x {width}, but must be multiples of {factor} for {type(pipe).__name__}")
    return kind(pipe, (height, width))


def _check_plain(network: nn.Module, names: tuple[str, ...]) -> None:
    if wrong := [name for name in names if network.config.get(name) is not None]:
        raise ValueError(f"pipe's network has {wrong[0]} {network.config[wrong[0]]!r}, but must have none: it cannot be given")


def _check_channels(network: nn.Module, wanted: int) -> None:
    if (channels := network.config.in_channels) != wanted:
        raise ValueError(f"pipe's network takes {channels} channels, but must take the latent's {wanted} alone: no mask or image is given")
