"""The store that the settings name."""

import sys

import pytest

from service.settings import Settings
from service.store.opening import open_store
from service.store.shared.rows import StoreRefused
from tests.service.store.stores import PlainCodec


async def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "service.store.redis.connection", raising=False)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    settings = Settings(store="redis://:sesame@localhost:1/0")
    with pytest.raises(StoreRefused, match=r"pip install 'genserve\[redis\]'") as failure:
        await open_store(settings, PlainCodec())
    assert "sesame" not in str(failure.value)


@pytest.mark.parametrize("store", ["redis://", "redis:/host", "rediss://a b", "postgres://host"])
def test_other_addresses_are_refused(store: str) -> None:
    with pytest.raises(ValueError, match="store"):
        Settings(store=store)
