"""How a part of an artefact is prepared for the device that it runs on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# The profiling executor watches a function's first calls and compiles it anew for the shapes it has seen: a pause in
# the middle of serving whenever a batch has another size. Calls are as fast without it.
torch._C._jit_set_profiling_executor(False)

#: Output channels up to which a transposed convolution is quicker as a product on a CPU (docs/decisions/0014).
FEW_CHANNELS = 4


def prepared(part: torch.jit.ScriptModule, device: torch.device) -> Callable[..., Any]:
    """One part, frozen: parameters become constants, and convolutions get the memory layout they are fastest in.

    On a CPU its transposed convolutions to few channels become products. Its arithmetic type is the artefact's own
    affair: it takes and gives float32.
    """
    placed = part.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    frozen: torch.jit.ScriptModule = torch.jit.freeze(placed)
    if device.type == "cpu":
        _use_products(frozen.graph)
    return frozen


def transposed_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], output_padding: list[int]
) -> Tensor:
    """``torch.nn.functional.conv_transpose2d``: a matrix product, the columns of which are added up where they lie.

    So did Caffe; oneDNN computes no fewer output channels than a block of eight or sixteen.

    Shapes: x (batch, channel, height, width) or (channel, height, width); weight (channel, channel of the result,
    height of the kernel, width of the kernel); gives (batch, channel of the result, height, width).
    """
    height = (x.size(-2) - 1) * stride[0] - 2 * padding[0] + weight.size(2) + output_padding[0]
    width = (x.size(-1) - 1) * stride[1] - 2 * padding[1] + weight.size(3) + output_padding[1]
    columns = weight.flatten(1).t() @ x.flatten(-2)
    image = torch._C._nn.col2im(columns, [height, width], weight.shape[2:], [1, 1], padding, stride)
    return image if bias is None else image + bias.view(-1, 1, 1)


_product = torch.jit.script(transposed_convolution)


def _use_products(graph: torch._C.Graph) -> None:
    """Put ``transposed_convolution`` in the place of those that it computes sooner."""
    for node in graph.findAllNodes("aten::conv_transpose2d"):  # type: ignore[attr-defined]
        *operands, groups, dilation = node.inputs()
        plain = groups.toIValue() == 1 and dilation.toIValue() == [1, 1]
        if not (plain and _has_few_channels(operands[1].toIValue())):
            continue
        with graph.insert_point_guard(node):
            (image,) = graph.insertGraph(_product.graph, operands)
        node.output().replaceAllUsesWith(image)
        node.destroy()
    torch._C._jit_pass_constant_propagation(graph)  # what depends on the weights alone
    torch._C._jit_pass_dce(graph)


def _has_few_channels(weight: object) -> bool:
    """Whether the weight of a transposed convolution is a constant, and gives ``FEW_CHANNELS`` or fewer."""
    return isinstance(weight, Tensor) and weight.shape[1] <= FEW_CHANNELS
