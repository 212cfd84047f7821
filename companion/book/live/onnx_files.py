"""Networks as ONNX files: exported by PyTorch, their weights stored in half precision where that is asked for.

The arithmetic stays in single precision: a stored half is converted back when the file is loaded.
"""

import io
import warnings

import numpy as np
import torch
from torch import Tensor, nn

OPSET = 17
LARGEST_HALF = 65504.0
SMALL = 64  # tensors of fewer values stay as they are: they are constants of the arithmetic, not weights


def onnx_bytes(network: nn.Module, inputs: dict[str, Tensor], output: str, *, half: bool) -> bytes:
    """The ONNX file of `network`, called with `inputs` in their order; the first axis of each, and of the output, may have any length."""
    file = io.BytesIO()
    axes = {name: {0: "batch"} for name in (*inputs, output)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter: its deprecation, and shapes that it takes for constants, which they are
        torch.onnx.export(
            network.eval(), tuple(inputs.values()), file, dynamo=False, opset_version=OPSET,
            input_names=list(inputs), output_names=[output], dynamic_axes=axes,
        )  # fmt: skip
    return halved(file.getvalue()) if half else file.getvalue()


def halved(content: bytes) -> bytes:
    """The same file with each weight stored as float16 and a cast behind it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_model_from_string(content)
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims, dtype=int) < SMALL:
            continue
        name, values = weight.name, numpy_helper.to_array(weight)
        if np.abs(values).max() > LARGEST_HALF:
            raise ValueError(
                f"weight {name} reaches {np.abs(values).max():.4g}, but must be at most {LARGEST_HALF:.0f} to be stored in half precision"
            )
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + "_half"))
        casts.append(helper.make_node("Cast", [name + "_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()
