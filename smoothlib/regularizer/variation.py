r"""Step-wise Variation Regularization (Sec. 3.3, Eq. 8-14): equal steps in the noise should make equal steps in the estimate x0_hat.

With x_t = sqrt(alpha_bar_t) z0 + s_t eps, J = d x0_hat / d eps and a random direction D of unit length in the space of x0_hat,

    r = w(s_t) ||J^T D||_2,    L_reg = mean (r - a)^2    (Eq. 9; w(s) = s),    L = L_base + lambda L_reg    (Eq. 14),

where `a` is the running mean of r. J^T D is one vector-Jacobian product (Eq. 10). L_reg's own gradient asks for a derivative of it:

- `double_backward` differentiates the product itself. Exact; needs attention with a second derivative (PyTorch's math kernel).
- `central` and `one_sided` use that, with u = J^T D / ||J^T D|| held fixed, d ||J^T D|| / d theta = d (D . J u) / d theta, and J u is a
  directional derivative: (x0_hat(eps + h u) - x0_hat(eps - h u)) / 2h, or the one-sided difference. Ordinary forwards and one ordinary
  backward, so that fused attention, gradient checkpointing and torch.compile all work.
- `forward_mode` is their limit h -> 0: J u by forward-mode differentiation, then one backward. Exact; needs the math kernel too.
- `paired` is `central` with L_base on board: the output at eps takes its gradient from the mean of the outputs at eps + h u and eps - h u,
  which is right to O(h^2), as the difference is. The graph at eps then serves u alone, and both points are one batch: a forward and a
  backward for u, a forward and a backward of twice the batch. With frozen weights, where a backward costs what a forward does, that is 3
  times a plain step instead of 3.5, in twice as many launches instead of 3.5 times as many. It holds the graph of twice the batch.

All five have the same r; only the way to its gradient differs, and with it the gradient's error. With the step chosen by measurement
(`difference="auto"`, see `step_choice`) the differences err by less than 1 % in float32, on training images of the embedded model; in
bfloat16, u itself is rounded, and even `double_backward` errs by 3 to 6 %. `python -m benchmarks.gradient_error` measures them all.
The value of J u is not needed, only its gradient. If `parameters` is given, the evaluations of the differences are therefore deferred to
the backward pass, after the first graph has been freed. r is in `length`, all but `double_backward` in `gradients`.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .gradients import Denoiser, check_gradient
from .length import step_variation
from .step_choice import StepChoice

MODES = ("paper", "official")
WEIGHTINGS = {"multiply": 1, "none": 0, "divide": -1}  # exponent of the noise level in w


@dataclass(frozen=True)
class Variation:
    """What `StepwiseVariation` returns: L_reg, r of each sample (B,), detached, the running mean and the denoiser's second output."""

    loss: Tensor
    r: Tensor
    running_mean: Tensor
    output: Tensor


def unit_directions(noise: Tensor) -> Tensor:
    """Delta x0_hat of Eq. 9: Gaussian `noise` (B, ...) scaled to unit Euclidean length per sample."""
    return noise / noise.flatten(1).norm(dim=1).reshape(-1, *[1] * (noise.ndim - 1))


def sqrt_dimension_directions(noise: Tensor) -> Tensor:
    """The released code's Delta x0_hat: Gaussian `noise` (B, ...) over the square root of its size, of unit length only in expectation."""
    return noise / math.sqrt(noise[0].numel())


class StepwiseVariation(nn.Module):
    """L_reg of Eq. 9 with its running mean.

    `mode="paper"` follows the paper: D has unit length; the mean `a` is a target and not differentiated, starts at the first mean of r and
    is the same on all processes. `mode="official"` follows the released code: D has unit length only in expectation; `a` starts at 0, stays
    in the graph (its update's share of the gradient is kept), and each process has its own (a resumed run goes on with the first one's).

    Args:
        mode: `paper` or `official`.
        weighting: w(s) = s (`multiply`, Eq. 9), 1 (`none`) or 1 / s (`divide`).
        gradient: the way to the gradient, see the module; None takes `double_backward` for `official`, else `central`.
        difference: step of the difference quotients, see `step_variation`; `auto` chooses it by measurement (`step_choice`) on the first
            batch in training mode and on every `difference_every`-th after it. A measurement costs about five batches. Before the first,
            and where no parameters are told, the defaults of `step_variation` hold.
        difference_every: number of batches from one measurement to the next.
        difference_precision: `float32` or `network`, see `step_variation`.
        decay: share of the new mean in each update of `a`.
        timestep_bins: number of equal intervals of diffusion time with a running mean of their own; 1 is the paper's single mean.

    The running mean, the chosen step and the count of batches are buffers: saving and loading the module's state keeps them.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> from smoothlib import StepwiseVariation
        >>> gain = torch.tensor(2.0, requires_grad=True)
        >>> regularizer = StepwiseVariation(difference=0.01)
        >>> eps, direction, level, time = torch.randn(4, 8), torch.randn(4, 8), torch.full((4,), 0.5), torch.full((4,), 0.3)
        >>> found = regularizer(lambda eps: (gain * eps, None), eps, level, time, direction)
        >>> torch.allclose(found.r, torch.ones(4))  # s ||J^T D|| = 0.5 * 2
        True
    """

    def __init__(
        self,
        mode: str = "paper",
        weighting: str = "multiply",
        gradient: str | None = None,
        difference: float | str = "auto",
        difference_every: int = 100,
        difference_precision: str = "float32",
        decay: float = 0.01,
        timestep_bins: int = 1,
    ):
        super().__init__()
        gradient = gradient or ("double_backward" if mode == "official" else "central")
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
        if not 0 < decay <= 1:
            raise ValueError(f"decay must lie in (0, 1], got {decay}")
        for name, value in (("timestep_bins", timestep_bins), ("difference_every", difference_every)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        check_gradient(gradient, difference, difference_precision, auto=True)
        self.mode, self.weighting, self.gradient, self.decay = mode, weighting, gradient, decay
        self.difference_precision = difference_precision
        self.register_buffer("running_mean", torch.zeros(timestep_bins))  # a
        self.register_buffer("started", torch.full((timestep_bins,), mode == "official"))  # bins whose mean is not to be initialised
        self.step_choice = StepChoice(difference, difference_every)

    def attention_kernel(self) -> AbstractContextManager:
        """Context for the whole training step, backward included: PyTorch's math attention where the gradient needs it."""
        needs_math = self.gradient in ("double_backward", "forward_mode")
        return sdpa_kernel(SDPBackend.MATH) if needs_math else contextlib.nullcontext()

    def forward(
        self,
        denoise: Denoiser,
        eps: Tensor,
        noise_level: Tensor,
        time: Tensor,
        direction_noise: Tensor,
        parameters: Sequence[Tensor] | None = None,
        measured: Sequence[Tensor] | None = None,
    ) -> Variation:
        """L_reg of a batch; in training mode the running mean moves first, as in the released code.

        Args:
            denoise: `eps -> (x0_hat, output)`, see `step_variation`.
            eps: noise, (B, ...).
            noise_level: s_t = sqrt(1 - alpha_bar_t), or sigma under flow matching, (B,) in (0, 1].
            time: diffusion time t / T, (B,) in [0, 1).
            direction_noise: Gaussian noise that becomes D, (B, ...).
            parameters: what is trained, to save memory (see `step_variation`) and to measure the step by.
            measured: leaves to measure the step by where `parameters` is not given.
        """
        directions = unit_directions if self.mode == "paper" else sqrt_dimension_directions
        direction, weight = directions(direction_noise.float()), noise_level.float() ** WEIGHTINGS[self.weighting]
        bins = (time * len(self.running_mean)).long().clamp(0, len(self.running_mean) - 1).to(self.running_mean.device)
        if self.training:
            known = torch.where(self.started, self.running_mean, torch.nan)[bins]
            ways = dict(gradient=self.gradient, precision=self.difference_precision, parameters=parameters or measured)
            self.step_choice.measure(denoise, eps, direction, weight, lambda r: r - torch.where(known.isnan(), r.mean(), known), **ways)
        ways = dict(gradient=self.gradient, difference=self.step_choice.step, difference_precision=self.difference_precision)
        r, output = step_variation(denoise, eps, direction, weight, parameters=parameters, **ways)
        r = r.to(self.running_mean.dtype)
        mean = self._moved_mean(r, bins) if self.training else self.running_mean
        if self.training:
            self.running_mean.copy_(mean.detach())
        target = mean[bins] if self.mode == "official" else mean[bins].detach()
        return Variation((r - target).square().mean(), r.detach(), mean.detach().mean(), output)

    def take_up(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of an earlier run; ValueError for that of an earlier version, which measured no steps."""
        if missing := sorted(self.state_dict().keys() - state.keys()):
            raise ValueError(f"the checkpoint's regularizer lacks {', '.join(missing)}: it is of an earlier version, choose another name")
        self.load_state_dict(state)

    def _moved_mean(self, r: Tensor, bins: Tensor) -> Tensor:
        """a + decay (mean r - a) for each bin that occurs in the batch; the first mean where there is none yet."""
        total = torch.zeros_like(self.running_mean).index_add(0, bins, r)
        count = torch.zeros_like(self.running_mean).index_add(0, bins, torch.ones_like(r))
        if self.mode == "paper" and dist.is_available() and dist.is_initialized():
            total = total.detach()
            dist.all_reduce(total)
            dist.all_reduce(count)
        batch_mean, seen, started = total / count.clamp_min(1), count > 0, self.started.clone()
        self.started |= seen
        before = self.running_mean.clone()  # `official` keeps the update in its graph while the buffer changes
        moved = torch.where(started, before + self.decay * (batch_mean - before), batch_mean)
        return torch.where(seen, moved, before)
