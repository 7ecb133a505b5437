"""Write deploy/k8s/components/monitoring/prometheusrule.yaml from deploy/prometheus/alerts.yml.

python -m scripts.prometheus_rule
"""

from pathlib import Path

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deploy/prometheus/alerts.yml"
TARGET = ROOT / "deploy/k8s/components/monitoring/prometheusrule.yaml"

HEAD = """\
# Made from deploy/prometheus/alerts.yml by `python -m scripts.prometheus_rule`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: genserve
spec:
"""


def prometheus_rule() -> str:
    """The rules as the Prometheus operator reads them."""
    lines = RULES.read_text().splitlines()
    groups = lines[lines.index("groups:") :]
    return HEAD + "".join(f"  {line}\n" if line else "\n" for line in groups)


if __name__ == "__main__":
    TARGET.write_text(prometheus_rule())
