from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import process_tree, server
from benchmarks.server import Service, port_in, service_process, some_models


@pytest.mark.parametrize(
    "line",
    [
        '{"level": "info", "message": "Uvicorn running on http://127.0.0.1:40123 (Press CTRL+C to quit)"}',
        '{"level": "info", "message": "genserve running on http://127.0.0.1:40123 (Press CTRL+C to quit)"}',
        '{"level": "info", "message": "genserve running on http://[::1]:40123 (Press CTRL+C to quit)"}',
    ],
)
def test_the_port_is_in_the_log_of_one_process_and_of_several(line: str) -> None:
    assert port_in('{"message": "admin port", "port": 8001}\n' + line) == 40123


def test_there_is_no_port_before_the_service_is_ready() -> None:
    assert port_in('{"message": "Waiting for application startup."}\n') is None


def test_a_service_that_does_not_start_tells_its_log() -> None:
    with pytest.raises(RuntimeError, match=r"exit code 1(.|\n)*No module named"), service_process(module="no_such"):
        pass


def test_a_service_is_settled_once_it_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    used: Iterator[float] = iter([1.0, 1.001, 1.001, 1.0012, 1.0012, 1.00121, 9.9])
    monkeypatch.setattr(process_tree, "cpu_s", lambda pid: next(used))
    monkeypatch.setattr(server, "QUIET_S", 0.001)
    Service(8000, 1, 0.0, Path()).settle()
    assert next(used) == 9.9


def test_a_weights_folder_has_the_models_that_are_wanted() -> None:
    with some_models("quick-gan") as weights:
        assert [path.name for path in weights.iterdir()] == ["quick-gan"]
        assert (weights / "quick-gan" / "manifest.json").is_file()
    assert (server.WEIGHTS / "quick-gan" / "manifest.json").is_file()
