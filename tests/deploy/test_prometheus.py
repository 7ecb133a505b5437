"""Prometheus' own tools on what the service exposes."""

import shutil
import subprocess

import pytest

from service.errors import ServiceError
from service.metrics import Metrics


@pytest.mark.prometheus
def test_promtool_finds_no_fault_with_the_metrics() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool command")
    metrics = Metrics()
    metrics.for_unknown_models(ServiceError.codes())
    model = metrics.for_model("ddpm", ServiceError.codes())
    model.request_seconds.observe(0.01)
    model.tick_rows.observe(3)
    metrics.model_ready.labels("ddpm").set(1)
    metrics.model_info.labels("ddpm", "ddpm", "00000000").set(1)
    checked = subprocess.run([promtool, "check", "metrics"], input=metrics.expose(), capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr.decode()
