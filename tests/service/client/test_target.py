import pytest

from service.client.target import base_url, timeouts


def test_the_address_is_given_or_the_environments_or_the_local_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENSERVE_URL", raising=False)
    assert str(base_url(None)) == "http://127.0.0.1:8000"
    monkeypatch.setenv("GENSERVE_URL", "https://there:9/genserve")
    assert str(base_url(None)) == "https://there:9/genserve"
    assert str(base_url("http://here")) == "http://here"


@pytest.mark.parametrize("text", ["localhost:8000", "ftp://there", "http://", "http://a:b:c", "8000"])
def test_what_is_no_address_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no address of a service"):
        base_url(text)


@pytest.mark.parametrize(("seconds", "connect"), [(90, 5), (2, 2)])
def test_a_connection_is_made_within_seconds(seconds: float, connect: float) -> None:
    assert (timeouts(seconds).read, timeouts(seconds).connect) == (seconds, connect)
