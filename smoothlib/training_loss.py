r"""L = L_base + lambda L_reg (Eq. 14, 17): a fine-tune's loss with Step-wise Variation Regularization, for any training script.

L_base is the squared error of the network's own output, L_reg what `StepwiseVariation` gives on the same noisy latents. For flow matching
the target is the velocity eps - z0 and the noise level sigma; that has its closed form in the tests, and no network was trained with it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .denoiser import Added, call_network, estimate, noised, prediction_type_of
from .predictions import level_like
from .regularizer.gradients import wide
from .regularizer.variation import StepwiseVariation, Variation

SNR_WEIGHTS = {  # min-SNR weight of the network's own target: its error is that of x0_hat over snr, snr + 1 or 1
    "epsilon": lambda snr, clipped: clipped / snr,
    "v_prediction": lambda snr, clipped: clipped / (snr + 1),
    "sample": lambda snr, clipped: clipped,
}


@dataclass(frozen=True)
class RegularizedLoss:
    """What `regularized_loss` returns: the loss, L_base, the mean squared error without weights of timesteps, and L_reg with its r.

    `variation` is None in a step without L_reg, where `loss` is `base`. `error` is detached.
    """

    loss: Tensor
    base: Tensor
    error: Tensor
    variation: Variation | None = None


@dataclass(frozen=True)
class _Batch:
    """Latents with what makes x_t of them, and the network that is asked: t as it reads time, level alpha_bar_t or sigma, all (B, ...)."""

    network: nn.Module
    latents: Tensor
    t: Tensor
    level: Tensor
    prompt_embeds: Tensor
    null_embeds: Tensor | None
    prediction_type: str
    added: Added
    null_added: Added

    def denoise(self, eps: Tensor, rows: slice = slice(None), guidance_scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """x0_hat of the guided prediction (Eq. 5), and the network's output for the prompt alone, of these rows with the noise eps."""
        latents, level, t, embeds = (_of_rows(v, rows, len(eps)) for v in (self.latents, self.level, self.t, self.prompt_embeds))
        added = {name: _of_rows(value, rows, len(eps)) for name, value in self.added.items()}
        x_t = noised(latents, eps, level, self.prediction_type)
        if guidance_scale == 1:
            output = guided = wide(call_network(self.network, x_t, t, embeds, added))
        else:  # one call as in `denoiser.predict_noise`, which does not give the prompt's own prediction, that L_base needs
            null = {name: _of_rows(value, rows, len(x_t)) for name, value in {"": self.null_embeds, **self.null_added}.items()}
            both = {name: torch.cat([value, null[name]]) for name, value in added.items()}
            found = call_network(self.network, x_t.repeat(2, *[1] * (x_t.ndim - 1)), t.repeat(2), torch.cat([embeds, null[""]]), both)
            output, unconditional = wide(found).chunk(2)
            guided = guidance_scale * output - (guidance_scale - 1) * unconditional
        return estimate(guided, x_t, level, self.prediction_type).x0_hat, output

    def target(self, eps: Tensor) -> Tensor:
        """What the network should give, (B, ...)."""
        if self.prediction_type == "v_prediction":
            level = level_like(self.level, self.latents, "level").to(self.latents.dtype)
            return level.sqrt() * eps - (1 - level).sqrt() * self.latents
        return {"epsilon": eps, "sample": self.latents, "flow": eps - self.latents}[self.prediction_type]

    def weight(self, min_snr_gamma: float) -> Tensor:
        """Of each timestep in L_base, (B,)."""
        if not min_snr_gamma:
            return torch.ones_like(self.level)
        snr = self.level / (1 - self.level)
        return SNR_WEIGHTS[self.prediction_type](snr, snr.clamp(max=min_snr_gamma))


def _of_rows(values: Tensor, rows: slice, count: int) -> Tensor:
    """These rows of what is given for each sample, or once for all, one after another until there are `count`."""
    values = values if len(values) == 1 else values[rows]
    return values if len(values) == count else values.repeat(count // len(values), *[1] * (values.ndim - 1))


def regularized_loss(
    network: nn.Module,
    latents: Tensor,
    prompt_embeds: Tensor,
    scheduler: Any,
    regularizer: StepwiseVariation | None = None,
    *,
    regularization: float = 1.0,
    step: int = 0,
    regularize_every: int = 1,
    regularized_share: float = 1.0,
    regularized_guidance: float = 1.0,
    null_embeds: Tensor | None = None,
    min_snr_gamma: float = 0.0,
    generator: torch.Generator | None = None,
    draws: Mapping[str, Tensor] | None = None,
    added: Added | None = None,
    null_added: Added | None = None,
) -> RegularizedLoss:
    r"""L_base + lambda L_reg (Eq. 14) of a batch of clean latents, at timesteps and noises that are drawn here.

    L_base = mean (target - network(x_t, t, prompt))^2 (Eq. 17, over all values), where the target is what a network of this scheduler
    predicts; with `min_snr_gamma` weighted by min(SNR, gamma) / SNR (Hang et al. 2023, https://arxiv.org/abs/2303.09556).

    Args:
        network: a UNet or transformer of diffusers; what of it requires a gradient gets one.
        latents: z0, (B, C, h, w), scaled as the network knows them.
        prompt_embeds: (B, L, D). Where they (or the latents) require a gradient, L_reg gives them theirs too, at more memory.
        scheduler: the noise schedule and the prediction type, as of a diffusers pipeline.
        regularizer: L_reg, with its running mean: the same object in all steps, in training mode. None: L_base alone.
        regularization: lambda.
        step: number of the optimiser step. L_reg enters those that `regularize_every` divides, `regularize_every` times as strong (after
            StyleGAN2's lazy regularization; gradient clipping and Adam's moments see the stronger steps as they are).
        regularized_share: share in (0, 1] of the batch that L_reg is measured on.
        regularized_guidance: w >= 1 of Eq. 5 for the x0_hat in L_reg, which needs `null_embeds`, (1, L, D) or (B, L, D); 1 is the paper's.
        min_snr_gamma: gamma; 0 weights all timesteps alike. Flow matching has no other.
        generator: of everything that is drawn; its device may be another than the latents'.
        draws: given, not drawn: `eps` and `direction_noise` (B, C, h, w), `timesteps` (B,), indices of the scheduler's noise levels.
        added, null_added: what else the network takes beside the prompt and the empty one (None: the same), see `smoothlib.denoiser`.

    Raises:
        ValueError: an argument is not as above.

    Call this and the backward pass inside `regularizer.attention_kernel()`, and the backward pass outside of autocast.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib import StepwiseVariation, encode_images, encode_prompts, regularized_loss
        >>> pipe, regularizer, generator = load_pipeline("mini"), StepwiseVariation(), torch.Generator().manual_seed(0)
        >>> z0 = encode_images(pipe, torch.zeros(2, 3, 64, 64))  # your pictures
        >>> embeds = encode_prompts(pipe, ["a photo of a dog", "a photo of a rabbit"])
        >>> trained = [p for name, p in pipe.unet.requires_grad_(False).named_parameters() if "to_q" in name]
        >>> optimizer = torch.optim.AdamW([p.requires_grad_() for p in trained], lr=1e-4)
        >>> for step in range(2):
        ...     found = regularized_loss(pipe.unet, z0, embeds, pipe.scheduler, regularizer, step=step, generator=generator)
        ...     found.loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> bool(found.loss == found.base + found.variation.loss)
        True
    """
    check_loss_options(regularization, regularize_every, regularized_share, regularized_guidance, min_snr_gamma)
    if regularizer is not None and regularized_guidance != 1 and null_embeds is None:
        raise ValueError(f"null_embeds is None, but must be the empty prompt's embedding for regularized_guidance {regularized_guidance}")
    _check_batch(latents, prompt_embeds, draws or {})
    kind, times, levels = _noise_levels(scheduler, min_snr_gamma)
    drawn = _drawn(latents, len(levels), regularizer is not None, generator, draws or {})
    eps, chosen = drawn["eps"].to(latents.dtype), drawn["timesteps"]
    t, level = (table[chosen.to(table.device)].to(latents.device) for table in (times, levels))
    added = added or {}
    null_added = added if null_added is None else null_added
    batch = _Batch(network, latents, t, level, prompt_embeds, null_embeds, kind, added, null_added)
    variation = None
    if regularizer is not None and step % regularize_every == 0:
        n = math.ceil(regularized_share * len(eps))
        time = t[:n] / scheduler.config.num_train_timesteps
        variation, output = _variation(batch, eps, time, drawn["direction_noise"], regularizer, n, regularized_guidance)
    else:
        output = batch.denoise(eps)[1]
    error = (output - batch.target(eps)).square().mean(dim=tuple(range(1, eps.ndim)))  # (B,)
    base = (batch.weight(min_snr_gamma) * error).mean()
    loss = base if variation is None else base + regularization * regularize_every * variation.loss
    return RegularizedLoss(loss, base, error.detach().mean(), variation)


def _variation(
    batch: _Batch, eps: Tensor, time: Tensor, direction_noise: Tensor, regularizer: StepwiseVariation, n: int, guidance_scale: float
) -> tuple[Variation, Tensor]:
    """L_reg of the first n samples, and the network's output for all."""
    part, rest = slice(0, n), slice(n, None)
    level = batch.level[part]
    noise_level = level if batch.prediction_type == "flow" else (1 - level).sqrt()
    trained = [p for p in batch.network.parameters() if p.requires_grad]
    # the graph of what is trained before the network would be gone when a later evaluation needs it
    deferred = [] if batch.prompt_embeds.requires_grad or batch.latents.requires_grad else trained
    sampled = partial(batch.denoise, rows=part, guidance_scale=guidance_scale)
    sampled.takes_copies = True
    variation = regularizer(sampled, eps[part], noise_level, time, direction_noise[part], deferred, trained)
    if n == len(eps):
        return variation, variation.output
    return variation, torch.cat([variation.output, batch.denoise(eps[rest], rest)[1]])


def check_loss_options(
    regularization: float, regularize_every: int, regularized_share: float, regularized_guidance: float, min_snr_gamma: float
) -> None:
    """ValueError for an option of `regularized_loss` that is out of its range."""
    least = {"regularization": (regularization, 0), "regularized_guidance": (regularized_guidance, 1), "min_snr_gamma": (min_snr_gamma, 0)}
    for name, (value, bound) in least.items():
        if not isinstance(value, int | float) or not bound <= value < math.inf:
            raise ValueError(f"{name} is {value!r}, but must be a number of at least {bound}")
    if not isinstance(regularize_every, int) or regularize_every < 1:
        raise ValueError(f"regularize_every is {regularize_every!r}, but must be a whole number of at least 1")
    if not 0 < regularized_share <= 1:
        raise ValueError(f"regularized_share is {regularized_share!r}, but must be above 0 and at most 1")


def _check_batch(latents: Tensor, prompt_embeds: Tensor, draws: Mapping[str, Tensor]) -> None:
    if latents.ndim < 2 or not latents.is_floating_point() or not len(latents):
        raise ValueError(f"latents is {latents.dtype} of shape {tuple(latents.shape)}, but must be floating-point (B, C, h, w) with B >= 1")
    if prompt_embeds.ndim != 3 or len(prompt_embeds) != len(latents):
        raise ValueError(f"prompt_embeds has shape {tuple(prompt_embeds.shape)}, but must have (B, L, D) with B = {len(latents)}")
    if unknown := draws.keys() - {"eps", "timesteps", "direction_noise"}:
        raise ValueError(f"draws has {', '.join(sorted(unknown))}, but must have only eps, timesteps and direction_noise")
    for name, values in draws.items():
        shape = latents.shape[:1] if name == "timesteps" else latents.shape
        if values.shape != shape:
            raise ValueError(f"draws[{name!r}] has shape {tuple(values.shape)}, but must have {tuple(shape)}")


def _noise_levels(scheduler: Any, min_snr_gamma: float) -> tuple[str, Tensor, Tensor]:
    """What the network predicts, and the trained timesteps and their noise levels, alpha_bar_t or sigma, each (N,)."""
    kind, trained = prediction_type_of(scheduler), scheduler.config.num_train_timesteps
    if kind == "flow":
        if min_snr_gamma:
            raise ValueError(f"min_snr_gamma is {min_snr_gamma}, but must be 0 for flow matching")
        if len(scheduler.sigmas) != trained:
            raise ValueError(f"scheduler has {len(scheduler.sigmas)} noise levels set, but must have the {trained} that it was made with")
        return kind, scheduler.timesteps, scheduler.sigmas
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(f"scheduler is {type(scheduler).__name__}, but must have alphas_cumprod, or be flow matching's")
    return kind, torch.arange(trained), scheduler.alphas_cumprod


def _drawn(
    latents: Tensor, num_timesteps: int, with_direction: bool, generator: torch.Generator | None, draws: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`eps`, `timesteps` and, with a regularizer, `direction_noise`: given, or from the generator in this order."""
    options = dict(generator=generator, device=generator.device if generator else latents.device)
    make = {
        "eps": lambda: torch.randn(latents.shape, **options),
        "timesteps": lambda: torch.randint(num_timesteps, latents.shape[:1], **options),
    }
    if with_direction:
        make["direction_noise"] = lambda: torch.randn(latents.shape, **options)
    found = {name: draws[name] if name in draws else draw() for name, draw in make.items()}
    # the timesteps stay where they are: bringing them back from an accelerator would make every step wait for it
    return found | {name: values.to(latents.device) for name, values in found.items() if name != "timesteps"}
