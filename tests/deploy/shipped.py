"""What is shipped for Prometheus and Grafana, read for the tests."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]

#: What Grafana puts into a query before it sends it.
FILLED_IN = {"$__rate_interval": "1m", "$model": ".*"}


def read_yaml(path: str) -> dict[str, Any]:
    """A file of the repository."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / path).read_text())
    return loaded


def read_dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    loaded: dict[str, Any] = json.loads((ROOT / "deploy/grafana/dashboards/genserve.json").read_text())
    return loaded


def rules() -> list[dict[str, Any]]:
    """Every rule, those that record and those that alert."""
    return [rule for group in read_yaml("deploy/prometheus/alerts.yml")["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """The rules that alert."""
    return [rule for rule in rules() if "alert" in rule]


def dashboard_queries() -> list[str]:
    """The PromQL of every panel and annotation, as Grafana sends it."""
    dashboard = read_dashboard()
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    asked += [annotation["target"]["expr"] for annotation in dashboard["annotations"]["list"]]
    for name, text in FILLED_IN.items():
        asked = [query.replace(name, text) for query in asked]
    return asked


def selectors(query: str) -> list[str]:
    """The series that a query of ours asks for, such as `genserve_errors_total{reason="x"}`."""
    return re.findall(r"\b(?:genserve[\w:]+|process_\w+|up)\b(?:\{[^}]*\})?", query)
