"""Requests to other hosts, with which a web page's name was made to lead to this machine."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from service.api.http.endpoint import App
from service.request_info import info_of
from service.server.hosts import MOST_KNOWN, Hosts, with_hosts
from service.settings import Settings


def settings_of(folder: Path, **fields: Any) -> Settings:
    return Settings(weights_dir=folder, **fields)


async def nothing(scope: Scope, receive: Receive, send: Send) -> None: ...


def allows(app: Any, host: bytes | None) -> bool:
    """Whether a request with that Host is handled."""
    scope: Scope = {"type": "http", "headers": [] if host is None else [(b"host", host)]}
    asyncio.run(app(scope, None, None))
    rejection = info_of(scope).rejection
    assert rejection is None or rejection.status == 421
    return rejection is None


OWN: list[bytes | None] = [
    b"localhost",
    b"localhost:8000",
    b"LocalHost:8000",
    b"127.0.0.1",
    b"127.0.0.1:8000",
    b"[::1]",
    b"[::1]:8000",
]
OWN += [b"192.168.1.5:8000", None]
OTHER = [b"evil.example", b"evil.example:8000", b"localhost.evil.example", b"127.0.0.1.evil.example", b"", b"x", b":80"]
OTHER += [b"localhost:", b"localhost@evil.example", b"evil.example/localhost", b"[evil.example]", b"\xff", b"a:b:c"]


@pytest.mark.parametrize("host", OWN)
def test_a_service_on_loopback_answers_to_its_own_names(tmp_path: Path, host: bytes | None) -> None:
    assert allows(with_hosts(nothing, settings_of(tmp_path)), host)


@pytest.mark.parametrize("host", OTHER)
def test_and_to_no_other_name(tmp_path: Path, host: bytes) -> None:
    assert not allows(with_hosts(nothing, settings_of(tmp_path)), host)


def test_two_hosts_must_both_be_allowed(tmp_path: Path) -> None:
    scope: Scope = {"type": "http", "headers": [(b"host", b"localhost"), (b"host", b"evil.example")]}
    asyncio.run(with_hosts(nothing, settings_of(tmp_path))(scope, None, None))  # type: ignore[arg-type]
    assert info_of(scope).rejection is not None


def test_settings_add_names_and_open_the_service(tmp_path: Path) -> None:
    listed = with_hosts(nothing, settings_of(tmp_path, host="0.0.0.0", allowed_hosts="service, Pictures.example"))
    assert [allows(listed, host) for host in (b"service:8000", b"pictures.example", b"evil.example", b"10.0.0.1")] == [
        True,
        True,
        False,
        True,
    ]
    public = with_hosts(nothing, settings_of(tmp_path, public_url="https://Example.org:8443/pictures"))
    assert [allows(public, host) for host in (b"example.org", b"evil.example")] == [True, False]
    for anyone in (settings_of(tmp_path, host="0.0.0.0"), settings_of(tmp_path, allowed_hosts="*")):
        assert with_hosts(nothing, anyone) is nothing


def test_few_hosts_are_remembered() -> None:
    hosts = Hosts(nothing, frozenset())
    for number in range(2 * MOST_KNOWN):
        assert allows(hosts, b"127.0.0.1:%d" % number)
    assert len(hosts._known) == MOST_KNOWN


async def test_the_answer_is_a_problem(tmp_path: Path) -> None:
    app = App()
    app.state.service = None
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "GET", "path": "/x", "query_string": b"", "headers": [(b"host", b"evil")]}
    info_of(scope).counted = True
    await with_hosts(app, settings_of(tmp_path))(scope, None, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 421
    assert json.loads(sent[1]["body"])["code"] == "wrong-host"
