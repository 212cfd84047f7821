"""The same network, run faster: blocks that are compiled, weights in half precision, channels last. What it computes stays what it was.

compile_blocks(pipe.unet)                        # in place: names, weights, adapters and hooks stay
fast = in_half_precision(pipe)                   # a pipeline for inversion and sampling whose network computes in bfloat16
round_frozen_weights(pipe.unet, torch.bfloat16)  # what autocast would do at every call, done once
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .denoiser import network_of

BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")  # nearly all of a UNet's work; transformers name theirs in `_repeated_blocks`
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
RECOMPILATIONS = 256  # a UNet's blocks have a dozen shapes, times batch sizes, with and without a gradient; torch's limit is 8


def compile_blocks(network: nn.Module, backend: str = "inductor", dynamic: bool | None = None) -> int:
    """Compile each block of `network` in place, and return their number: minutes less than compiling the whole, nearly as fast a result.

    The modules stay, with their names, weights and hooks. An adapter may be added or removed later: its block is compiled again. A second
    derivative through a compiled block does not exist in PyTorch, so that `double_backward` and `forward_mode` do not go with it.

    `dynamic` is `torch.compile`'s: None, sizes that change are compiled for any size; False, each size is compiled for itself, which is
    faster where few sizes of a batch occur.

    Raises:
        ValueError: the network has no such blocks.
    """
    names = (*BLOCKS, *(getattr(network, "_repeated_blocks", None) or ()))
    blocks = [module for module in network.modules() if type(module).__name__ in names]
    if not blocks:
        raise ValueError(f"network is {type(network).__name__}, but must have blocks to compile: {', '.join(dict.fromkeys(names))}")
    # the regularizer goes back through one graph twice, which a backward that reuses the forward's memory forbids
    torch._functorch.config.donated_buffer = False
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)
    accumulated = torch._dynamo.config.accumulated_recompile_limit
    torch._dynamo.config.accumulated_recompile_limit = max(accumulated, 4 * RECOMPILATIONS)
    for block in blocks:
        block.compile(backend=backend, dynamic=dynamic)
    return len(blocks)


def round_frozen_weights(network: nn.Module, dtype: torch.dtype) -> int:
    """Round, in place, the weights of linear layers and convolutions that take no gradient; the number of values that were.

    Autocast to `dtype` rounds the same weights at every use: under it, the network computes the same bits as before, with half the memory
    for weights and without the rounding's time. Normalisation layers keep their weights, as they do under autocast.
    """
    count = 0
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)
                    count += parameter.numel()
    return count


class InAutocast(nn.Module):
    """A network that computes under autocast to `dtype` and gives float32: to its callers it is a network in float32.

    Its `module` is the network itself. What a caller computes of the output, such as null-text inversion's loss, stays in float32, and so
    does what the gradient is taken of. The backward pass runs in the types of the forward, outside of autocast.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype = torch.bfloat16):
        super().__init__()
        self.module, self.half = module, dtype
        self.train(module.training)

    @property
    def dtype(self) -> torch.dtype:
        """Of what goes in and comes out."""
        return torch.float32

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)  # config, device, ...

    def forward(self, *arguments: Any, **named: Any) -> tuple[Tensor, ...]:
        with torch.autocast(self.device.type, self.half):
            return (self.module(*arguments, **named)[0].float(),)


def in_half_precision(pipe: Any, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A copy of a pipeline in float32, with the same modules, whose network computes in `dtype`: for `ddim_invert`, `sample` and others.

    Latents, embeddings, schedule and losses stay in float32. `pipe` itself stays as it is.

    Raises:
        ValueError: the pipeline is not in float32.
    """
    network = network_of(pipe)
    if network.dtype != torch.float32:
        raise ValueError(f"pipe is in {network.dtype}, but must be in float32: its network is given half precision here")
    fast = copy.copy(pipe)
    # past diffusers' own __setattr__, which would note the wrapper in the configuration that both share
    object.__setattr__(fast, "unet" if getattr(pipe, "unet", None) is not None else "transformer", InAutocast(network, dtype))
    return fast
