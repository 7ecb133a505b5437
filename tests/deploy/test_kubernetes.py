"""The Kubernetes manifests: valid, hardened, and in step with the service's settings."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.prometheus_rule import TARGET, prometheus_rule
from service.processes.fleet import STOP_S
from service.processes.supervisor import END_S
from service.settings import Settings
from service.settings.texts import variable
from tests.deploy.shipped import ROOT, read_yaml

K8S = ROOT / "deploy/k8s"
TOOLS = ROOT / ".venv/peers/kubernetes/bin"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())

tools = pytest.mark.skipif(
    not (TOOLS / "kubectl").exists(), reason="kubectl is not installed: make .venv/peers/kubernetes/.ready"
)

DEPLOYMENT = read_yaml("deploy/k8s/base/deployment.yaml")
POD = DEPLOYMENT["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]


def run(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}"}
    return subprocess.run(
        [TOOLS / tool, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=250
    )


@pytest.fixture(scope="module", params=OVERLAYS)
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay as `kubectl apply -k` would send it."""
    done = run("kubectl", "kustomize", K8S / "overlays" / request.param)
    assert done.returncode == 0, done.stderr
    path = tmp_path_factory.mktemp("k8s") / f"{request.param}.yaml"
    path.write_text(done.stdout)
    return path


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pods(path: Path) -> list[dict[str, Any]]:
    """What each workload says of its pods."""
    return [each["spec"]["template"] for each in documents(path) if "template" in each.get("spec", {})]


@tools
@pytest.mark.slow
def test_an_overlay_is_valid(rendered: Path) -> None:
    done = run("kubernetes-validate", "--strict", rendered)
    unknown = [line for line in done.stdout.splitlines() + done.stderr.splitlines() if "find schema" in line]
    # Kinds of the Prometheus operator and of KEDA: their schemas are not part of Kubernetes.
    assert {line.split("for kind ")[1].split()[0] for line in unknown} <= {
        "ScaledObject", "PrometheusRule", "ServiceMonitor",
    }  # fmt: skip
    assert done.returncode == 0 or unknown, done.stdout + done.stderr
    assert "ERROR" not in done.stdout + done.stderr


@tools
@pytest.mark.slow
def test_checkov_finds_nothing_that_has_no_reason(rendered: Path) -> None:
    done = run("checkov", "--framework", "kubernetes", "-f", rendered, "--skip-download", "-o", "json")
    found = json.loads(done.stdout)["results"]
    assert len(found["passed_checks"]) > 50
    assert [(each["check_id"], each["resource"]) for each in found["failed_checks"]] == []
    assert all(each["check_result"]["suppress_comment"].strip() for each in found["skipped_checks"])


@tools
@pytest.mark.slow
def test_every_pod_is_confined_by_a_network_policy(rendered: Path) -> None:
    chosen = [
        each["spec"]["podSelector"]["matchLabels"] for each in documents(rendered) if each["kind"] == "NetworkPolicy"
    ]
    for pod in pods(rendered):
        assert any(labels.items() <= pod["metadata"]["labels"].items() for labels in chosen)


@tools
@pytest.mark.slow
def test_only_pods_of_the_service_get_requests_and_count_for_its_budget(rendered: Path) -> None:
    by_kind = {(each["kind"], each["metadata"]["name"]): each["spec"] for each in documents(rendered) if "spec" in each}
    labels = {"app.kubernetes.io/name": "genserve"}
    assert by_kind["Service", "genserve"]["selector"] == labels
    assert by_kind["PodDisruptionBudget", "genserve"]["selector"]["matchLabels"] == labels
    names = [pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in pods(rendered)]
    assert names.count("genserve") == 1


def test_the_pod_may_finish_what_it_accepted() -> None:
    sleep_s = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain_s = Settings.model_fields["drain_s"].default
    assert POD["terminationGracePeriodSeconds"] >= sleep_s + drain_s + END_S + STOP_S


def test_an_unready_pod_leaves_the_endpoints_before_its_socket_closes() -> None:
    probe = CONTAINER["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]


def test_a_restart_is_decided_by_liveness_and_traffic_by_readiness() -> None:
    paths = {name: CONTAINER[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/health/live", "readiness": "/health/ready", "liveness": "/health/live"}
    start = CONTAINER["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= Settings.model_fields["load_timeout_s"].default


@pytest.mark.parametrize("path", sorted(K8S.rglob("*.yaml")), ids=lambda path: str(path.relative_to(K8S)))
def test_every_setting_exists(path: Path) -> None:
    known = {variable(name) for name in Settings.model_fields}
    assert set(filter(lambda word: word.startswith("GENSERVE_"), _names(path.read_text()))) <= known


def _names(text: str) -> list[str]:
    found = yaml.safe_load_all(text)
    return [name for document in found for name in _values_of("name", document)]


def _values_of(key: str, value: object) -> list[str]:
    match value:
        case dict():
            inner = [name for each in value.values() for name in _values_of(key, each)]
            return [*inner, *([value[key]] if isinstance(value.get(key), str) else [])]
        case list():
            return [name for each in value for name in _values_of(key, each)]
        case str() if "\n" in value and "op:" in value:  # a patch
            return _values_of(key, yaml.safe_load(value))
    return []


def test_the_operators_rules_are_those_of_prometheus() -> None:
    assert TARGET.read_text() == prometheus_rule()
    rule = yaml.safe_load(TARGET.read_text())
    assert rule["spec"] == read_yaml("deploy/prometheus/alerts.yml")


def test_autoscaling_reads_a_metric_that_exists() -> None:
    hpa = read_yaml("deploy/k8s/components/hpa/horizontalpodautoscaler.yaml")
    keda = read_yaml("deploy/k8s/components/keda/scaledobject.yaml")
    name = hpa["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert name in keda["spec"]["triggers"][0]["metadata"]["query"]
    assert f'"{name.removeprefix("genserve_")}"' in (ROOT / "service/metrics.py").read_text()


def test_every_component_and_overlay_is_explained() -> None:
    readme = (K8S / "README.md").read_text()
    for each in (*(K8S / "overlays").iterdir(), *(K8S / "components").iterdir()):
        assert f"`{each.name}`" in readme
