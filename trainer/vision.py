"""torchvision, importable with a CPU-only torch.

The Linux wheel of torchvision on PyPI is a CUDA build: beside a CPU-only torch its compiled operators do not load, and
the import fails with "operator torchvision::nms does not exist". The trainer uses none of those operators: declaring
the schemas that the Python side registers is enough for datasets and utils.
"""

try:
    from torchvision import datasets, utils
except RuntimeError as failure:
    if "torchvision::nms" not in str(failure):
        raise
    import sys

    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # the second import would return the half-imported package
    for name in ("torchvision::nms", "torchvision::qnms"):
        torch.library.define(name, "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision import datasets, utils

__all__ = ["datasets", "utils"]
