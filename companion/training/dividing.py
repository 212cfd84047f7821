"""What several processes hold, and how they average their gradients: all of the model (DDP), or a part of its frozen weights each (FSDP).

`accelerate launch --use_fsdp` asks for the second. What is trained, a LoRA, stays whole in every process: the regularizer, the checkpoint
and the export see the same tensors as in a training of one process, and gradients are averaged once a step. The frozen weights, which are
nearly all of the model, are divided by PyTorch's `fully_shard`: a block's are gathered when the block is due, and given away after it.
"""

import os
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, broadcast
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ..base.config import ConfigurationError
from .objectives import Objective
from .precision import computes_in_float16

ASKED = "ACCELERATE_USE_FSDP"  # set by `accelerate launch --use_fsdp`
GRADIENTS = ("central", "one_sided")  # ways to the regularizer's gradient that are forwards and backwards one after another


def prepared(objective: Objective, mixed_precision: str) -> tuple[Accelerator, nn.Module, bool]:
    """The accelerator, the objective as it is called (placed, under autocast, one with the other processes'), and whether it is divided.

    Raises:
        ConfigurationError: accelerate would divide the model in another way, or the objective cannot be divided.
    """
    buffers = DistributedDataParallelKwargs(broadcast_buffers=False)  # running means are each process's, or reduced where they are made
    asked = os.environ.pop(ASKED, "").lower() == "true"  # accelerate would divide what is trained, too
    float16 = mixed_precision == "fp16"
    accelerator = Accelerator(
        mixed_precision="no" if float16 else mixed_precision, cpu=not torch.cuda.is_available(), kwargs_handlers=[buffers]
    )
    check_whole(accelerator.distributed_type)
    divided = asked and accelerator.num_processes > 1
    if divided:
        check_divisible(objective, mixed_precision)
    if float16:
        computes_in_float16(objective, accelerator.device)
    if not divided:
        return accelerator, accelerator.prepare(objective), False
    model = accelerator.prepare_model(objective, evaluation_mode=True)  # without DDP, which would want whole weights
    trained = [p for p in objective.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data.copy_(broadcast(parameter.detach()))
    unet, mesh = objective.unet, init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in [*unet.down_blocks, unet.mid_block, *unet.up_blocks, unet]:
        fully_shard(block, mesh=mesh, ignored_params=set(trained))
    return accelerator, model, True


def average_gradients(accelerator: Accelerator, parameters: Sequence[Tensor]) -> None:
    """The mean over processes of what each has in `grad`, in one message."""
    flat = accelerator.reduce(torch.cat([p.grad.flatten() for p in parameters]), "mean")
    for parameter, mean in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad.copy_(mean.view_as(parameter))


def check_whole(kind: DistributedType) -> None:
    """Every process must hold the whole of what is trained: the regularizer's differences and the checkpoint are of whole parameters.

    Raises:
        ConfigurationError: accelerate divides the model itself (DeepSpeed, Megatron-LM, FSDP by a plugin).
    """
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ConfigurationError(
            f"distributed_type is {kind.value}, but must be MULTI_GPU (DDP), MULTI_CPU or NO: what is trained is not divided between "
            "processes, and `accelerate launch --use_fsdp` divides the frozen weights alone"
        )


def check_divisible(objective: Objective, mixed_precision: str = "no") -> None:
    """Raises ConfigurationError unless a LoRA on a UNet is trained, without second derivatives and not in float16."""
    if mixed_precision == "fp16":
        raise ConfigurationError(
            "mixed_precision is 'fp16', but must be 'no' or 'bf16' with --use_fsdp: the loss scale is not built for it"
        )
    if (trainable := getattr(objective, "trainable", None)) != "lora":
        raise ConfigurationError(f"trainable is {trainable!r}, but must be 'lora' with --use_fsdp: it divides frozen weights")
    gradient = getattr(objective.regularizer, "gradient", None)
    if gradient is not None and gradient not in GRADIENTS:
        raise ConfigurationError(f"gradient is {gradient!r}, but must be {' or '.join(GRADIENTS)} with --use_fsdp")
