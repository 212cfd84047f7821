"""Diffusion arithmetic that diffusers leaves to its callers: x0_hat, eps, slerp, and the schedulers that sampling and inversion use.

`alpha_bar_t` is the cumulative product (the paper writes alpha_t); `s_t = sqrt(1 - alpha_bar_t)` is the noise level.
"""

import math
import warnings
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .schedules import ChainedDDIMInverseScheduler, ChainedDDIMScheduler

PredictionType = Literal["epsilon", "v_prediction", "sample"]
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")  # those that DDIMScheduler knows
SLERP_MAX_COS = 0.9995  # beyond this |cos| the sine in slerp's denominator loses its digits
SIGNAL_LEFT = 0.1  # sqrt(alpha_bar) of x_T above which noise is no sample of it; Stable Diffusion's 50 steps leave .076, 20 steps .090


def predict_x0(model_output: Tensor, x_t: Tensor, alpha_bar_t: float | Tensor, prediction_type: PredictionType = "epsilon") -> Tensor:
    """One-step estimate x0_hat (Sec. 3.2; Eq. 12 of DDIM).

    `epsilon`: (x_t - s_t eps) / sqrt(alpha_bar_t); `v_prediction`: sqrt(alpha_bar_t) x_t - s_t v; `sample`: the output itself.

    Args:
        model_output: the network's output, (B, ...), same shape as `x_t`.
        x_t: noisy latents, (B, ...).
        alpha_bar_t: cumulative product in (0, 1]: one number, or one per sample (B,). 0, pure noise, is allowed except for `epsilon`.
        prediction_type: what the network predicts (diffusers' `scheduler.config.prediction_type`).

    Returns:
        x0_hat, (B, ...); differentiable in `model_output` and `x_t`.

    Example:
        >>> import torch
        >>> from smoothlib import predict_x0
        >>> z0, eps = torch.ones(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
        >>> x_t = 0.36**0.5 * z0 + 0.64**0.5 * eps  # alpha_bar_t = 0.36
        >>> torch.allclose(predict_x0(eps, x_t, 0.36), z0, atol=1e-5)
        True
    """
    _check_prediction_type(prediction_type)
    _check_same_shape("model_output", model_output, "x_t", x_t)
    alpha_bar = _per_sample(alpha_bar_t, x_t, "alpha_bar_t", above_zero=prediction_type == "epsilon")
    if prediction_type == "sample":
        return model_output
    signal, noise = alpha_bar.sqrt().to(x_t.dtype), (1 - alpha_bar).sqrt().to(x_t.dtype)
    if prediction_type == "epsilon":
        return (x_t - noise * model_output) / signal
    return signal * x_t - noise * model_output


def predict_eps(model_output: Tensor, x_t: Tensor, alpha_bar_t: Tensor, prediction_type: PredictionType = "epsilon") -> Tensor:
    """The noise that a network means by its output, (B, ...), at the noise level that it was asked at.

    `epsilon`: the output itself; `v_prediction`: sqrt(alpha_bar_t) v + s_t x_t; `sample`: (x_t - sqrt(alpha_bar_t) x0_hat) / s_t.
    `alpha_bar_t` is a tensor that broadcasts over `x_t`, in [0, 1), 0 being pure noise.
    """
    _check_prediction_type(prediction_type)
    if prediction_type == "epsilon":
        return model_output
    signal, noise = alpha_bar_t**0.5, (1 - alpha_bar_t) ** 0.5
    return signal * model_output + noise * x_t if prediction_type == "v_prediction" else (x_t - signal * model_output) / noise


def predict_x0_flow(velocity: Tensor, x_t: Tensor, sigma: float | Tensor) -> Tensor:
    """One-step estimate x0_hat under flow matching: x_t = (1 - sigma) x0 + sigma eps, v = eps - x0, so x0_hat = x_t - sigma v.

    The noise level `sigma` in [0, 1] takes the place of s_t; one number, or one per sample (B,).
    """
    _check_same_shape("velocity", velocity, "x_t", x_t)
    return x_t - _per_sample(sigma, x_t, "sigma").to(x_t.dtype) * velocity


def slerp(a: Tensor, b: Tensor, eta: float | Tensor) -> Tensor:
    """Spherical linear interpolation (Eq. 18): sin((1 - eta) theta) / sin(theta) a + sin(eta theta) / sin(theta) b.

    theta is the angle between the flattened samples `a[i]` and `b[i]`; samples whose cos(theta) exceeds 0.9995 are mixed linearly.
    Computed in float32 or better and returned in the inputs' dtype.

    Args:
        a, b: end points, (B, ...), same shape.
        eta: mixing ratio in [0, 1], 0 gives `a`, 1 gives `b`: one number, or a vector (N,).

    Returns:
        (B, ...) for one number, (N, B, ...) for a vector.

    Raises:
        ValueError: bad arguments, or ends in opposite directions (cos(theta) below -0.9995), between which no arc is the shortest.

    Example:
        >>> import torch
        >>> from smoothlib import slerp
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> slerp(a, b, 0.5)
        tensor([[0.7071, 0.7071]])
        >>> slerp(a, b, torch.linspace(0, 1, 11)).shape
        torch.Size([11, 1, 2])
    """
    _check_same_shape("a", a, "b", b)
    check_finite("a", a)
    check_finite("b", b)
    dtype = torch.promote_types(a.dtype, torch.float32)
    ratio = torch.as_tensor(eta, dtype=dtype, device=a.device)
    if ratio.ndim > 1:
        raise ValueError(f"eta must be one number or a vector, not a tensor of shape {tuple(ratio.shape)}")
    if not ((ratio >= 0) & (ratio <= 1)).all():
        raise ValueError(f"eta is {ratio.tolist()}, but must be from 0 to 1")
    x, y = a.to(dtype).flatten(1), b.to(dtype).flatten(1)  # (B, D)
    cos = torch.nn.functional.cosine_similarity(x, y, dim=1)[:, None]  # (B, 1)
    if (opposite := cos < -SLERP_MAX_COS).any():
        i = int(opposite.flatten().nonzero()[0])
        raise ValueError(f"a and b point in opposite directions in sample {i} (cosine {cos[i].item():.4f}), but must span one shortest arc")
    nearly_parallel = cos > SLERP_MAX_COS
    theta = torch.where(nearly_parallel, torch.ones_like(cos), cos.clamp(-1, 1).acos())  # the 1 keeps the unused branch finite
    ratio_ = ratio.reshape(-1, 1, 1)  # (N, 1, 1)
    weight_a = torch.where(nearly_parallel, 1 - ratio_, torch.sin((1 - ratio_) * theta) / torch.sin(theta))  # (N, B, 1)
    weight_b = torch.where(nearly_parallel, ratio_, torch.sin(ratio_ * theta) / torch.sin(theta))
    mixed = (weight_a * x + weight_b * y).to(a.dtype).reshape(-1, *a.shape)  # (N, B, ...)
    return mixed if ratio.ndim else mixed[0]


def ddim_scheduler(source: Any) -> "ChainedDDIMScheduler":
    """A fresh DDIM scheduler (Eq. 3) with Stable Diffusion's conventions: steps_offset 1, set_alpha_to_one False, no clipping.

    `source` is a pipeline, a scheduler, or a scheduler's config; its noise schedule, prediction type and spacing are kept. Whatever the
    spacing, each step ends at the next timestep of the schedule.

    Raises:
        ValueError: `source` is no noise schedule that DDIM can step through, such as flow matching's or EDM's.
    """
    from .schedules import ChainedDDIMScheduler

    return ChainedDDIMScheduler.from_config(
        noise_schedule(source), steps_offset=1, set_alpha_to_one=False, clip_sample=False, thresholding=False
    )


def ddim_inverse_scheduler(source: Any) -> "ChainedDDIMInverseScheduler":
    """A fresh inverse DDIM scheduler (Eq. 4), the exact reverse of `ddim_scheduler(source)` where the noise estimate agrees.

    Eq. 4 evaluates the noise at t; this scheduler, like the authors' code, evaluates it at the step's upper end, t + 1.
    """
    from .schedules import ChainedDDIMInverseScheduler

    return ChainedDDIMInverseScheduler.from_config(noise_schedule(source), steps_offset=1, set_alpha_to_one=False, clip_sample=False)


def sampling_scheduler(pipe: Any) -> Any:
    """A fresh scheduler of the pipeline's kind and configuration (some carry state between steps); DDIM's steps are chained."""
    from diffusers import DDIMScheduler

    from .schedules import ChainedDDIMScheduler

    config = noise_schedule(pipe)
    return (ChainedDDIMScheduler if isinstance(pipe.scheduler, DDIMScheduler) else type(pipe.scheduler)).from_config(config)


def set_timesteps(scheduler: Any, num_inference_steps: int, device: torch.device | str = "cpu") -> Tensor:
    """Set and return a scheduler's timesteps, (T,), after checking that every one of them was trained."""
    trained = scheduler.config.num_train_timesteps
    if not isinstance(num_inference_steps, int) or not 1 <= num_inference_steps <= trained:
        raise ValueError(f"num_inference_steps must be an integer from 1 to {trained}, not {num_inference_steps!r}")
    scheduler.set_timesteps(num_inference_steps, device=device)
    timesteps = scheduler.timesteps
    if len(timesteps) != num_inference_steps:
        kind = type(scheduler).__name__
        raise ValueError(f"scheduler is {kind}, which takes {len(timesteps)} timesteps for {num_inference_steps}, but must take as many")
    if int(timesteps.max()) >= trained:  # e.g. 1000 of 1000 steps with steps_offset 1 asks for t = 1000
        raise ValueError(f"num_inference_steps must be below {num_inference_steps}: it asks for a timestep beyond the last trained one")
    return timesteps


def warn_of_signal(scheduler: Any, num_inference_steps: int) -> None:
    """Warn where the first timestep of the schedule that is set leaves so much signal that pure noise is no sample of x_T.

    "leading" spacing starts far below the last trained timestep where T is very small, or where N / T loses much by rounding down.
    """
    first = int(scheduler.timesteps.max())
    left, least = (float(scheduler.alphas_cumprod[t]) ** 0.5 for t in (first, -1))
    if left > max(SIGNAL_LEFT, 1.5 * least):
        warnings.warn(
            f"num_inference_steps is {num_inference_steps}: sampling starts at timestep {first}, where sqrt(alpha_bar) = {left:.3f} of the "
            f"signal is left ({least:.3f} at the last trained timestep), and pure noise has none",
            stacklevel=3,
        )


def noise_schedule(source: Any) -> Mapping[str, Any]:
    """The configuration of a pipeline, a scheduler, or that configuration itself, if DDIM can step through its noise schedule.

    Raises:
        ValueError: names the class and what it lacks: betas that DDIM knows, discrete timesteps, or one of the three prediction types.
    """
    scheduler = getattr(source, "scheduler", source)
    config = getattr(scheduler, "config", scheduler)
    if not isinstance(config, Mapping):
        raise ValueError(f"source must be a pipeline, a scheduler or a scheduler's config, not {type(source).__name__}")
    kind = config.get("_class_name", "a configuration") if scheduler is config else type(scheduler).__name__
    wanted = "but must have DDIM's kind of noise schedule (alphas_cumprod from betas), such as DDIMScheduler has"
    if scheduler is not config and not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(f"scheduler is {kind}, {wanted}")
    if config.get("trained_betas") is None and config.get("beta_schedule") not in BETA_SCHEDULES:
        raise ValueError(f"scheduler is {kind} with beta_schedule {config.get('beta_schedule')!r}, {wanted}")
    if config.get("use_flow_sigmas") or config.get("timestep_type", "discrete") != "discrete":
        raise ValueError(f"scheduler is {kind} with flow matching's or continuous noise levels, {wanted}")
    if (predicted := config.get("prediction_type", "epsilon")) not in PREDICTION_TYPES:
        raise ValueError(f"scheduler is {kind} with prediction_type {predicted!r}, but must have one of {', '.join(PREDICTION_TYPES)}")
    return config


def check_finite(name: str, tensor: Tensor) -> None:
    """ValueError where a tensor contains NaN or infinity."""
    if not tensor.isfinite().all():
        raise ValueError(f"{name} contains NaN or infinity, but must be finite")


def check_number(name: str, value: float, low: float = -math.inf, high: float = math.inf) -> None:
    """ValueError unless `value` is a finite number from `low` to `high`."""
    if not isinstance(value, Real) or not math.isfinite(value) or not low <= value <= high:
        allowed = "a finite number" if (low, high) == (-math.inf, math.inf) else f"a number from {low:g} to {high:g}"
        raise ValueError(f"{name} is {value!r}, but must be {allowed}")


def _check_prediction_type(prediction_type: str) -> None:
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be 'epsilon', 'v_prediction' or 'sample', not {prediction_type!r}")


def _per_sample(value: float | Tensor, like: Tensor, name: str, *, above_zero: bool = False) -> Tensor:
    """`value` in [0, 1] as a float32-or-better tensor that broadcasts over `like`, (B, ...): a scalar, or (B,) -> (B, 1, ..., 1)."""
    value = torch.as_tensor(value)
    if value.device.type == "cpu":  # reading values back from an accelerator would make every training step wait for it
        if not ((value > 0 if above_zero else value >= 0) & (value <= 1)).all():
            raise ValueError(f"{name} is {value.tolist()}, but must lie in {'(' if above_zero else '['}0, 1]")
    value = value.to(like.device)
    value = value.to(torch.promote_types(like.dtype, torch.float32))
    if value.ndim == 0:
        return value
    if value.shape != like.shape[:1]:
        raise ValueError(f"{name} must be one number or one per sample ({like.shape[0]},), not of shape {tuple(value.shape)}")
    return value.reshape(-1, *[1] * (like.ndim - 1))


def _check_same_shape(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{name_a} and {name_b} must have one shape, not {tuple(a.shape)} and {tuple(b.shape)}")
