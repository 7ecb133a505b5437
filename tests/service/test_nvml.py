"""The driver is played by a module of the binding's name; `gpu` runs the real one where there is a GPU."""

import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from service import nvml
from service.metrics import Metrics

UUID = "GPU-5f1c9d2e"


class NVMLError(Exception):
    pass


class Driver(ModuleType):
    """One GPU, whose answers a test changes."""

    NVMLError = NVMLError
    answers = True

    def nvmlInit(self) -> None:  # noqa: N802  (the binding's own names)
        if not self.answers:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != UUID:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        self.nvmlInit()
        return SimpleNamespace(total=64 << 30, used=3 << 30)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:  # noqa: N802
        self.nvmlInit()
        return SimpleNamespace(gpu=25, memory=1)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    return driver


def told(metrics: Metrics) -> dict[tuple[str, str], float]:
    """The GPUs' series by name and label."""
    return {
        (sample.name.removeprefix("genserve_gpu_"), sample.labels["gpu"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith("genserve_gpu_")
    }


def test_the_gpu_is_asked_whenever_metrics_are_read(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    assert nvml.watch(UUID, "0", metrics)
    expected = {
        ("memory_bytes", "0"): 64 << 30,
        ("memory_used_bytes", "0"): 3 << 30,
        ("utilization_ratio", "0"): 0.25,
    }
    assert told(metrics) == expected
    monkeypatch.setattr(driver, "nvmlDeviceGetUtilizationRates", lambda handle: SimpleNamespace(gpu=100))
    assert told(metrics)["utilization_ratio", "0"] == 1


@pytest.mark.parametrize("failure", [NVMLError("Unknown Error"), AttributeError("gpu"), OSError("lost")])
def test_a_driver_that_stops_answering_breaks_nothing(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(handle: str) -> SimpleNamespace:
        raise failure

    metrics = Metrics()
    nvml.watch(UUID, "0", metrics)
    for question in ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetUtilizationRates"):
        monkeypatch.setattr(driver, question, fail)
    assert all(math.isnan(value) for value in told(metrics).values())
    assert b"genserve_gpu_memory_bytes" in metrics.expose()


def test_without_a_driver_there_are_no_series(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    driver.answers = False
    metrics = Metrics()
    assert not nvml.watch(UUID, "0", metrics)
    assert told(metrics) == {}
    assert "Driver Not Loaded" in str([vars(record).get("reason") for record in caplog.records])


@pytest.mark.usefixtures("driver")
def test_another_machines_gpu_has_no_series() -> None:
    metrics = Metrics()
    assert not nvml.watch("GPU-0", "0", metrics)
    assert told(metrics) == {}


def test_without_the_package_there_are_no_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    metrics = Metrics()
    assert not nvml.watch(UUID, "0", metrics)
    assert told(metrics) == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_real_gpu_tells_of_its_memory() -> None:
    pytest.importorskip("pynvml")
    metrics = Metrics()
    assert nvml.watch(f"GPU-{torch.cuda.get_device_properties(0).uuid}", "0", metrics)
    found = told(metrics)
    assert 0 < found["memory_used_bytes", "0"] <= found["memory_bytes", "0"]
    assert 0 <= found["utilization_ratio", "0"] <= 1
