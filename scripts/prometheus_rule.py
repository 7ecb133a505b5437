"""Write the rules of the Prometheus operator from deploy/prometheus/alerts.yml, and the URLs of runbooks into both.

python -m scripts.prometheus_rule

The documents are published at the URL `Documentation` of pyproject.toml: after a change there, run this again.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deploy/prometheus/alerts.yml"
RULE_TESTS = ROOT / "tests/deploy/alerts_test.yml"
TARGET = ROOT / "deploy/k8s/components/monitoring/prometheusrule.yaml"

HEAD = """\
# Made from deploy/prometheus/alerts.yml by `python -m scripts.prometheus_rule`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: genserve
spec:
"""


def runbook_url(alert: str) -> str:
    """The section of an alert in the published documents."""
    documents: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Documentation"]
    return f"{documents}/OPERATIONS.md#{alert.lower()}"


def with_runbooks(text: str) -> str:
    """``text`` with each alert's URL; the anchors stay."""
    return re.sub(r"(runbook_url: )\S*#(\w+)", lambda found: found[1] + runbook_url(found[2]), text)


def prometheus_rule() -> str:
    """The rules as the Prometheus operator reads them."""
    lines = RULES.read_text().splitlines()
    groups = lines[lines.index("groups:") :]
    return HEAD + "".join(f"  {line}\n" if line else "\n" for line in groups)


if __name__ == "__main__":
    for path in (RULES, RULE_TESTS):
        path.write_text(with_runbooks(path.read_text()))
    TARGET.write_text(prometheus_rule())
