"""The optimisation of one noisy latent that pulls points of a picture to other places: motion supervision and point tracking in turn."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..denoiser import call_network
from ..diffusion import ddim_scheduler, set_timesteps
from ..null_text import frozen
from . import layers
from .attention import feature_hooks
from .drag_points import DragPoints
from .drag_settings import Drag
from .image_lora import ImageLoras, acting
from .motion_supervision import motion_loss
from .point_tracking import at_cells, resized, to_cells, to_pixels, track

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Report = Callable[[int, float], None]  # number of updates, mean distance left in pixels


@dataclass(frozen=True)
class Optimised:
    """What `optimise` found; `latents` by number of updates."""

    latents: dict[int, Tensor]  # each (B, 4, h, w)
    points: Tensor
    distances: Tensor
    iterations: Tensor


@contextmanager
def followed_features(unet: nn.Module) -> Iterator[Callable[[tuple[int, int]], Tensor]]:
    """Inside, the features of the network's latest call, (B, C, *grid), are those that the given function returns."""
    latest: list[Tensor] = []

    def keep(module: nn.Module, output: Any) -> None:
        latest[:] = [output]

    with feature_hooks([layers.drag_features(unet)], keep):
        yield lambda grid: resized(latest[0], grid)


def optimise(
    pipe: "StableDiffusionPipeline",
    original: Tensor,
    embeds: Tensor,
    points: DragPoints,
    settings: Drag,
    lora: ImageLoras | None = None,
    *,
    keep: Sequence[int] = (),
    report: Report | None = None,
) -> Optimised:
    """Motion supervision and point tracking: the latents after `settings.iterations` updates, and after those numbers that `keep` has.

    Images are independent: Adam is elementwise, and one whose handles have all arrived keeps its latent and leaves the batch.

    Args:
        original: z_t from `invert`, (B, 4, h, w).
        points: on the pipeline's device.

    Raises:
        ValueError: `keep` has a number beyond `settings.iterations`.
        RuntimeError: a loss is not finite; says after how many updates.
    """
    if wrong := [number for number in keep if not 0 <= number <= settings.iterations]:
        raise ValueError(f"keep has {wrong[0]}, but must have numbers from 0 to iterations = {settings.iterations}")
    wanted = {*keep, settings.iterations}
    found, distances, taken = {}, [], torch.zeros(len(original), dtype=torch.long)
    pull = _Pull(pipe, original, embeds, points, settings, lora)
    with frozen(pipe.unet):
        for i in range(settings.iterations + 1):
            if i in wanted:
                found[i] = pull.latents()
            distances.append(pull.look(update=i < settings.iterations))
            if report is not None:
                report(i, float(distances[-1].mean()))
            taken[pull.active] += i < settings.iterations
    return Optimised(found, pull.points(), torch.stack(distances), taken)


class _Pull:
    """The latents of a batch while they are optimised, and where their handles are."""

    def __init__(self, pipe: Any, original: Tensor, embeds: Tensor, points: DragPoints, settings: Drag, lora: ImageLoras | None) -> None:
        self.unet, self.embeds, self.goal, self.settings, self.lora = pipe.unet, embeds, points, settings, lora
        self.scheduler = ddim_scheduler(pipe)
        timesteps = set_timesteps(self.scheduler, settings.num_inference_steps, original.device)
        self.t = timesteps[settings.num_inference_steps - settings.steps_up]
        self.grid = (points.size[0] // 2, points.size[1] // 2)
        self.cells, self.targets = (to_cells(p, points.size, self.grid) for p in (points.handles, points.targets))
        self.outside = points.outside(tuple(original.shape[2:]))
        self.parts = [z.detach().clone()[None].requires_grad_(True) for z in original]
        self.optimizer = torch.optim.Adam(self.parts, lr=settings.lr)
        self.active = list(range(len(original)))
        self.updates = 0
        self.wanted: Tensor | None = None  # features of the handles at the start, (B, C, N)
        self.before: Tensor | None = None  # z_{t-1} at the start

    def latents(self) -> Tensor:
        return torch.cat(self.parts).detach().clone()

    def points(self) -> Tensor:
        pixels = to_pixels(self.cells, self.goal.size, self.grid)
        return pixels * self.goal.given[..., None]

    def look(self, *, update: bool) -> Tensor:
        """Follow the handles of the images still active, retire those that have arrived, and, with `update`, move the others' latents.

        Returns the mean distance left of every image before the update, (B,) on the CPU.
        """
        if self.active:
            index = self.active
            with torch.set_grad_enabled(update):
                features, below = self._network(torch.cat([self.parts[b] for b in index]))
                if self.wanted is None:
                    self.wanted, self.before = at_cells(features.detach(), self.cells), below.detach()
                else:
                    self.cells[index] = track(features.detach(), self.wanted[index], self.cells[index], self.settings.tracking_radius)
                left = (self.targets - self.cells).norm(dim=-1)
                moves = self.goal.given & (left >= self.settings.reach)
                going = moves[index].any(dim=1).tolist()
                if update and any(going):
                    self._move(features, below, moves, going)
            staying = [place for place, goes in enumerate(going) if goes]
            if self.lora is not None and 0 < len(staying) < len(index):
                self.lora = self.lora.of(staying)
            self.active = [index[place] for place in staying]
        return self.goal.mean_distance(to_pixels(self.cells, self.goal.size, self.grid)).cpu()

    def _network(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Features on the grid and the next latent, of the active images."""
        with acting(self.lora, self.unet, self.settings.lora_strength), followed_features(self.unet) as features:
            e = call_network(self.unet, z, self.t, self.embeds[self.active].to(z))
            return features(self.grid), self.scheduler.step(e, self.t, z, return_dict=False)[0]

    def _move(self, features: Tensor, below: Tensor, moves: Tensor, going: list[bool]) -> None:
        index = self.active
        loss = motion_loss(features, self.cells[index], self.targets[index], moves[index], self.settings.motion_radius)
        if self.outside is not None:
            change = (below - self.before[index]) * self.outside[index]
            loss = loss + self.settings.mask_weight * change.abs().sum(dim=(1, 2, 3))
        if not loss.isfinite().all():
            raise RuntimeError(f"the loss of the drag is not finite after {self.updates} updates")
        self.updates += 1
        self.optimizer.zero_grad()
        loss.sum().backward()
        for b, goes in zip(index, going, strict=True):
            if not goes:
                self.parts[b].grad = None  # Adam would move it on by its momentum
        self.optimizer.step()
