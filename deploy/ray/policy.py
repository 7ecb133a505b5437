"""How many replicas: by predicted work, which knows that a request of 64 pictures is not one of 1.

Runs in Ray Serve's controller, so it must not import torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

#: The metric of a replica: seconds until its admitted work is done.
WORK = "predicted_work_s"


class PredictedWork:
    """As many replicas as have ``target_s`` seconds of admitted work each.

    Ray applies the bounds and the delays of the autoscaling configuration.
    """

    def __init__(self, target_s: float = 2.0) -> None:
        if target_s <= 0:
            raise ValueError(f"target_s is {target_s:g}, and must be more than 0")
        self._target_s = target_s

    def __call__(self, context: "AutoscalingContext") -> tuple[float, dict[str, Any]]:
        """The number of replicas wanted; as many as now until one of them has reported."""
        work = (context.aggregated_metrics or {}).get(WORK)
        if not work:
            return context.target_num_replicas, {}
        return sum(work.values()) / self._target_s, {}
