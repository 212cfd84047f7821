"""How the denoising objective computes, apart from what: precision of frozen weights, layout, compiled blocks, what is kept on the disk.

The defaults compute as ever. None of the others changes what is learned but by rounding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from smoothlib.execution import HALF, compile_blocks, round_frozen_weights
from smoothlib.second_order.network import fuse_second_order

from ...base.config import ConfigurationError

DTYPES = ("float32", "bfloat16", "float16")
MIXED = {"bfloat16": "bf16", "float16": "fp16"}  # the mixed precision whose activations have the type
DIFFERENTIATED_TWICE = ("double_backward", "forward_mode")


@dataclass(frozen=True)
class Execution:
    """Settings of `objective_options.execution`.

    Raises:
        ValueError: `frozen_dtype` is unknown.
    """

    frozen_dtype: str = "float32"  # of the UNet's frozen linear layers and convolutions; what autocast would round at every use, once
    tf32: bool = False  # products of matrices by TensorFloat-32, as PyTorch has its convolutions anyway: 10 bits of each factor
    channels_last: bool = False  # the layout that convolutions are fastest in on a GPU
    compile_blocks: bool = False  # the UNet's attention and residual blocks by torch.compile; the first steps take minutes
    compile_backend: str = "inductor"
    fused_second_order: bool = False  # layers whose second derivatives hold no N x N attention, see `smoothlib.second_order`
    fused_optimizer: bool = False  # AdamW in one kernel for all weights
    cache_latents: bool = False  # the posteriors of pictures in runs/latents, in half precision, encoded when first due
    cache_embeddings: bool = False  # the captions' embeddings in runs/embeddings: 236 kB a caption for Stable Diffusion 1.5

    def __post_init__(self) -> None:
        if self.frozen_dtype not in DTYPES:
            raise ValueError(f"execution.frozen_dtype must be one of {', '.join(DTYPES)}, got {self.frozen_dtype!r}")

    def check(self, trainable: str, lora_layers: str, data: str | None, gradient: str | None, checkpointing: bool) -> None:
        """ValueError where the settings do not go with what is trained; `gradient`: the regularizer's way, None without one."""
        if checkpointing and gradient == "forward_mode":
            raise ValueError("gradient must be central, one_sided or double_backward with gradient_checkpointing, got 'forward_mode'")
        if self.frozen_dtype != "float32" and trainable != "lora":
            raise ValueError(f"execution.frozen_dtype must be float32 unless trainable is lora, got {self.frozen_dtype!r}")
        if self.compile_blocks and gradient in DIFFERENTIATED_TWICE:
            raise ValueError(f"gradient must be central, one_sided or paired with execution.compile_blocks, got {gradient!r}")
        if self.fused_second_order:
            self._check_fused(trainable, lora_layers, gradient)
        if self.cache_latents and (trainable == "all" or not data):
            raise ValueError("execution.cache_latents needs pictures and a frozen encoder: set data, and trainable to lora or unet")
        if self.cache_embeddings and trainable == "all":
            raise ValueError("execution.cache_embeddings needs a frozen text encoder: set trainable to lora or unet")

    def _check_fused(self, trainable: str, lora_layers: str, gradient: str | None) -> None:
        if trainable != "lora" or lora_layers != "attention":
            found = f"trainable {trainable!r} and lora_layers {lora_layers!r}"
            raise ValueError(f"execution.fused_second_order needs trainable lora and lora_layers attention, got {found}")
        if gradient not in (None, "double_backward"):
            raise ValueError(f"gradient must be double_backward with execution.fused_second_order, got {gradient!r}")
        if self.compile_blocks:
            raise ValueError("execution.compile_blocks must be false with execution.fused_second_order: it has no second derivatives")

    def apply(self, unet: nn.Module, checkpointing: bool) -> None:
        """Change the UNet in place; `checkpointing`: recompute its activations in backward."""
        if checkpointing:
            unet.enable_gradient_checkpointing()
        if self.tf32:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        if self.frozen_dtype != "float32":
            round_frozen_weights(unet, HALF[self.frozen_dtype])
        if self.channels_last:
            unet.to(memory_format=torch.channels_last)
        if self.fused_second_order:
            fuse_second_order(unet)
        if self.compile_blocks:
            compile_blocks(unet, self.compile_backend)


def check_precision_of(mixed_precision: str, options: Mapping[str, Any]) -> None:
    """Raise unless frozen weights in half precision meet activations of the same type, in all of the step.

    Raises:
        ConfigurationError: one sentence says which setting does not go with it.
    """
    execution = options.get("execution") or {}
    dtype = execution.get("frozen_dtype", "float32") if isinstance(execution, Mapping) else "float32"
    if not isinstance(dtype, str) or dtype not in MIXED:
        return  # float32, or what `Execution` refuses
    if mixed_precision != MIXED[dtype]:
        raise ConfigurationError(f"mixed_precision is {mixed_precision!r}, but must be {MIXED[dtype]} with execution.frozen_dtype={dtype}")
    regularizer = options.get("regularizer") or {}
    if not isinstance(regularizer, Mapping):
        return  # the objective refuses it
    gradient = regularizer.get("gradient") or ("double_backward" if regularizer.get("mode") == "official" else "central")
    differs = options.get("regularization") and gradient != "double_backward"
    if differs and regularizer.get("difference_precision", "float32") != "network":
        raise ConfigurationError(
            f"objective_options.regularizer.difference_precision is 'float32', but must be network with execution.frozen_dtype={dtype}: "
            "differences in float32 need the weights in float32"
        )
