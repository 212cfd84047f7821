"""The schedulers that sampling and inversion use, the way from one latent to another (slerp), and checks of what comes in.

What a network's output means is in `predictions`, whose names can be imported from here too.
"""

import math
import warnings
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .predictions import PREDICTION_TYPES, check_same_shape
from .predictions import predict_eps as predict_eps
from .predictions import predict_x0 as predict_x0
from .predictions import predict_x0_flow as predict_x0_flow

if TYPE_CHECKING:
    from .schedules import ChainedDDIMInverseScheduler, ChainedDDIMScheduler

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")  # those that DDIMScheduler knows
SLERP_MAX_COS = 0.9995  # beyond this |cos| the sine in slerp's denominator loses its digits
SIGNAL_LEFT = 0.1  # sqrt(alpha_bar) of x_T above which noise is no sample of it; Stable Diffusion's 50 steps leave .076, 20 steps .090


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
    check_same_shape("a", a, "b", b)
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
