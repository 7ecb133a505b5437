"""What each process uses of its machine, from /proc: one series for each process, and one for all of them.

The latter have the names that every client of Prometheus exposes (`process_cpu_seconds_total`, ...), so that dashboards
made for one process show the whole service.
"""

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric

from service.series.families import Counters, Gauges
from service.series.kinds import smallest, total
from service.series.store import Store

#: The service started when its first process did; of everything else the processes' values are added up.
_STARTED = "process_start_time_seconds"


class ProcessUse:
    """Processor time, memory and open files of this process, which has ``store``'s slot.

    Processor time goes on from that of the slot's previous process, so that the sum never falls.
    """

    def __init__(self, store: Store) -> None:
        self._slot, self._used_s = store.slot, 0.0
        self._read = ProcessCollector(registry=CollectorRegistry()).collect
        self._pairs = {metric.name: _pair(store, metric) for metric in self._read()}
        self.families: list[Counters | Gauges] = [family for pair in self._pairs.values() for family in pair]

    def refresh(self) -> None:
        """Set this process's values."""
        for metric in self._read():
            value, pair = metric.samples[0].value, self._pairs[metric.name]
            for family, labels in zip(pair, ((), (self._slot,)), strict=True):
                if isinstance(family, Gauges):
                    family.labels(*labels).set(value)
                else:
                    family.labels(*labels).inc(max(0.0, value - self._used_s))
            if metric.type == "counter":
                self._used_s = value


def _pair(store: Store, metric: Metric) -> tuple[Counters | Gauges, Counters | Gauges]:
    """The metric of all processes together, and that of each."""
    text, name, by_process = metric.documentation, metric.name, f"genserve_{metric.name}"
    if metric.type == "counter":
        return Counters(store, name, text, ()), Counters(store, by_process, text, ("process",))
    merge = smallest if name == _STARTED else total
    return Gauges(store, name, text, (), merge), Gauges(store, by_process, text, ("process",), merge)
