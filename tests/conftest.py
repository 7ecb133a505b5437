from collections.abc import Iterator

import pytest
import torch

from tests.redis_server import end_shared_server


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests that are coroutines run on asyncio, as the service does."""
    return "asyncio"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Give each test, and the fixtures made for it, the same random weights and inputs in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _no_server_is_left() -> Iterator[None]:
    yield
    end_shared_server()
