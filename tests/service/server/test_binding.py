"""The public sockets, and what people read about them."""

import logging
import socket

import pytest

from service.logs import SENTENCE
from service.server.binding import bind_public, log_running
from service.settings import Settings


def test_processes_share_one_port_and_do_not_listen_yet() -> None:
    listeners = bind_public(Settings(port=0), 3)
    ports = {listener.getsockname()[1] for own in listeners for listener in own}
    assert len(listeners) == 3
    assert len(ports) == 1
    for own in listeners:
        for listener in own:
            with pytest.raises(OSError, match="Invalid argument"):
                listener.accept()
            listener.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_port_in_use_is_told_by_its_number(processes: int) -> None:
    ((taken,),) = bind_public(Settings(port=0), 1)
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(OSError, match=rf"port {port} of 127.0.0.1 is in use; (\d+) is free: GENSERVE_PORT=\1,"):
        bind_public(Settings(port=port), processes)
    taken.close()


def test_no_port_is_suggested_where_none_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    ((taken,),) = bind_public(Settings(port=0), 1)
    taken.listen()
    port = taken.getsockname()[1]
    monkeypatch.setattr("service.server.binding.NEAR", 0)
    with taken, pytest.raises(OSError, match=rf"port {port} of 127.0.0.1 is in use$"):
        bind_public(Settings(port=port), 1)


@pytest.mark.parametrize(
    ("host", "shown", "opened"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0", "127.0.0.1"),
        ("::1", "[::1]", "[::1]"),
        ("::", "[::]", "[::1]"),
    ],
)
def test_the_address_that_is_logged_can_be_opened(
    host: str, shown: str, opened: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Listener(socket.socket):
        def getsockname(self) -> tuple[object, ...]:
            return (host, 8000, 0, 0) if ":" in host else (host, 8000)

    with caplog.at_level(logging.INFO), Listener() as listener:
        log_running(listener)
    (record,) = caplog.records
    assert f"running on http://{shown}:8000 " in record.message
    assert vars(record)[SENTENCE] == f"open http://{opened}:8000"
