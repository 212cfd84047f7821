"""One step of null-text inversion (Eq. 19, 20): its loss as a function of the null embedding, and the optimiser that descends it.

`inversion.null_text_inversion` goes from step to step.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .denoiser import Added, call_network

if TYPE_CHECKING:
    from diffusers import DDIMScheduler


@dataclass(frozen=True)
class GuidedStep:
    """One guided DDIM step from fixed z_t and e_cond as a function of the null embedding: z_{t-1} and its loss, for some of the images."""

    network: torch.nn.Module
    scheduler: "DDIMScheduler"
    t: Tensor
    z: Tensor  # (B, 4, h, w)
    e_cond: Tensor  # (B, 4, h, w), no gradient
    target: Tensor  # (B, 4, h, w), z*_{t-1}
    guidance_scale: float
    null_added: Added  # of all images

    def __call__(self, null_embeds: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        z, e_cond = self.z[images], self.e_cond[images]
        added = {name: value[images] for name, value in self.null_added.items()}
        e_null = call_network(self.network, z, self.t, null_embeds, added)
        e = e_null + self.guidance_scale * (e_cond - e_null)
        z_next = self.scheduler.step(e, self.t, z, return_dict=False)[0]
        return z_next, (z_next - self.target[images]).square().mean(dim=(1, 2, 3))  # (A, 4, h, w), (A,)


def optimise(step: GuidedStep, nulls: list[Tensor], num_inner_steps: int, lr: float, threshold: float, where: str) -> list[int]:
    """Minimise `step`'s loss over `nulls` in place; returns the Adam steps taken by each.

    As released, a null embedding is updated once more by the gradient of the loss that meets the threshold. Adam is elementwise and skips
    leaves without a gradient, so one optimiser over all images acts on each as its own would.
    """
    batch_size, shared = len(step.z), len(nulls) == 1
    for null in nulls:
        null.requires_grad_(True)
    optimizer = torch.optim.Adam(nulls, lr=lr)
    taken = [0] * len(nulls)
    active = list(range(batch_size))
    for _ in range(num_inner_steps):
        optimizer.zero_grad()
        with torch.enable_grad():
            chosen = nulls[0].expand(len(active), -1, -1) if shared else torch.cat([nulls[b] for b in active])
            _, loss = step(chosen, torch.tensor(active, device=step.z.device))
            check_loss(loss, active, where)
            loss.sum().backward()
        optimizer.step()
        values = loss.detach().tolist()
        for b in [0] if shared else active:
            taken[b] += 1
        if shared:
            active = [] if sum(values) < threshold else active
        else:
            active = [b for b, value in zip(active, values, strict=True) if value >= threshold]
        if not active:
            break
    for null in nulls:
        null.requires_grad_(False).grad = None
    return taken


@contextlib.contextmanager
def frozen(module: torch.nn.Module) -> Iterator[None]:
    """No gradient for the parameters of `module` inside, their flags restored after: backward reaches the embedding alone."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def check_loss(loss: Tensor, images: Iterable[int], where: str) -> None:
    """RuntimeError where a loss (A,) is not finite; names the step and the images that it is of."""
    bad = [image for image, finite in zip(images, loss.isfinite().tolist(), strict=True) if not finite]
    if bad:
        raise RuntimeError(f"null-text inversion's loss is not finite at {where}, image {', '.join(map(str, bad))} of the batch")
