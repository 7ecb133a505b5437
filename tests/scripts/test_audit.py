import json
from pathlib import Path
from typing import Any

import pytest

from scripts.audit import main


def tools(folder: Path, *, packages: dict[str, list[dict[str, Any]]], secrets: dict[str, Any] | None = None) -> Path:
    """Commands in place of pip-audit and detect-secrets: what the databases answer, and what the repository has."""
    (folder / "bin").mkdir()
    for database, dependencies in packages.items():
        (folder / database).write_text(json.dumps({"dependencies": dependencies}))
    (folder / "secrets").write_text(json.dumps({"results": secrets or {}}))
    script = {"pip-audit": f'cat "{folder}/$4" 2>/dev/null || exit 1', "detect-secrets": f'cat "{folder}/secrets"'}
    for name, line in script.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / "bin" / name).chmod(0o755)
    return folder


GOOD = {"name": "torch", "version": "2", "vulns": []}
BAD = {"name": "pillow", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "numpy", "skip_reason": "not found"}


def test_what_is_vulnerable_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tools(tmp_path, packages={"pypi": [GOOD, BAD, UNKNOWN]})) == 1
    printed = capsys.readouterr().out
    assert "pypi: 2 of 3 packages could be checked" in printed
    assert "pillow 1: CVE-1, fixed in 2" in printed


def test_the_next_database_is_asked_if_the_first_knows_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tools(tmp_path, packages={"pypi": [UNKNOWN], "osv": [GOOD]})) == 0
    assert "osv: 1 of 1 packages could be checked\n  none\n" in capsys.readouterr().out


@pytest.mark.parametrize("packages", [{}, {"pypi": [UNKNOWN], "osv": [UNKNOWN]}])
def test_that_nothing_could_be_checked_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], packages: dict[str, list[dict[str, Any]]]
) -> None:
    assert main(tools(tmp_path, packages=packages)) == 0
    assert "NOT CHECKED" in capsys.readouterr().out


def test_secrets_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = {"filename": "a.py", "line_number": 3, "type": "Private Key"}
    assert main(tools(tmp_path, packages={"pypi": [GOOD]}, secrets={"a.py": [secret]})) == 1
    assert "a.py:3: Private Key" in capsys.readouterr().out
