"""The private parts of uvicorn that service/server/protocol.py and service/server/serve.py build on.

A new minor version may change them. Then these tests name what has changed: adapt the two modules, and raise the bound
in pyproject.toml.
"""

import asyncio
import inspect
import re
from pathlib import Path

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tests.service.server.test_protocol import ok

ROOT = Path(__file__).parents[3]

#: What our classes override or call, with the parameters that they rely on.
METHODS = {
    HttpToolsProtocol: {
        "connection_made": ["transport"],
        "connection_lost": ["exc"],
        "data_received": ["data"],
        "eof_received": [],
        "on_headers_complete": [],
        "on_body": ["body"],
        "on_message_complete": [],
        "on_response_complete": [],
        "timeout_keep_alive_handler": [],
        "_unset_keepalive_if_required": [],
        "_start_asgi_task": ["cycle", "app"],
    },
    RequestResponseCycle: {"send": ["message"]},
    uvicorn.Server: {
        "serve": ["sockets"],
        "startup": ["sockets"],
        "shutdown": ["sockets"],
        "capture_signals": [],
        "handle_exit": ["sig", "frame"],
    },
}

#: Attributes of instances, read or set by our classes.
CONNECTION = {
    *("parser", "url", "headers", "scope", "cycle", "pipeline", "flow", "transport", "loop", "server_state"),
    *("timeout_keep_alive", "timeout_keep_alive_task"),
}
REQUEST = {
    *("scope", "transport", "flow", "default_headers", "message_event", "on_response", "disconnected", "keep_alive"),
    *("body", "more_body", "response_started", "response_complete", "chunked_encoding", "expected_content_length"),
}


@pytest.mark.parametrize(
    ("kind", "method"), [(kind, method) for kind, methods in METHODS.items() for method in methods]
)
def test_a_method_has_the_parameters_that_it_is_called_with(kind: type, method: str) -> None:
    parameters = list(inspect.signature(getattr(kind, method)).parameters)
    assert parameters == ["self", *METHODS[kind][method]]


def test_a_connection_and_its_request_have_the_attributes_that_are_used() -> None:
    async def scenario() -> tuple[set[str], set[str]]:
        config = uvicorn.Config(ok, http=HttpToolsProtocol, ws="none", lifespan="off", log_config=None)
        config.load()
        connection = HttpToolsProtocol(config=config, server_state=ServerState(), app_state={})
        connection.on_message_begin()
        parameters = inspect.signature(RequestResponseCycle.__init__).parameters
        cycle = RequestResponseCycle(**dict.fromkeys(set(parameters) - {"self"}))  # type: ignore[arg-type]
        return set(vars(connection)), set(vars(cycle))

    connection, cycle = asyncio.run(scenario())
    assert CONNECTION - connection == set()
    assert REQUEST - cycle == set()


def test_a_status_line_ends_and_begins_as_answers_are_put_together() -> None:
    assert httptools_impl.STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"


def test_a_cycle_can_become_ours() -> None:
    """``__class__`` is assigned, which a layout of its own (``__slots__``) would forbid."""
    assert "__slots__" not in vars(RequestResponseCycle)


def test_an_untested_version_is_not_installed() -> None:
    bound = re.search(r'"uvicorn>=([\d.]+),<([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert bound is not None
    least, beyond, installed = (tuple(map(int, each.split("."))) for each in (bound[1], bound[2], uvicorn.__version__))
    assert least <= installed < beyond
    assert beyond[:2] == (installed[0], installed[1] + 1)
