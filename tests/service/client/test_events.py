import json
from typing import Any

import pytest

from service.client.errors import Refused, UnexpectedAnswer
from service.client.events import Completed, Event, EventReader, ImageReady, PreviewReady, Queued, Started
from tests.service.client.answers import generation, picture, png, problem


def read(*told: tuple[str, dict[str, Any]]) -> list[Event]:
    """The events of a stream that tells so, to its end."""
    reader, events = EventReader(), []
    for number, (name, data) in enumerate(told, 1):
        for line in (f"id: {number}", f"event: {name}", f"data: {json.dumps(data)}", ""):
            if (event := reader.feed(line)) is not None:
                events.append(event)
    reader.finish()
    return events


def test_events_are_typed() -> None:
    preview = {"index": 1, "step": 2, "steps": 4, "t": 0.5, "kind": "x0", "mime": "image/png"}
    told = read(
        ("queued", {"id": "a", "queue_position": 3, "eta_ms": None}),
        ("started", {"id": "a"}),
        ("preview", {**preview, "b64_json": picture()["b64_json"]}),
        ("image", picture(0)),
        ("an event of later versions", {}),
        ("completed", generation()),
    )
    queued, started, shown, image, completed = told
    assert queued == Queued("a", 3, None)
    assert started == Started("a")
    assert shown == PreviewReady(1, 2, 4, 0.5, "x0", png())
    assert isinstance(image, ImageReady)
    assert image.image.png == png(0)
    assert isinstance(completed, Completed)
    assert completed.generation.seeds == (7,)


def test_an_error_is_raised() -> None:
    with pytest.raises(Refused) as failure:
        read(("started", {"id": "a"}), ("error", problem(504, "deadline-exceeded")))
    assert (failure.value.status, failure.value.code) == (504, "deadline-exceeded")


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(("started", {"id": "a"}), id="that stops before the end"),
        pytest.param(("completed", {"id": "a"}), id="with half an answer"),
        pytest.param(("error", {"message": "no"}), id="with an error of another form"),
    ],
)
def test_a_stream_that_cannot_be_read(told: tuple[str, dict[str, Any]]) -> None:
    with pytest.raises(UnexpectedAnswer):
        read(told)


def test_comments_are_passed_over_and_long_data_is_joined() -> None:
    reader = EventReader()
    lines = (":", "", "event: started", 'data: {"id":', 'data: "a"}', "")
    assert [reader.feed(line) for line in lines] == [*[None] * 5, Started("a")]
