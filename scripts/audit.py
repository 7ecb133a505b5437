"""Look for packages with known vulnerabilities, and for secrets in the repository; say what could not be checked.

python -m scripts.audit TOOLS      TOOLS is the environment with pip-audit and detect-secrets

The packages are those of the environment that runs this. Exit code 1: something was found.
"""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
#: Databases of vulnerabilities, in the order in which they are asked.
DATABASES = ("pypi", "osv")
#: They would report hashes, and the passwords of examples. The others know the form of a kind of secret.
TOO_VAGUE = ("KeywordDetector", "HexHighEntropyString", "Base64HighEntropyString")


def main(tools: Path) -> int:
    """Print both reports; returns the exit code."""
    vulnerable = audited(tools)
    print("secrets in the repository (detect-secrets):")
    secrets = found_secrets(tools)
    print(*(f"  {line}" for line in secrets or ["none"]), sep="\n")
    return int(bool(vulnerable or secrets))


def audited(tools: Path) -> Sequence[str]:
    """Ask a database about all packages, the next one about all if it knows none; returns what is vulnerable."""
    print("packages with known vulnerabilities (pip-audit):")
    for database in DATABASES:
        report = _json_of(
            *(tools / "bin/pip-audit", "--path", sysconfig.get_path("purelib"), "--vulnerability-service", database),
            *("--format", "json", "--progress-spinner", "off", "--skip-editable", "--timeout", "20"),
        )
        dependencies = [] if report is None else report["dependencies"]
        checked = [each for each in dependencies if "skip_reason" not in each]
        print(f"  {database}: {len(checked)} of {len(dependencies) or 'all'} packages could be checked")
        if checked:
            vulnerable = [line for each in checked for line in _vulnerabilities(each)]
            print(*(f"  {line}" for line in vulnerable or ["none"]), sep="\n")
            return vulnerable
    print("  NOT CHECKED: no database answers, or none knows the packages")
    return []


def found_secrets(tools: Path) -> Sequence[str]:
    """Places in the repository's files that look like secrets, as file:line: kind."""
    disabled = [option for name in TOO_VAGUE for option in ("--disable-plugin", name)]
    report = _json_of(tools / "bin/detect-secrets", "scan", "--no-verify", *disabled)
    if report is None:
        return ["NOT CHECKED: detect-secrets failed"]
    places = (each for found in report["results"].values() for each in found)
    return [f"{each['filename']}:{each['line_number']}: {each['type']}" for each in places]


def _vulnerabilities(dependency: dict[str, Any]) -> Sequence[str]:
    return [
        f"{dependency['name']} {dependency['version']}: {each['id']}, fixed in {', '.join(each['fix_versions']) or '-'}"
        for each in dependency["vulns"]
    ]


def _json_of(*command: str | Path) -> Any:  # noqa: ANN401
    """What a command prints, None if that is not JSON; its errors pass through."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    try:
        return json.loads(done.stdout)
    except ValueError:
        return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
