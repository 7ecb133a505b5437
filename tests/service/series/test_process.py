from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from service.series.process import ProcessUse
from service.series.store import Store

CPU = "process_cpu_seconds"


def read(use: ProcessUse) -> dict[tuple[str, ...], float]:
    """The samples of all families, by name and the process's slot."""
    metrics = (metric for family in use.families for metric in family.collect())
    return {(each.name, *each.labels.values()): each.value for metric in metrics for each in metric.samples}


def test_one_process_has_the_values_of_the_library() -> None:
    use = ProcessUse(Store())
    use.refresh()
    found = read(use)
    names = {
        sample.name for metric in ProcessCollector(registry=CollectorRegistry()).collect() for sample in metric.samples
    }
    assert found.keys() == {(name,) for name in names} | {(f"genserve_{name}", "service") for name in names}
    for name in names:
        assert found[name,] == found[f"genserve_{name}", "service"] > 0


def test_processes_add_up_and_the_service_began_with_the_first(tmp_path: Path) -> None:
    stores = [Store(tmp_path, slot) for slot in ("api-0", "engine-0")]
    uses = [ProcessUse(store) for store in stores]
    for use in uses:
        use.refresh()
    stores[0].sync()
    found = read(uses[0])
    memory = "process_resident_memory_bytes"
    assert found[memory,] == found[f"genserve_{memory}", "api-0"] + found[f"genserve_{memory}", "engine-0"]
    started = "process_start_time_seconds"
    assert found[started,] == found[f"genserve_{started}", "api-0"]


def test_processor_time_goes_on_when_a_process_is_replaced(tmp_path: Path) -> None:
    first = ProcessUse(Store(tmp_path, "engine-0"))
    first.refresh()
    before = read(first)[f"{CPU}_total",]
    second = ProcessUse(Store(tmp_path, "engine-0"))
    assert read(second)[f"{CPU}_total",] == before
    second.refresh()
    assert read(second)[f"{CPU}_total",] >= 2 * before > 0
    assert read(second)[f"genserve_{CPU}_total", "engine-0"] == read(second)[f"{CPU}_total",]


def test_without_proc_there_are_no_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessCollector, "collect", lambda self: [])
    use = ProcessUse(Store())
    use.refresh()
    assert use.families == []
