"""Diffusion arithmetic that diffusers leaves to its callers: x0_hat, slerp, and the pair of DDIM schedulers.

`alpha_bar_t` is the cumulative product (the paper writes alpha_t); `s_t = sqrt(1 - alpha_bar_t)` is the noise level.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import DDIMInverseScheduler, DDIMScheduler

PredictionType = Literal["epsilon", "v_prediction", "sample"]
SLERP_MAX_COS = 0.9995  # beyond this |cos| the sine in slerp's denominator loses its digits


def predict_x0(model_output: Tensor, x_t: Tensor, alpha_bar_t: float | Tensor, prediction_type: PredictionType = "epsilon") -> Tensor:
    """One-step estimate x0_hat (Sec. 3.2; Eq. 12 of DDIM).

    `epsilon`: (x_t - s_t eps) / sqrt(alpha_bar_t); `v_prediction`: sqrt(alpha_bar_t) x_t - s_t v; `sample`: the output itself.

    Args:
        model_output: the network's output, (B, ...), same shape as `x_t`.
        x_t: noisy latents, (B, ...).
        alpha_bar_t: cumulative product in (0, 1]: one number, or one per sample (B,).
        prediction_type: what the network predicts (diffusers' `scheduler.config.prediction_type`).

    Returns:
        x0_hat, (B, ...); differentiable in `model_output` and `x_t`.
    """
    _check_same_shape("model_output", model_output, "x_t", x_t)
    if prediction_type == "sample":
        return model_output
    alpha_bar = _per_sample(alpha_bar_t, x_t, "alpha_bar_t")
    signal, noise = alpha_bar.sqrt().to(x_t.dtype), (1 - alpha_bar).sqrt().to(x_t.dtype)
    if prediction_type == "epsilon":
        return (x_t - noise * model_output) / signal
    if prediction_type == "v_prediction":
        return signal * x_t - noise * model_output
    raise ValueError(f"prediction_type must be 'epsilon', 'v_prediction' or 'sample', not {prediction_type!r}")


def predict_x0_flow(velocity: Tensor, x_t: Tensor, sigma: float | Tensor) -> Tensor:
    """One-step estimate x0_hat under flow matching: x_t = (1 - sigma) x0 + sigma eps, v = eps - x0, so x0_hat = x_t - sigma v.

    The noise level `sigma` in [0, 1] takes the place of s_t; one number, or one per sample (B,).
    """
    _check_same_shape("velocity", velocity, "x_t", x_t)
    return x_t - _per_sample(sigma, x_t, "sigma").to(x_t.dtype) * velocity


def slerp(a: Tensor, b: Tensor, eta: float | Tensor) -> Tensor:
    """Spherical linear interpolation (Eq. 18): sin((1 - eta) theta) / sin(theta) a + sin(eta theta) / sin(theta) b.

    theta is the angle between the flattened samples `a[i]` and `b[i]`; samples whose |cos(theta)| exceeds 0.9995 are mixed linearly.
    Computed in float32 or better and returned in the inputs' dtype.

    Args:
        a, b: end points, (B, ...), same shape.
        eta: mixing ratio, 0 gives `a`, 1 gives `b`: one number, or a vector (N,).

    Returns:
        (B, ...) for one number, (N, B, ...) for a vector.
    """
    _check_same_shape("a", a, "b", b)
    dtype = torch.promote_types(a.dtype, torch.float32)
    ratio = torch.as_tensor(eta, dtype=dtype, device=a.device)
    if ratio.ndim > 1:
        raise ValueError(f"eta must be one number or a vector, not a tensor of shape {tuple(ratio.shape)}")
    x, y = a.to(dtype).flatten(1), b.to(dtype).flatten(1)  # (B, D)
    cos = torch.nn.functional.cosine_similarity(x, y, dim=1)[:, None]  # (B, 1)
    nearly_parallel = cos.abs() > SLERP_MAX_COS
    theta = torch.where(nearly_parallel, torch.ones_like(cos), cos.clamp(-1, 1).acos())  # the 1 keeps the unused branch finite
    ratio_ = ratio.reshape(-1, 1, 1)  # (N, 1, 1)
    weight_a = torch.where(nearly_parallel, 1 - ratio_, torch.sin((1 - ratio_) * theta) / torch.sin(theta))  # (N, B, 1)
    weight_b = torch.where(nearly_parallel, ratio_, torch.sin(ratio_ * theta) / torch.sin(theta))
    mixed = (weight_a * x + weight_b * y).to(a.dtype).reshape(-1, *a.shape)  # (N, B, ...)
    return mixed if ratio.ndim else mixed[0]


def ddim_scheduler(source: Any) -> "DDIMScheduler":
    """A fresh DDIMScheduler (Eq. 3) with Stable Diffusion's conventions: steps_offset 1, set_alpha_to_one False, no clipping.

    `source` is a pipeline, a scheduler, or a scheduler's config; its noise schedule, prediction type and spacing are kept.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(
        _scheduler_config(source), steps_offset=1, set_alpha_to_one=False, clip_sample=False, thresholding=False
    )


def ddim_inverse_scheduler(source: Any) -> "DDIMInverseScheduler":
    """A fresh DDIMInverseScheduler (Eq. 4), the exact reverse of `ddim_scheduler(source)` where the noise estimate agrees.

    Eq. 4 evaluates the noise at t; this scheduler, like the authors' code, evaluates it at the step's upper end, t + 1.
    """
    from diffusers import DDIMInverseScheduler

    config = _scheduler_config(source)
    spacing = config.get("timestep_spacing", "leading")
    if spacing not in ("leading", "trailing"):
        raise ValueError(f"timestep_spacing must be 'leading' or 'trailing' for DDIM inversion, not {spacing!r}")
    return DDIMInverseScheduler.from_config(config, steps_offset=1, set_alpha_to_one=False, clip_sample=False)


def set_timesteps(scheduler: Any, num_inference_steps: int, device: torch.device | str = "cpu") -> Tensor:
    """Set and return a scheduler's timesteps, (T,), after checking that every one of them was trained."""
    trained = scheduler.config.num_train_timesteps
    if not isinstance(num_inference_steps, int) or not 1 <= num_inference_steps <= trained:
        raise ValueError(f"num_inference_steps must be an integer from 1 to {trained}, not {num_inference_steps!r}")
    scheduler.set_timesteps(num_inference_steps, device=device)
    if int(scheduler.timesteps.max()) >= trained:  # e.g. 1000 of 1000 steps with steps_offset 1 asks for t = 1000
        raise ValueError(f"num_inference_steps must be below {num_inference_steps}: it asks for a timestep beyond the last trained one")
    return scheduler.timesteps


def _scheduler_config(source: Any) -> Mapping[str, Any]:
    source = getattr(source, "scheduler", source)
    config = getattr(source, "config", source)
    if not isinstance(config, Mapping):
        raise ValueError(f"source must be a pipeline, a scheduler or a scheduler's config, not {type(source).__name__}")
    return config


def _per_sample(value: float | Tensor, like: Tensor, name: str) -> Tensor:
    """`value` as a float32-or-better tensor that broadcasts over `like`, (B, ...): a scalar, or (B,) -> (B, 1, ..., 1)."""
    value = torch.as_tensor(value, device=like.device)
    value = value.to(torch.promote_types(like.dtype, torch.float32))
    if value.ndim == 0:
        return value
    if value.shape != like.shape[:1]:
        raise ValueError(f"{name} must be one number or one per sample ({like.shape[0]},), not of shape {tuple(value.shape)}")
    return value.reshape(-1, *[1] * (like.ndim - 1))


def _check_same_shape(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{name_a} and {name_b} must have one shape, not {tuple(a.shape)} and {tuple(b.shape)}")
