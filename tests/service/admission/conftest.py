import os

import pytest


@pytest.fixture
def fixed_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients have the same places in every run."""
    monkeypatch.setattr(os, "urandom", lambda size: bytes(range(size)))
