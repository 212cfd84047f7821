"""Real training samples of the embedded model and a UNet to fine-tune on them: what the regularizer's gradient is measured on."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn

from companion.data import load as datasets
from companion.training.objectives.options import LORA_LAYERS
from companion.weights import pipelines as models
from smoothlib.pixels import from_uint8
from smoothlib.predictions import predict_x0
from smoothlib.regularizer.gradients import Denoiser
from smoothlib.sampling import encode_prompts


@dataclass(frozen=True)
class Samples:
    """Latents of images (N, 4, h, w), their captions' embeddings and that of no caption (N, L, D), and what a training step draws."""

    z0: Tensor
    context: Tensor
    null: Tensor
    timesteps: Tensor  # (N,)
    alpha_bar: Tensor  # (N,)
    eps: Tensor
    direction_noise: Tensor

    def __len__(self) -> int:
        return len(self.z0)

    def __getitem__(self, rows: slice) -> "Samples":
        return Samples(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def batches(self, size: int) -> Iterator["Samples"]:
        """Consecutive parts of `size`, the last perhaps shorter."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def to(self, device: str) -> "Samples":
        """On another device."""
        return Samples(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def double(self) -> "Samples":
        """In float64."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Samples(**{name: value.double() if value.is_floating_point() else value for name, value in values.items()})

    def denoiser(self, unet: UNet2DConditionModel, guidance_scale: float = 1.0) -> Denoiser:
        """`eps -> (x0_hat, output)` for all samples, as `DenoisingObjective` has it; x0_hat of the guided prediction (Eq. 5).

        `eps` may hold several noises for each sample: those of all, then of all again.
        """

        def denoise(eps: Tensor) -> tuple[Tensor, Tensor]:
            many = self if len(eps) == len(self) else self._repeated(len(eps) // len(self))
            a, s = (value.sqrt().view(-1, 1, 1, 1) for value in (many.alpha_bar, 1 - many.alpha_bar))
            x_t = a * many.z0 + s * eps
            output = guided = unet(x_t, many.timesteps, many.context).sample.to(x_t.dtype)
            if guidance_scale != 1:
                guided = guidance_scale * output - (guidance_scale - 1) * unet(x_t, many.timesteps, many.null).sample.to(x_t.dtype)
            return predict_x0(guided, x_t, many.alpha_bar), output

        denoise.takes_copies = True
        return denoise

    def _repeated(self, times: int) -> "Samples":
        return Samples(**{field.name: torch.cat([getattr(self, field.name)] * times) for field in fields(self)})


def real_samples(count: int = 48, seed: int = 0) -> Samples:
    """`count` scenes of the training split with their captions, encoded by the embedded autoencoder; timesteps, noises and directions.

    Raises:
        ValueError: the split has fewer scenes.
    """
    scenes = datasets.load_scenes("train")
    if not 1 <= count <= len(scenes):
        raise ValueError(f"samples must lie in [1, {len(scenes)}], the number of training scenes, got {count}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(scenes), generator=generator)[:count].tolist()
    pipe = models.load_pipeline("mini")
    with torch.no_grad():
        pixels = scenes.pixels[chosen]
        posterior = pipe.vae.encode(from_uint8(pixels)).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        z0 = (posterior.mean + posterior.std * noise) * pipe.vae.config.scaling_factor
    context, null = encode_prompts(pipe, [scenes.captions[i] for i in chosen]), encode_prompts(pipe, [""]).expand(count, -1, -1)
    timesteps = torch.randint(len(pipe.scheduler.alphas_cumprod), (count,), generator=generator)
    eps, direction_noise = (torch.randn(z0.shape, generator=generator) for _ in range(2))
    return Samples(z0, context, null, timesteps, pipe.scheduler.alphas_cumprod[timesteps], eps, direction_noise)


def lora_unet(adapter: str | None = None, rank: int = 8, layers: str = "attention", seed: int = 0) -> UNet2DConditionModel:
    """The embedded UNet with a shipped adapter, or (None) with a fresh LoRA as a training starts with; a gradient for what is trained.

    An adapter that is a full fine-tune trains every weight; `rank` 0 does so from the base.
    """
    unet = models.load_pipeline("mini", adapter=adapter).unet
    if adapter is None and rank:
        unet.requires_grad_(False)
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(LORA_LAYERS[layers])))
    loras = [name for name, _ in unet.named_parameters() if "lora_" in name]
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("lora_" in name or not loras)
    return unet.train()


def trained_parameters(unet: nn.Module) -> list[nn.Parameter]:
    """Those that take a gradient."""
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def in_float64(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy with the same weights in float64."""
    return copy.deepcopy(unet).double()
