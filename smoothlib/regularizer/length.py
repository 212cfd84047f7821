"""r = w ||J^T D||_2 (Eq. 10): the length that Step-wise Variation Regularization evens out, with a gradient by any of the five ways.

`variation` says what they are; what each needs is in `gradients`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .gradients import (
    STENCILS,
    Beside,
    Denoiser,
    Later,
    autocast_of_differences,
    check_gradient,
    check_precision,
    default_difference,
    directional_derivative,
    paired_evaluations,
    per_sample,
    product_scale,
    weighted_direction,
    wide,
)


def step_variation(
    denoise: Denoiser,
    eps: Tensor,
    direction: Tensor,
    weight: Tensor,
    *,
    gradient: str = "central",
    difference: float | None = None,
    difference_precision: str = "float32",
    parameters: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """r = w ||J^T D||_2 (Eq. 10) of each sample, (B,) and differentiable in the denoiser's weights, and the denoiser's output.

    Args:
        denoise: `eps -> (x0_hat, output)`; samples must not influence each other.
        eps: the noise in x_t, (B, ...).
        direction: D, (B, ...) in the space of x0_hat; a constant.
        weight: w of each sample, (B,).
        gradient: the way to the gradient of r, one of `GRADIENTS` (see `variation`).
        difference: length of the step along u as its root mean square over the values of eps, h / sqrt(dimension). The error grows with
            its square (`central`, `paired`) or with it (`one_sided`), that of rounding with 1 / difference. None: .001 for `central` and
            `paired` (.01 for evaluations in half precision), .0003 for `one_sided`, which has no good value in half precision. They suit
            the embedded model; `StepwiseVariation` measures instead.
        difference_precision: of the evaluations beside eps under autocast: `float32` (they leave it: as exact as the rounded u allows, and
            as dear as a step in float32) or `network` (they stay in it). `forward_mode` knows `float32` alone. In either case the backward
            pass belongs outside of autocast, as PyTorch says: inside, it rounds what the differences magnify.
        parameters: for `central` and `one_sided`, all leaves whose gradient through `denoise` is wanted. The evaluations beside eps then
            wait for the backward pass, and what else `denoise` depends on gets no gradient from them. None: they are evaluated at once.
            `paired` always evaluates at once; the output's gradient is then the mean of its two evaluations' (see `paired_evaluations`).

    Raises:
        ValueError: an option is not as above, or `one_sided` is asked for in half precision.
    """
    check_gradient(gradient, difference, difference_precision)
    check_precision(gradient, difference_precision, eps)
    h = (difference or default_difference(gradient, difference_precision, eps)) * math.sqrt(eps[0].numel())
    eps = eps.detach().requires_grad_()
    weighted = weighted_direction(direction, weight, eps)
    stencil = STENCILS.get(gradient) if parameters and gradient != "paired" else None
    # before the first evaluation: the backward pass runs what was made last first
    later = Later(denoise, eps.detach(), stencil, h, autocast_of_differences(difference_precision, eps)) if stencil else None
    derivative = Beside.apply(later, *parameters) if later else None
    with torch.enable_grad():
        x0_hat, output = denoise(eps)
        projected = (wide(x0_hat) * weighted).sum()
        exact, paired = gradient == "double_backward", gradient == "paired"
        scale = product_scale(eps)  # the way back scales the other factor of each second derivative down, the loss scale up again
        (product,) = torch.autograd.grad(projected * scale, eps, create_graph=exact, retain_graph=not paired)
        product = wide(product) / scale  # w J^T D, (B, ...)
        r = product.flatten(1).norm(dim=1)  # (B,)
        if exact:
            return r, output
        u = (product / per_sample(r.clamp_min(torch.finfo(r.dtype).tiny), eps)).to(eps.dtype)
        if paired:
            change, mean = paired_evaluations(denoise, eps.detach(), u, h, difference_precision)
            derivative = (change * weighted).flatten(1).sum(1)
            if mean is not None:  # the value at eps, with the gradient of the two points
                output = wide(output).detach() + (mean - mean.detach())
        elif later:
            later.u, later.weighted_direction = u, weighted
            if 0 in stencil:
                derivative = derivative + stencil[0] / h * (wide(x0_hat) * weighted).flatten(1).sum(1)
        else:
            change = directional_derivative(denoise, eps.detach(), x0_hat, u, gradient, h, difference_precision)  # J u, (B, ...)
            derivative = (wide(change) * weighted).flatten(1).sum(1)  # its gradient is r's
        return r + (derivative - derivative.detach()), output
