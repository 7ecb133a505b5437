import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from service.supervision.child import DEFAULT_METHOD, Child, Target, prepare

Start = Callable[..., Awaitable[Child]]


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> None:
    """Children are forked in milliseconds, because the fork server has imported what they run."""
    if DEFAULT_METHOD == "forkserver":
        prepare(["tests.service.supervision.targets"])


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """``Child.start`` without the name; children that are left are killed after the test."""
    children: list[Child] = []

    async def run(target: Target, *args: object, **options: Any) -> Child:
        children.append(await Child.start("genserve-test", target, *args, **options))
        return children[-1]

    yield run
    for child in children:
        child.close()
        await child.wait()
    await asyncio.sleep(0)  # the channels close
