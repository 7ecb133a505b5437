"""GPU metrics from the NVIDIA driver, if the optional package nvidia-ml-py (extra `gpu`) is installed."""

import logging
import math
from collections.abc import Callable

from service.metrics import Metrics
from service.series.kinds import Gauge

log = logging.getLogger(__name__)


def watch(uuid: str, gpu: str, metrics: Metrics) -> bool:
    """Have the GPU's gauges, labelled ``gpu``, query the driver about ``uuid`` at every refresh.

    Returns whether a driver is available. Never raises; a failed query gives NaN.
    """
    try:
        import pynvml
    except ImportError:
        log.info("no metrics of the GPU: nvidia-ml-py is not installed")
        return False

    def or_nan(query: Callable[[], float]) -> Callable[[], float]:
        def value() -> float:
            try:
                return query()
            except Exception:  # drivers differ by version, and /metrics must not fail
                return math.nan

        return value

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except Exception as failure:
        log.warning("no metrics of the GPU", extra={"reason": str(failure)})
        return False
    queries: list[tuple[Gauge, Callable[[], float]]] = [
        (metrics.gpu_memory.labels(gpu), or_nan(lambda: float(pynvml.nvmlDeviceGetMemoryInfo(handle).total))),
        (metrics.gpu_memory_used.labels(gpu), or_nan(lambda: float(pynvml.nvmlDeviceGetMemoryInfo(handle).used))),
        (metrics.gpu_utilization.labels(gpu), or_nan(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)),
    ]

    def update() -> None:
        for gauge, query in queries:
            gauge.set(query())

    metrics.on_refresh(update)
    return True
