import json
import os
import socket

from benchmarks.service_state import engines_ended, established, is_quiet, owners, serving_engine


def log(*lines: dict[str, object]) -> str:
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def test_the_engine_that_computes_is_the_last_one_ready() -> None:
    lines = log(
        {"message": "engine ready", "engine": 0, "pid": 11},
        {"message": "engine process ended", "engine_process": "engine-0", "pid": 9},
        {"message": "engine ready", "engine": 0, "pid": 12},
        {"message": "engine replaced", "engine": 0, "pid": 13},
    )
    assert serving_engine(lines) == 12
    assert engines_ended(lines) == 1


def test_a_spare_is_ready_when_it_is_idle() -> None:
    assert is_quiet({1: 5.0, 2: 1.0}, {1: 9.0, 2: 1.01}, serving=1)
    assert not is_quiet({1: 5.0, 2: 1.0}, {1: 9.0, 2: 1.4}, serving=1)  # it loads
    assert not is_quiet({1: 5.0}, {1: 9.0}, serving=1)  # there is none
    assert not is_quiet({1: 5.0}, {1: 9.0, 2: 0.0}, serving=1)  # it has just begun


def test_open_connections_are_read_from_the_kernels_table() -> None:
    rest = "00000000:00000000 00:00000000 00000000 0 0"
    lines = [
        f"0: 0100007F:1F90 00000000:0000 0A {rest} 11 1 0",  # listens
        f"1: 0100007F:1F90 0100007F:C350 01 {rest} 22 1 0",
        f"2: 0100007F:C350 0100007F:1F90 01 {rest} 33 1 0",  # the client's end of the same connection
        f"3: 0100007F:1F90 0100007F:C351 06 {rest} 0 1 0",  # closed
    ]
    table = "\n".join(["sl local_address rem_address st ...", *lines])
    assert established(table, 8080) == {50000: 22}


def test_a_connection_belongs_to_the_process_that_accepted_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with (
            socket.create_connection(("127.0.0.1", port)) as accepted,
            socket.create_connection(("127.0.0.1", port)) as waiting,
        ):
            ours, _ = server.accept()
            with ours:
                ports = [each.getsockname()[1] for each in (accepted, waiting)]
                assert owners(os.getpid(), port, ports) == {ports[0]}
                assert owners(os.getppid(), port, ports) == set()
