"""The one door to a network: how a UNet or a transformer is called, guided, and what its output says of the noise and of x0_hat.

Samplers, inversions and the regularizer know a network through these functions alone. It gives the noise (`epsilon`), `v_prediction` or
the clean `sample`, at levels that are alpha_bar_t; or `flow`, the velocity eps - x0, at levels that are sigma (x_t = (1 - sigma) x0 +
sigma eps). What it takes beside the prompt travels in `added`, name -> tensor with one row per sample: `text_embeds` and `time_ids` for
Stable Diffusion XL, `pooled_projections` for Stable Diffusion 3.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .predictions import PREDICTION_TYPES, level_like, predict_eps, predict_x0, predict_x0_flow

KINDS = (*PREDICTION_TYPES, "flow")
Added = Mapping[str, Tensor]


@dataclass(frozen=True)
class Estimate:
    """What one evaluation says: the network's own output, and the noise and the clean sample that it means, each (B, ...)."""

    output: Tensor
    eps: Tensor
    x0_hat: Tensor


def network_of(pipe: Any) -> nn.Module:
    """The denoising network of a diffusers pipeline: its `unet` or its `transformer`; TypeError as for `check_plain`."""
    check_plain(pipe)
    for name in ("unet", "transformer"):
        if (network := getattr(pipe, name, None)) is not None:
            return network
    raise ValueError(f"pipe is {type(pipe).__name__}, but must have a unet or a transformer")


def check_plain(pipe: Any) -> None:
    """TypeError for a pipeline with several text encoders (SDXL, SD3, FLUX): it takes more than a prompt, which a view of it carries."""
    if hasattr(pipe, "text_encoder_2"):
        wanted = "but must be a StableDiffusionPipeline, or the view that smoothlib.bases.views.base_view makes of a few others"
        raise TypeError(f"pipe is {type(pipe).__name__}, {wanted}")


def prediction_type_of(source: Any) -> str:
    """What the network of a pipeline, or of a scheduler, gives: one of `KINDS`."""
    scheduler = getattr(source, "scheduler", source)
    config = scheduler.config
    flow = type(scheduler).__name__.startswith("FlowMatch") or config.get("prediction_type") == "flow_prediction"
    return "flow" if flow else check_kind(config.get("prediction_type", "epsilon"))


def check_kind(prediction_type: str) -> str:
    """`prediction_type` itself; ValueError unless it is one of `KINDS`."""
    if prediction_type not in KINDS:
        raise ValueError(f"prediction_type is {prediction_type!r}, but must be one of {', '.join(KINDS)}")
    return prediction_type


def call_network(network: nn.Module, x_t: Tensor, t: Tensor | int, prompt_embeds: Tensor, added: Added | None = None) -> Tensor:
    """The network's own output at x_t (B, ...), shape of `x_t`; a variance that was learned beside it is left out.

    Args:
        network: a UNet, called as `network(x_t, t)`, or a transformer, whose input is named `hidden_states`; bare, compiled or wrapped.
        t: the time as the network was trained to read it, one number or one per sample (B,).
        prompt_embeds: (B, L, D).
        added: what else the network takes, see the module.

    Raises:
        ValueError: the network needs a condition that `added` lacks, or takes none of the name of one that it has.
    """
    inner = network
    while isinstance(wrapped := getattr(inner, "_orig_mod", getattr(inner, "module", None)), nn.Module):
        inner = wrapped  # torch.compile's or DistributedDataParallel's, whose own signature names nothing
    parameters = inspect.signature(inner.forward).parameters
    arguments = dict(encoder_hidden_states=prompt_embeds, return_dict=False, **_added_arguments(inner, parameters, added or {}))
    if next(iter(parameters)) == "hidden_states":
        time = torch.as_tensor(t, device=x_t.device).expand(len(x_t))  # transformers do not repeat one number themselves
        output = network(hidden_states=x_t, timestep=time, **arguments)[0]
    else:
        output = network(x_t, t, **arguments)[0]
    return output.chunk(2, dim=1)[0] if output.shape[1] == 2 * x_t.shape[1] else output


def predict_noise(
    unet: nn.Module,
    x_t: Tensor,
    t: Tensor | int,
    prompt_embeds: Tensor,
    null_embeds: Tensor | None = None,
    guidance_scale: float = 1.0,
    added: Added | None = None,
    null_added: Added | None = None,
) -> Tensor:
    """Classifier-free guidance (Eq. 5): e_null + w (e_cond - e_null), both from one batched call of the network.

    `x_t` (B, 4, h, w), embeddings (B, L, D). At w = 1 the null embedding has no weight and is not evaluated. Differentiable. The result is
    of the network's own kind: where that gives v, the sample or a velocity, the same line guides it, since the noise is linear in each.
    `added` are the prompt's conditions and `null_added` the empty prompt's (None: the same), see the module.
    """
    if guidance_scale == 1:
        return call_network(unet, x_t, t, prompt_embeds, added)
    both = torch.cat([null_embeds, prompt_embeds])  # (2B, L, D), the pipeline's order
    added = added or {}
    null_added = added if null_added is None else null_added
    added = {name: torch.cat([null_added[name], value]) for name, value in added.items()}
    t = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
    e_null, e_cond = call_network(unet, torch.cat([x_t, x_t]), t, both, added).chunk(2)
    return e_null + guidance_scale * (e_cond - e_null)


def estimate(output: Tensor, x_t: Tensor, level: float | Tensor, prediction_type: str = "epsilon") -> Estimate:
    """The noise and x0_hat that a network means by `output`, at the level that it was asked at.

    Args:
        output: of `call_network` or `predict_noise` at `x_t`, (B, ...).
        level: alpha_bar_t, for `flow` sigma; one number, or one per sample (B,). The noise of `epsilon` and `flow` is known at every level,
            that of the other two below alpha_bar_t = 1; x0_hat of `epsilon` above alpha_bar_t = 0.
        prediction_type: one of `KINDS`.

    Example:
        >>> import torch
        >>> from smoothlib.denoiser import estimate
        >>> x0, eps = torch.ones(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
        >>> found = estimate(eps - x0, 0.3 * x0 + 0.7 * eps, level=0.7, prediction_type="flow")
        >>> torch.allclose(found.x0_hat, x0, atol=1e-5), torch.allclose(found.eps, eps, atol=1e-5)
        (True, True)
    """
    if check_kind(prediction_type) == "flow":
        x0_hat = predict_x0_flow(output, x_t, level)
        return Estimate(output, x0_hat + output, x0_hat)
    x0_hat = predict_x0(output, x_t, level, prediction_type)
    return Estimate(output, predict_eps(output, x_t, level_like(level, x_t, "level").to(x_t.dtype), prediction_type), x0_hat)


def noised(z0: Tensor, eps: Tensor, level: float | Tensor, prediction_type: str = "epsilon") -> Tensor:
    """x_t (B, ...) at a level: sqrt(alpha_bar_t) z0 + s_t eps (Eq. 2); for `flow` (1 - sigma) z0 + sigma eps."""
    level = level_like(level, z0, "level").to(z0.dtype)
    if check_kind(prediction_type) == "flow":
        return (1 - level) * z0 + level * eps
    return level.sqrt() * z0 + (1 - level).sqrt() * eps


def denoiser_of_noise(
    network: nn.Module,
    z0: Tensor,
    t: Tensor,
    level: Tensor,
    prompt_embeds: Tensor,
    *,
    prediction_type: str = "epsilon",
    added: Added | None = None,
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """What `StepwiseVariation` regularizes: eps -> (x0_hat, output), each (B, ...), of x_t made from `z0` (B, ...) and eps.

    `t` (B,) is the time that the network reads, `level` (B,) that of x_t: alpha_bar_t, or sigma for `flow`.
    """

    def denoise(eps: Tensor) -> tuple[Tensor, Tensor]:
        x_t = noised(z0, eps, level, prediction_type)
        output = call_network(network, x_t, t, prompt_embeds, added)
        if prediction_type == "flow":
            return predict_x0_flow(output, x_t, level), output
        return predict_x0(output, x_t, level, prediction_type), output

    return denoise


def _added_arguments(network: nn.Module, parameters: Mapping[str, inspect.Parameter], added: Added) -> dict[str, Any]:
    """`added` as keyword arguments: those that `forward` names, and the others together as its `added_cond_kwargs`."""
    config, needed = getattr(network, "config", {}), []
    if config.get("addition_embed_type") == "text_time":
        needed = ["text_embeds", "time_ids"]
    elif "pooled_projections" in parameters:
        needed = ["pooled_projections"]
    elif config.get("use_additional_conditions"):
        needed = ["resolution", "aspect_ratio"]
    kind = type(network).__name__
    if missing := [name for name in needed if name not in added]:
        raise ValueError(f"added has {_listed(added)}, but must have {_listed(missing)} too for {kind}")
    rest = {name: value for name, value in added.items() if name not in parameters}
    if rest and "added_cond_kwargs" not in parameters:
        raise ValueError(f"added has {_listed(rest)}, but must have only what {kind} takes")
    arguments = {name: value for name, value in added.items() if name in parameters}
    # PixArt asks for the dictionary, and reads None from it, where it takes no conditions of its own
    if "use_additional_conditions" in config:
        rest = {"resolution": None, "aspect_ratio": None} | rest
    return arguments | ({"added_cond_kwargs": rest} if rest else {})


def _listed(names: Any) -> str:
    return ", ".join(names) or "nothing"
