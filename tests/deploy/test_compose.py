"""What Compose, Prometheus and Grafana read fits together, and fits the service."""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from scripts.prometheus_rule import RULE_TESTS, runbook_url, with_runbooks
from service.metrics import Metrics
from service.processes.fleet import STOP_S
from service.processes.supervisor import END_S
from service.settings import Settings
from tests.deploy.shipped import ROOT, alerts, dashboard_queries, read_dashboard, read_yaml, rules

COMPOSE = read_yaml("docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return read_dashboard()


def mounts(service: str) -> list[list[str]]:
    return [mount.split(":") for mount in SERVICES[service].get("volumes", [])]


@pytest.mark.parametrize("name", SERVICES)
class TestEveryService:
    def test_mounts_what_exists(self, name: str) -> None:
        for source, *_ in mounts(name):
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]

    def test_publishes_on_loopback_only(self, name: str) -> None:
        assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))

    def test_is_hardened(self, name: str) -> None:
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert not {"privileged", "cap_add", "network_mode", "pid"} & service.keys()

    def test_has_limits(self, name: str) -> None:
        assert SERVICES[name]["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
        assert SERVICES[name]["logging"]["options"].keys() == {"max-size", "max-file"}

    def test_has_a_bounded_tmpfs(self, name: str) -> None:
        assert all(re.fullmatch(r"/\w+:size=\d+m", tmpfs) for tmpfs in SERVICES[name]["tmpfs"])

    def test_does_not_wait_for_grafana(self, name: str) -> None:
        assert "grafana" not in SERVICES[name].get("depends_on", [])


def test_the_service_may_finish_what_it_accepted() -> None:
    grace_s = int(SERVICES["service"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings.model_fields["drain_s"].default + END_S + STOP_S


def test_processes_whose_parent_was_killed_are_collected() -> None:
    assert SERVICES["service"]["init"] is True


def test_the_files_of_several_api_processes_fit_into_shared_memory() -> None:
    fields = Settings.model_fields
    jobs = 2 * fields["job_bytes"].default + fields["max_waiting_bytes"].default
    assert int(SERVICES["service"]["shm_size"].removesuffix("m")) * 2**20 > jobs


def test_the_service_is_healthy_when_it_is_ready() -> None:
    assert "/health/ready" in (ROOT / "Dockerfile").read_text().partition("HEALTHCHECK")[2]


def test_the_trainer_writes_where_the_service_reads() -> None:
    (written,) = (mount for mount in mounts("trainer") if mount[0] == "./weights")
    (read,) = (mount for mount in mounts("service") if mount[0] == "./weights")
    assert written == ["./weights", "/app/weights"]
    assert read == [*written, "ro"]


def test_the_trainer_runs_only_when_asked() -> None:
    assert SERVICES["trainer"]["profiles"] == ["train"]


def test_the_trainer_has_no_network_and_what_is_published_has_no_internal_one() -> None:
    """Docker publishes no port of a container whose networks are all internal."""
    networks = {name: service.get("networks", ["default"]) for name, service in SERVICES.items()}
    assert networks.pop("trainer") == ["offline"]
    assert all(each == ["default"] for each in networks.values())
    assert COMPOSE["networks"] == {"offline": {"internal": True}}


def test_the_closed_file_changes_only_the_network() -> None:
    (option,) = read_yaml("docker-compose.closed.yml")["networks"]["default"]["driver_opts"].items()
    assert option == ("com.docker.network.bridge.enable_ip_masquerade", "false")


def test_the_gpu_file_changes_only_services_that_compute() -> None:
    assert set(read_yaml("docker-compose.gpu.yml")["services"]) == {"service", "trainer"}


def test_the_diffusers_file_builds_a_target_of_the_dockerfile() -> None:
    (service,) = read_yaml("docker-compose.diffusers.yml")["services"].values()
    assert f"AS {service['build']['target']}\n" in (ROOT / "Dockerfile").read_text()
    assert service["image"] != SERVICES["service"]["image"]


REPLICAS = ("replica-1", "replica-2")


def test_replicas_are_services_that_share_a_store() -> None:
    for name in REPLICAS:
        replica, service = SERVICES[name], SERVICES["service"]
        assert replica["ports"] == []
        assert {key: replica[key] for key in service.keys() - {"environment", "ports"}} == {
            key: service[key] for key in service.keys() - {"environment", "ports"}
        }
        store = urlsplit(replica["environment"]["GENSERVE_STORE"])
        assert (store.scheme, store.hostname) == ("redis", "redis")
    assert {SERVICES[name]["environment"]["GENSERVE_STORE"] for name in REPLICAS} == {"redis://redis:6379/0"}


def test_scaling_runs_only_when_asked() -> None:
    assert {name for name, each in SERVICES.items() if each.get("profiles") == ["scale"]} == {
        *REPLICAS,
        "balancer",
        "redis",
    }


def test_the_balancer_knows_the_replicas() -> None:
    environment = SERVICES["balancer"]["environment"]
    assert [environment[f"GENSERVE_REPLICA_{number}"] for number in (1, 2)] == [f"{name}:8000" for name in REPLICAS]
    asked = re.findall(r"\$\{(\w+)\}", (ROOT / "deploy/haproxy/haproxy.cfg").read_text())
    assert set(asked) == set(environment)


def test_redis_has_room_for_all_jobs() -> None:
    command, fields = SERVICES["redis"]["command"], Settings.model_fields
    most = int(command[command.index("--maxmemory") + 1].removesuffix("mb")) * 2**20
    assert most > 2 * fields["job_bytes"].default + fields["max_waiting_bytes"].default
    assert "noeviction" in command


def test_haproxy_accepts_its_configuration() -> None:
    haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if haproxy is None:
        pytest.skip("no haproxy command")
    names = dict.fromkeys(SERVICES["balancer"]["environment"], "127.0.0.1:8000")
    done = subprocess.run(
        [haproxy, "-c", "-f", ROOT / "deploy/haproxy/haproxy.cfg"],
        env=os.environ | names,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[WARNING]" not in done.stderr


def test_prometheus_scrapes_the_service() -> None:
    (job,) = read_yaml("deploy/prometheus/prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["service:8000"]}]


def test_no_password_is_shipped() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_SECURITY_ADMIN_PASSWORD"] == "${GRAFANA_ADMIN_PASSWORD:-}"
    # Only a password makes an administrator; without one the file's `true` holds.
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "${GRAFANA_ADMIN_PASSWORD:+false}"
    assert "disable_initial_admin_creation = true" in (ROOT / "deploy/grafana/grafana.ini").read_text()


def test_grafana_finds_the_dashboards() -> None:
    (provider,) = read_yaml("deploy/grafana/provisioning/dashboards/genserve.yml")["providers"]
    assert ["./deploy/grafana/dashboards", provider["options"]["path"], "ro"] in mounts("grafana")
    assert f"{provider['options']['path']}/genserve.json" in (ROOT / "deploy/grafana/grafana.ini").read_text()


def test_every_query_goes_to_the_provisioned_data_source(dashboard: dict[str, Any]) -> None:
    (source,) = read_yaml("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    asked = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    asked += [target for panel in asked for target in panel["targets"]]
    asked += dashboard["templating"]["list"] + dashboard["annotations"]["list"]
    assert {(entry["datasource"]["type"], entry["datasource"]["uid"]) for entry in asked} == {
        ("prometheus", source["uid"])
    }


def test_the_data_source_knows_the_scrape_interval() -> None:
    (source,) = read_yaml("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    scraped = read_yaml("deploy/prometheus/prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped


def test_panels_have_their_own_id_and_place(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, panel["title"]
    for one, other in combinations(panels, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    across = a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"]
    down = a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    return across and down


def exposed_names() -> set[str]:
    """The names of the series that /metrics can show."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    families = Metrics().registry.collect()
    return {family.name + suffix for family in families for suffix in suffixes[family.type]}


def test_dashboard_and_rules_ask_for_series_that_exist() -> None:
    variables = [variable["query"]["query"] for variable in read_dashboard()["templating"]["list"]]
    queries = [*variables, *dashboard_queries(), *(rule["expr"] for rule in rules())]
    asked = set(re.findall(r"(?:genserve|process)_\w+", " ".join(queries)))
    assert len(asked) > 20
    assert asked <= exposed_names()


def check_schema(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def check_dashboard(dashboard: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """Check without the queries of annotations: Grafana's schema says itself that it knows only its own source's."""
    published = {"name", "enable", "iconColor", "datasource"}
    annotations = [
        {key: value for key, value in annotation.items() if key in published}
        for annotation in dashboard["annotations"]["list"]
    ]
    path = folder / "dashboard.json"
    path.write_text(json.dumps(dashboard | {"annotations": {"list": annotations}}))
    return check_schema("--schemafile", ROOT / "tests/deploy/schemas/grafana-dashboard.json", path)


def test_the_dashboard_is_one_by_grafanas_schema(dashboard: dict[str, Any], tmp_path: Path) -> None:
    done = check_dashboard(dashboard, tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_wrong_dashboard_would_be_seen(dashboard: dict[str, Any], tmp_path: Path) -> None:
    done = check_dashboard(dashboard | {"panelz": [], "schemaVersion": "39"}, tmp_path)
    assert done.returncode == 1
    assert "panelz" in done.stdout
    assert "schemaVersion" in done.stdout


@pytest.mark.parametrize(
    "file",
    ["docker-compose.yml", "docker-compose.gpu.yml", "docker-compose.diffusers.yml", "docker-compose.closed.yml"],
)
def test_compose_files_are_by_the_compose_specification(file: str) -> None:
    done = check_schema("--builtin-schema", "vendor.compose-spec", file)
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_no_fault_with_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("no hadolint command")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_has_its_runbook(alert: dict[str, Any]) -> None:
    """A URL, so that Prometheus and Grafana show a link."""
    assert alert["annotations"]["runbook_url"] == runbook_url(alert["alert"])
    assert runbook_url(alert["alert"]).startswith("https://")
    headings = re.findall(r"^### (\w+)\n\n\S", (ROOT / "docs/OPERATIONS.md").read_text(), flags=re.MULTILINE)
    assert alert["alert"] in headings
    assert alert["labels"]["severity"] in {"page", "ticket"}


def test_the_tests_of_rules_expect_these_urls() -> None:
    assert with_runbooks(RULE_TESTS.read_text()) == RULE_TESTS.read_text()


def test_every_runbook_has_its_alert() -> None:
    section = (ROOT / "docs/OPERATIONS.md").read_text().partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^### (\w+)", section, flags=re.MULTILINE)) == {alert["alert"] for alert in alerts()}
