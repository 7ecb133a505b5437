"""Prometheus' own tools on what is shipped, and a real Prometheus that scrapes a real service."""

import json
import math
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
import yaml

from benchmarks.server import free_port
from service.metrics import Metrics
from tests.deploy.shipped import ROOT, alerts, dashboard_queries, read_yaml, rules, selectors
from tests.e2e.process import Service, post, serving

SECONDS = 120.0
MODELS = ("ddpm", "gan", "vae")

pytestmark = [pytest.mark.prometheus, pytest.mark.timeout(600)]


def command(name: str) -> str:
    """The path of one of Prometheus' programs."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} command")
    return found


def promtool(*arguments: str | Path, given: bytes = b"") -> None:
    done = subprocess.run([command("promtool"), *arguments], input=given, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_promtool_accepts_the_configuration() -> None:
    promtool("check", "config", ROOT / "deploy/prometheus/prometheus.yml")


def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", ROOT / "tests/deploy/alerts_test.yml")


def test_every_alert_is_tested() -> None:
    tested = {
        case["alertname"]
        for test in read_yaml("tests/deploy/alerts_test.yml")["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert tested == {alert["alert"] for alert in alerts()}


def test_a_wrong_rule_would_be_seen(tmp_path: Path) -> None:
    text = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(text.replace("genserve_model_ready == 0", "genserve_model_ready == 2"))
    cases = (ROOT / "tests/deploy/alerts_test.yml").read_text()
    (tmp_path / "test.yml").write_text(cases.replace("../../deploy/prometheus/", ""))
    with pytest.raises(AssertionError, match="GenserveModelNotReady"):
        promtool("test", "rules", tmp_path / "test.yml")


class Prometheus:
    """A running Prometheus, asked over its API."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client
        self._since = time.time()

    def series(self, query: str) -> list[dict[str, Any]]:
        """Every series that ``query`` had at any second since the start; a query that is none fails the test."""
        now = time.time()  # the steps end here, or the last scrape may come after all of them
        asked = {"query": query, "start": now - math.ceil(now - self._since), "end": now, "step": 1}
        answer = self._client.post("/api/v1/query_range", data=asked)
        assert answer.status_code == 200, f"{query}\n{answer.text}"
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def wait_for(self, query: str) -> None:
        """Return when ``query`` has a series."""
        give_up = time.monotonic() + SECONDS
        while not self._has(query):
            assert time.monotonic() < give_up, f"{query} has no series"
            time.sleep(0.2)

    def _has(self, query: str) -> bool:
        try:
            answer = self._client.get("/api/v1/query", params={"query": query})
        except httpx2.TransportError:  # it is still starting
            return False
        return answer.status_code == 200 and bool(answer.json()["data"]["result"])


@contextmanager
def scraping(service: Service, folder: Path) -> Iterator[Prometheus]:
    """The shipped configuration, scraping ``service`` every second."""
    config = read_yaml("deploy/prometheus/prometheus.yml")
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "deploy/prometheus" / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{service.port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([command("prometheus"), *arguments], stderr=log) as server,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client,
    ):
        try:
            yield Prometheus(client)
        finally:
            server.terminate()


def drive(service: Service) -> None:
    """Requests of every kind: answered, wrong, refused, given up."""
    client = service.client
    for model in MODELS:
        for body in ({}, {"n": 4, "seed": 1}, {"n": 2, "class_label": 3}):
            answer = client.post(f"/generate/{model}", json=body)
            assert answer.status_code == 200, answer.text
        assert client.post(f"/generate/{model}", json={"n": 0}).status_code == 422
    assert client.post("/interpolate", json={"model": "vae", "frames": 5}).status_code == 200
    assert client.post("/generate/nothing").status_code == 404
    long = json.dumps({"n": 64, "steps": 900}).encode()
    with service.connect() as connection:
        connection.sendall(post("/generate/ddpm", long))
        service.wait_for("live_rows", at_least=1)
        assert client.post("/generate/ddpm", content=long).json()["code"] == "overloaded"
    service.wait_until_idle()
    assert client.post("/generate/ddpm", json={"n": 64, "steps": 900, "timeout_ms": 100}).status_code == 504


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """The shipped models, behind a queue that is soon full."""
    command("prometheus")
    with serving(ROOT / "weights", engine_threads=1, max_queue_ms=2000, max_request_ms=1e9, client_share=1) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has seen the service before anybody asked it anything, and after."""
    with scraping(service, tmp_path_factory.mktemp("prometheus")) as running:
        running.wait_for('up{job="genserve"} == 1')
        drive(service)
        running.wait_for('sum(increase(genserve_cancelled_total{reason="too-late"}[1m])) > 0')
        running.wait_for("genserve:slow_requests:ratio_rate6h")
        yield running


def test_promtool_finds_no_fault_with_the_metrics_of_several_processes(tmp_path: Path) -> None:
    several = [Metrics.shared(tmp_path, slot) for slot in ("api-0", "engine-0")]
    for metrics in several:
        metrics.for_model("vae", ["internal"]).request_seconds.observe(0.1)
        metrics.refresh()
    promtool("check", "metrics", given=several[0].expose())


def test_promtool_finds_no_fault_with_the_metrics(service: Service) -> None:
    drive(service)
    promtool("check", "metrics", given=service.client.get("/metrics").content)


@pytest.mark.parametrize("query", dashboard_queries())
def test_the_dashboard_shows_something(prometheus: Prometheus, query: str) -> None:
    found = prometheus.series(query)
    if "genserve_gpu_" in query and not torch.cuda.is_available():
        assert found == []
    else:
        values = [value for series in found for _, value in series["values"]]
        assert set(values) - {"NaN"}, query


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stage", ["request", "queue", "compute", "encode"])
def test_every_model_has_its_latency(prometheus: Prometheus, model: str, stage: str) -> None:
    quantile = f'histogram_quantile(0.95, sum by (le) (rate(genserve_{stage}_seconds_bucket{{model="{model}"}}[1m])))'
    values = [float(value) for series in prometheus.series(quantile) for _, value in series["values"]]
    assert any(0 < value < 30 for value in values)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_ask_for_series_that_exist(prometheus: Prometheus, rule: dict[str, Any]) -> None:
    prometheus.series(rule["expr"])
    asked = selectors(rule["expr"])
    assert asked
    for selector in asked:
        assert prometheus.series(selector), selector


def test_a_wrong_name_or_label_would_be_seen(prometheus: Prometheus) -> None:
    for selector in ("genserve_no_such_total", 'genserve_errors_total{reason="no-such"}'):
        assert prometheus.series(selector) == []
    with pytest.raises(AssertionError, match="parse error"):
        prometheus.series("sum(genserve_model_ready")
