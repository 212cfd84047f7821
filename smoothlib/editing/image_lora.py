"""A LoRA for every image of a batch, trained on its image alone, so that the network knows the picture that it is about to change.

The first step of DragDiffusion (Shi et al. 2024). To every attention projection `W0 x` (Eq. 6) image b adds `strength * B_b A_b x`, its own
LoRA and no other image's. All of them are trained, and act, in the same calls of the network: their weights are stacked, (B, r, d_in) and
(B, d_out, r). They are added by forward hooks, beside a Smooth-LoRA that is fused into W0 or lies around it as PEFT's layer.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..denoiser import call_network
from ..diffusion import check_number, ddim_scheduler
from ..lora import LORA_TARGET_MODULES
from ..null_text import frozen
from ..sampling import encode_images, encode_prompts
from .attention import sites

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class ImageLoraSettings:
    """How each image's LoRA is trained; the defaults are DragDiffusion's. `steps` 0: without one."""

    rank: int = 16
    steps: int = 80
    lr: float = 5e-4  # of AdamW
    noises: int = 4  # per image and step, each at a timestep of its own
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        for name, least in (("rank", 1), ("steps", 0), ("noises", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}, but must be a whole number of at least {least}")
        check_number("lr", self.lr, 1e-12, 1)
        check_number("weight_decay", self.weight_decay, 0, 1)


@dataclass(frozen=True)
class ImageLoras:
    """The LoRAs of B images: by name of the layer the stacked A, (B, r, d_in), and B, (B, d_out, r); alpha equals the rank."""

    down: dict[str, Tensor]
    up: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.down.values())))

    def of(self, images: Sequence[int]) -> "ImageLoras":
        """Those of some of the images, in this order."""
        index = list(images)
        return ImageLoras(*({name: weight[index] for name, weight in part.items()} for part in (self.down, self.up)))

    def to(self, device: torch.device | str) -> "ImageLoras":
        """The same on another device."""
        return ImageLoras(*({name: weight.to(device) for name, weight in part.items()} for part in (self.down, self.up)))

    @contextmanager
    def acting(self, unet: nn.Module, strength: float = 1.0) -> Iterator[None]:
        """Inside, the network computes with each image's own LoRA; on every exit it is as it was.

        A batch holds the images once or several times over, in this order each time: index i belongs to image i modulo B.
        """
        with ExitStack() as hooks:
            for name in self.down:
                handle = unet.get_submodule(name).register_forward_hook(_addition(self.down[name], self.up[name], strength))
                hooks.callback(handle.remove)
            yield


def _addition(down: Tensor, up: Tensor, strength: float) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x = inputs[0].unflatten(0, (-1, len(down)))  # (times, B, tokens, d_in)
        change = x @ down.transpose(1, 2) @ up.transpose(1, 2)  # (times, B, tokens, d_out)
        return output + strength * change.flatten(0, 1)

    return add


def acting(loras: ImageLoras | None, unet: nn.Module, strength: float = 1.0) -> AbstractContextManager[None]:
    """`loras.acting`, or nothing where there are none."""
    return nullcontext() if loras is None else loras.acting(unet, strength)


def new_image_loras(unet: nn.Module, rank: int, generators: Sequence[torch.Generator]) -> ImageLoras:
    """Untrained: A Gaussian with deviation 1 / rank from each image's generator, B zero (PEFT's `init_lora_weights="gaussian"`)."""
    modules = {id(module): name for name, module in unet.named_modules()}
    layers = [f"{modules[id(site.module)]}.{target}" for site in sites(unet) for target in LORA_TARGET_MODULES]
    like = next(unet.parameters())
    down, up = {}, {}
    for name in layers:
        layer = unet.get_submodule(name)
        drawn = [torch.randn(rank, layer.in_features, generator=one, device=one.device) / rank for one in generators]
        down[name] = torch.stack([weight.to(like) for weight in drawn])
        up[name] = like.new_zeros(len(generators), layer.out_features, rank)
    return ImageLoras(down, up)


def train_image_loras(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    prompts: Sequence[str],
    settings: ImageLoraSettings = ImageLoraSettings(),
    *,
    generators: Sequence[torch.Generator],
    progress: Progress = iter,
) -> ImageLoras:
    """Train one LoRA per image on the denoising loss of that image under its prompt (Eq. 1), without guidance.

    The losses are means over an image's own noises and are summed over images, so that an image's gradient is the same alone or in a batch.
    Unlike DragDiffusion's script, which draws from the autoencoder's posterior, z0 is its mode, the latent that is inverted later.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        prompts: one for each image.
        generators: one for each image: its weights at the start, its noises and its timesteps do not depend on the batch.
        progress: wraps the iterable of step indices, e.g. `tqdm`.

    Raises:
        RuntimeError: a layer's change is zero or not finite after the training.
    """
    z0, embeds = encode_images(pipe, images), encode_prompts(pipe, list(prompts))
    loras = new_image_loras(pipe.unet, settings.rank, generators)
    parameters = [weight.requires_grad_(True) for part in (loras.down, loras.up) for weight in part.values()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    scheduler = ddim_scheduler(pipe)
    many = settings.noises
    with frozen(pipe.unet), loras.acting(pipe.unet), torch.enable_grad():
        for _ in progress(range(settings.steps)):
            noise, t = _drawn(z0, generators, many, scheduler.config.num_train_timesteps)
            z, context = z0.repeat(many, 1, 1, 1), embeds.repeat(many, 1, 1)  # (noises * B, ...), images innermost
            output = call_network(pipe.unet, scheduler.add_noise(z, noise, t), t, context)
            loss = (output - _wanted(scheduler, z, noise, t)).square().mean(dim=(1, 2, 3))  # (noises * B,)
            optimizer.zero_grad()
            (loss.sum() / many).backward()
            optimizer.step()
    for weight in parameters:
        weight.requires_grad_(False).grad = None
    if settings.steps:
        _check_acts(loras)
    return loras


def _drawn(z0: Tensor, generators: Sequence[torch.Generator], many: int, timesteps: int) -> tuple[Tensor, Tensor]:
    """Noise (many * B, 4, h, w) and timesteps (many * B,), images innermost, each image's from its own generator."""
    noises, times = [], []
    for one in generators:
        noises.append(torch.randn(many, *z0.shape[1:], generator=one, device=one.device))
        times.append(torch.randint(timesteps, (many,), generator=one, device=one.device))
    return torch.stack(noises, 1).flatten(0, 1).to(z0), torch.stack(times, 1).flatten().to(z0.device)


def _wanted(scheduler: Any, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the network should give: by the scheduler's prediction type the noise, v, or z0."""
    kind = scheduler.config.prediction_type
    return noise if kind == "epsilon" else z0 if kind == "sample" else scheduler.get_velocity(z0, noise, t)


def _check_acts(loras: ImageLoras) -> None:
    change = torch.stack([weight.abs().amax(dim=(1, 2)) for weight in loras.up.values()])  # (layers, B)
    wrong = ((change == 0) | ~change.isfinite()).nonzero().tolist()
    if wrong:
        layer, image = wrong[0]
        found = change[layer, image].item()
        raise RuntimeError(f"the LoRA of image {image} has weights of size {found:g} in {list(loras.up)[layer]} after its training")
