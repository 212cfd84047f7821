"""The Triton kernels are translated for GPUs, which needs none; what they compute, `test_second_order` asks the interpreter."""

import pytest

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from smoothlib.second_order import attention_kernel, gates, norm_kernel, row_kernel  # noqa: E402

IN_FLOAT32 = {"W", "B", "MEANS", "SUMS", "MEAN", "RSTD", "LSE", "ALPHA", "MU"}
SHARED = {80: 166_912, 90: 232_448}  # bytes of shared memory that a program may have, by compute capability
MOVES = dict(MOVES_KEY=True, MOVES_VALUE=True)


def kernels():
    """Name, kernel, its constants and options."""
    for padded, blocks in attention_kernel.BLOCKS.items():
        for name, (queries, keys, warps, stages) in blocks.items():
            constants = dict(BN=queries, BM=keys, D=padded, **MOVES)
            yield f"attention {name} {padded}", getattr(attention_kernel, name), constants, dict(num_warps=warps, num_stages=stages)
    tile = dict(BP=norm_kernel.PIXELS, BC=norm_kernel.CHANNELS, SILU=True)
    for what, found in ((norm_kernel.FORWARD, 2), (norm_kernel.BACKWARD, 2), (norm_kernel.SECOND, 5), (norm_kernel.SECOND_SILU, 2)):
        yield f"norm sums {what}", norm_kernel._partial, dict(WHAT=what, KNOWN=4, FOUND=found, **tile), {}
    yield "norm means", norm_kernel._finish, dict(BW=16), {}
    for what in (norm_kernel.FORWARD, norm_kernel.BACKWARD, norm_kernel.SECOND):
        yield f"norm {what}", norm_kernel._apply, dict(WHAT=what, **tile), {}
        yield f"row {what}", row_kernel._row, dict(WHAT=what, BC=512), {}
    for name in ("_forward", "_backward", "_second"):
        yield f"gate {name}", getattr(gates, name), dict(TILE=gates.TILE), {}


def kind(name: str, constants: dict) -> str:
    """Of an argument: pointers have names in capitals, and most point to float16."""
    if name in constants:
        return "constexpr"
    if name in ("eps", "scale"):
        return "fp32"
    if name[0].isupper() and name not in ("N", "M"):
        return "*fp32" if name in IN_FLOAT32 else "*fp16"
    return "i32"


@pytest.mark.parametrize("capability", SHARED)
def test_the_kernels_are_translated_and_fit_a_gpu(capability):
    for name, kernel, constants, options in kernels():
        signature = {argument: kind(argument, constants) for argument in kernel.arg_names}
        source = ASTSource(kernel, signature, constexprs=constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert "ptx" in compiled.asm and compiled.metadata.shared <= SHARED[capability], name
