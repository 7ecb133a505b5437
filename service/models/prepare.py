"""Preparing a part of an artefact for the device that it runs on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# The profiling executor recompiles a function for the shapes of its first calls, which pauses serving whenever a batch
# has a new size. Forward passes are as fast without it.
torch._C._jit_set_profiling_executor(False)

#: Output channels up to which a transposed convolution is faster as a matrix product on a CPU (docs/decisions/0014).
FEW_CHANNELS = 4


def prepared(part: torch.jit.ScriptModule, device: torch.device) -> Callable[..., Any]:
    """One part, frozen: parameters become constants, and convolutions get their fastest memory layout.

    On a CPU, transposed convolutions to few channels become matrix products. Inputs and outputs are float32; the
    arithmetic inside is the artefact's choice.
    """
    placed = part.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    frozen: torch.jit.ScriptModule = torch.jit.freeze(placed)
    if device.type == "cpu":
        _use_products(frozen.graph)
    return frozen


def transposed_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], output_padding: list[int]
) -> Tensor:
    """``torch.nn.functional.conv_transpose2d`` as a matrix product followed by col2im, as in Caffe.

    Faster for few output channels, because oneDNN computes them in blocks of eight or sixteen.

    Shapes: x (batch, in, height, width) or (in, height, width); weight (in, out, kernel height, kernel width);
    result (batch, out, height, width).
    """
    height = (x.size(-2) - 1) * stride[0] - 2 * padding[0] + weight.size(2) + output_padding[0]
    width = (x.size(-1) - 1) * stride[1] - 2 * padding[1] + weight.size(3) + output_padding[1]
    columns = weight.flatten(1).t() @ x.flatten(-2)
    image = torch._C._nn.col2im(columns, [height, width], weight.shape[2:], [1, 1], padding, stride)
    return image if bias is None else image + bias.view(-1, 1, 1)


_product = torch.jit.script(transposed_convolution)


def _use_products(graph: torch._C.Graph) -> None:
    """Replace the transposed convolutions that ``transposed_convolution`` computes faster."""
    for node in graph.findAllNodes("aten::conv_transpose2d"):  # type: ignore[attr-defined]
        *operands, groups, dilation = node.inputs()
        plain = groups.toIValue() == 1 and dilation.toIValue() == [1, 1]
        if not (plain and _has_few_channels(operands[1].toIValue())):
            continue
        with graph.insert_point_guard(node):
            (image,) = graph.insertGraph(_product.graph, operands)
        node.output().replaceAllUsesWith(image)
        node.destroy()
    torch._C._jit_pass_constant_propagation(graph)  # fold what depends only on the weights
    torch._C._jit_pass_dce(graph)


def _has_few_channels(weight: object) -> bool:
    """Whether the weight of a transposed convolution is constant and has at most ``FEW_CHANNELS`` outputs."""
    return isinstance(weight, Tensor) and weight.shape[1] <= FEW_CHANNELS
