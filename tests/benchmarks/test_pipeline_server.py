import asyncio
from collections.abc import Sequence

import pytest

pytest.importorskip("fastapi")

from benchmarks.peers.pipeline_server import Request, Waiting, serve_line, take


class Recorder:
    """In place of the pipeline: a picture is its seed. It refuses 13 steps."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def pngs(self, requests: Sequence[Request]) -> list[bytes]:
        self.calls.append([request.seed for request in requests])
        if requests[0].steps == 13:
            raise ValueError("unlucky")
        return [b"%d" % request.seed for request in requests]


async def waiting(*requests: Request) -> list[Waiting]:
    return [Waiting(request, asyncio.get_running_loop().create_future()) for request in requests]


def asked(seed: int, steps: int, guidance_scale: float = 1.0) -> Request:
    return Request(seed=seed, steps=steps, guidance_scale=guidance_scale)


async def test_a_call_takes_the_oldest_and_those_of_equal_settings() -> None:
    line = await waiting(asked(0, 4), asked(1, 50), asked(2, 4), asked(3, 4, 7.5), asked(4, 4))
    assert [each.request.seed for each in take(line, 8)] == [0, 2, 4]
    assert [each.request.seed for each in line] == [1, 3]


async def test_a_call_takes_no_more_than_the_most() -> None:
    line = await waiting(asked(0, 4), asked(1, 4), asked(2, 4))
    assert [each.request.seed for each in take(line, 1)] == [0]
    assert [each.request.seed for each in take(line, 1)] == [1]


async def test_each_request_gets_its_picture_and_a_failure_is_that_of_its_call() -> None:
    pictures, arrived = Recorder(), asyncio.Event()
    line = await waiting(asked(0, 4), asked(1, 13), asked(2, 4))
    wanted = list(line)
    serving = asyncio.create_task(serve_line(pictures, line, arrived, most=8))
    results = await asyncio.wait_for(asyncio.gather(*(each.png for each in wanted), return_exceptions=True), 30)
    serving.cancel()
    assert (results[0], results[2]) == (b"0", b"2")
    assert isinstance(results[1], ValueError)
    assert pictures.calls == [[0, 2], [1]]
