import json
from collections.abc import Callable

import httpx
import pytest

from service.client import Client, Completed, Refused, Retries, Started, Unreachable
from tests.service.client.answers import generation, refusal, status

Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler, retries: Retries | None = None) -> Client:
    return Client("http://there/root", transport=httpx.MockTransport(handler), retries=retries or Retries())


def test_a_call_tried_again_asks_for_the_same_pictures() -> None:
    bodies = []

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/root/generate/vae"
        bodies.append(json.loads(request.content))
        return refusal(503, "overloaded", "0") if len(bodies) < 3 else httpx.Response(200, json=generation(2))

    with client(answer) as service:
        assert service.generate("vae", n=2, class_label="bag").seeds == (7, 8)
    assert len(bodies) == 3
    assert bodies[0] == bodies[1] == bodies[2]
    assert bodies[0].keys() == {"n", "class_label", "seed"}


def test_a_job_submitted_again_is_the_same_job() -> None:
    keys = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        assert request.headers["prefer"] == "respond-async"
        if len(keys) == 1:
            raise httpx.ReadError("reset")
        return httpx.Response(202, json=status("queued"))

    with client(answer, Retries(first_pause_s=0)) as service:
        assert service.submit("vae", n=2).id == "job-1"
        service.submit("vae", n=2)
    assert keys[0] == keys[1] != keys[2]


def test_a_service_that_is_not_there() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    refused = pytest.raises(Unreachable, match="No answer from http://there/root/: Connection refused")
    with client(answer, Retries(attempts=2, first_pause_s=0)) as service, refused:
        service.models()


def test_a_stream_is_refused_like_any_call() -> None:
    answer = refusal(422, "invalid-field", steps="is above 1000")
    with client(lambda _: answer) as service, pytest.raises(Refused) as failure:
        list(service.stream("vae", steps=9999))
    assert failure.value.problems[0].pointer == "#/steps"


class Breaking(httpx.SyncByteStream):
    """An answer whose connection breaks on the way, unless it is left before."""

    closed = False

    def __iter__(self):  # type: ignore[no-untyped-def]  # noqa: ANN204
        yield b'event: started\ndata: {"id": "a"}\n\n'
        yield f"event: completed\ndata: {json.dumps(generation())}\n\n".encode()
        raise httpx.ReadError("reset")

    def close(self) -> None:
        self.closed = True


def test_a_stream_that_breaks_is_told() -> None:
    with client(lambda _: httpx.Response(200, stream=Breaking())) as service:
        events = service.stream("vae")
        heard = [type(next(events)), type(next(events))]
        with pytest.raises(Unreachable, match="reset"):
            next(events)
    assert heard == [Started, Completed]


def test_a_stream_that_is_left_is_closed() -> None:
    stream = Breaking()
    with client(lambda _: httpx.Response(200, stream=stream)) as service:
        for event in service.stream("vae"):
            if isinstance(event, Completed):
                break
    assert stream.closed
