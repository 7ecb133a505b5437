import pytest

from service.client import AsyncClient, Client, Unsendable
from service.client.target import base_url, is_loopback, timeouts


def test_the_address_is_given_or_the_environments_or_the_local_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENSERVE_URL", raising=False)
    assert str(base_url(None)) == "http://127.0.0.1:8000"
    monkeypatch.setenv("GENSERVE_URL", "https://there:9/genserve")
    assert str(base_url(None)) == "https://there:9/genserve"
    assert str(base_url("http://here")) == "http://here"


@pytest.mark.parametrize(
    "text",
    [
        "localhost:8000",
        "ftp://there",
        "http://",
        "http://a:b:c",
        "8000",
        "http://a..b",
        "http://a:0",
        "http://a:65536",
        "http://\udcff",
    ],
)
def test_what_is_no_address_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not the address of a service"):
        base_url(text)


@pytest.mark.parametrize(("seconds", "connect"), [(90, 5), (2, 2)])
def test_a_connection_is_made_within_seconds(seconds: float, connect: float) -> None:
    assert (timeouts(seconds).read, timeouts(seconds).connect) == (seconds, connect)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:8000", True),
        ("http://LOCALHOST", True),
        ("http://genserve.localhost", True),
        ("http://127.8.0.1", True),
        ("http://[::1]:8000", True),
        ("http://0.0.0.0:8000", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example", False),
    ],
)
def test_addresses_of_this_machine_are_known(url: str, local: bool) -> None:
    assert is_loopback(base_url(url)) == local


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_proxy_is_asked_for_other_machines_only(
    kind: type[Client] | type[AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    kind("http://127.0.0.1:1")
    with pytest.raises(ValueError, match="settings of the environment cannot be used"):
        kind("http://there.invalid")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    kind("http://there.invalid")


@pytest.mark.parametrize("value", [float("nan"), "\udcff", object(), {1, 2}])
def test_a_value_that_json_cannot_hold_is_not_sent(value: object) -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(Unsendable):
        client.generate("ddpm", class_label=value)  # type: ignore[arg-type]
