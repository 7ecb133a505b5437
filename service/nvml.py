"""What the NVIDIA driver tells of a GPU, where the optional package nvidia-ml-py is installed: the extra `gpu`."""

import logging
import math
from collections.abc import Callable

from service.metrics import Metrics

log = logging.getLogger(__name__)


def watch(uuid: str, gpu: str, metrics: Metrics) -> bool:
    """Let ``metrics`` ask the driver about the GPU with ``uuid``, under the label ``gpu``, whenever they are read.

    Returns whether there is a driver to ask. Nothing fails for want of one, then or later: an answer that the driver
    does not give is NaN.
    """
    try:
        import pynvml
    except ImportError:
        log.info("no metrics of the GPU: nvidia-ml-py is not installed")
        return False

    def asking(answer: Callable[[], float]) -> Callable[[], float]:
        def ask() -> float:
            try:
                return answer()
            except Exception:  # also what a driver of another version answers: /metrics must not fail for it
                return math.nan

        return ask

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except Exception as failure:
        log.warning("no metrics of the GPU", extra={"reason": str(failure)})
        return False
    for metric, answer in (
        (metrics.gpu_memory, lambda: float(pynvml.nvmlDeviceGetMemoryInfo(handle).total)),
        (metrics.gpu_memory_used, lambda: float(pynvml.nvmlDeviceGetMemoryInfo(handle).used)),
        (metrics.gpu_utilization, lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
    ):
        metric.labels(gpu).set_function(asking(answer))
    return True
