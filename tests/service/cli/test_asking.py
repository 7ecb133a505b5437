import pytest

from service.cli import main


def test_an_address_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--url", "localhost:8000"]) == 1
    assert capsys.readouterr().err.startswith("error: 'localhost:8000' is not the address of a service, such as")
