"""An installation of the client alone: its packages suffice for it, and the other commands say what they need."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
#: What the extra `serve` imports.
SERVING = (
    *("torch", "numpy", "fastapi", "fastapi_offline", "starlette", "uvicorn", "uvloop", "httptools", "msgspec"),
    *("pydantic_settings", "prometheus_client", "PIL", "tokenizers", "python_multipart", "zlib_ng"),
)


def run_without(packages: tuple[str, ...], script: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` in an interpreter that finds none of ``packages``."""
    hidden = f"import sys; sys.modules.update(dict.fromkeys({packages}))\n"
    command = [sys.executable, "-c", hidden + script]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("command", "package"),
    [("serve", "fastapi"), ("add no-such-folder", "torch"), ("key new alice", "msgspec")],
)
def test_a_command_whose_packages_are_absent_says_how_to_install_them(command: str, package: str) -> None:
    done = run_without((package,), f"from service.cli import main; sys.exit(main({command.split()}))")
    assert done.returncode == 1
    assert done.stderr == f"error: this command needs {package}: pip install 'genserve[serve]'\n"


def test_the_client_and_the_command_need_none_of_what_serves() -> None:
    script = "import service.client, service.cli.progress; from service.cli import main; main(['generate', '--help'])"
    done = run_without(SERVING, script)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: genserve generate" in done.stdout
