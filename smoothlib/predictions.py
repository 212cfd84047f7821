"""What a network's output means: the noise and x0_hat, for each kind of output and at the noise level that the network was asked at.

`alpha_bar_t` is the cumulative product (the paper writes alpha_t); `s_t = sqrt(1 - alpha_bar_t)` is the noise level.
"""

from typing import Literal

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample"]
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


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
    check_same_shape("model_output", model_output, "x_t", x_t)
    alpha_bar = level_like(alpha_bar_t, x_t, "alpha_bar_t", above_zero=prediction_type == "epsilon")
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
    check_same_shape("velocity", velocity, "x_t", x_t)
    return x_t - level_like(sigma, x_t, "sigma").to(x_t.dtype) * velocity


def _check_prediction_type(prediction_type: str) -> None:
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be 'epsilon', 'v_prediction' or 'sample', not {prediction_type!r}")


def level_like(value: float | Tensor, like: Tensor, name: str, *, above_zero: bool = False) -> Tensor:
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


def check_same_shape(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """ValueError where two tensors that belong together differ in shape."""
    if a.shape != b.shape:
        raise ValueError(f"{name_a} and {name_b} must have one shape, not {tuple(a.shape)} and {tuple(b.shape)}")
