import sys

import pytest

from service.cli import main


def test_an_address_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--url", "localhost:8000"]) == 1
    assert capsys.readouterr().err.startswith("error: 'localhost:8000' is not the address of a service, such as")


@pytest.mark.parametrize("package", ["httpx", "tqdm"])
def test_a_package_that_is_not_installed(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for loaded in [name for name in sys.modules if name.startswith("service.client")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["models"]) == 1
    assert capsys.readouterr().err == f"error: this command needs {package}: pip install 'genserve[client]'\n"
