"""Server-sent events (the HTML standard, section 9.2) as typed values."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.client.errors import Refused, UnexpectedAnswer, problem_of
from service.client.results import Generation, Image, Png, read_json


@dataclass(frozen=True, slots=True)
class Queued:
    """Waiting: pictures of others come first, and about ``eta_ms`` milliseconds are left until the end."""

    id: str
    queue_position: int
    eta_ms: float | None


@dataclass(frozen=True, slots=True)
class Started:
    """The first picture is being computed."""

    id: str


@dataclass(frozen=True, slots=True)
class PreviewReady:
    """A preview of picture ``index``: ``kind`` is x0, the predicted clean picture, or xt, the noisy state."""

    index: int
    step: int
    steps: int
    t: float
    kind: str
    png: Png


@dataclass(frozen=True, slots=True)
class ImageReady:
    """One picture is finished."""

    image: Image


@dataclass(frozen=True, slots=True)
class Completed:
    """All pictures are finished; the last event."""

    generation: Generation


Event = Queued | Started | PreviewReady | ImageReady | Completed

_PLAIN: Mapping[str, type[Queued | Started | PreviewReady]] = {
    "queued": Queued,
    "started": Started,
    "preview": PreviewReady,
}


class EventReader:
    """Turns lines into events."""

    def __init__(self) -> None:
        self.ended = False
        self._name, self._data = "", ""

    def feed(self, line: str) -> Event | None:
        """The event that ``line`` completes, or None. Raises Refused for an error event, UnexpectedAnswer."""
        if line:
            name, _, text = line.partition(":")
            if name == "event":
                self._name = text.removeprefix(" ")
            elif name == "data":
                self._data += text.removeprefix(" ")
            return None
        name, data = self._name, self._data
        self._name, self._data = "", ""
        return self._event(name, data) if data else None

    def finish(self) -> None:
        """Check that the stream is complete. Raises UnexpectedAnswer if the last event is missing."""
        if not self.ended:
            raise UnexpectedAnswer("The events ended before the pictures were finished.")

    def _event(self, name: str, data: str) -> Event | None:
        if name in _PLAIN:
            return read_json(_PLAIN[name], data)
        if name == "image":
            return ImageReady(read_json(Image, data))
        if name == "completed":
            self.ended = True
            return Completed(read_json(Generation, data))
        if name == "error":
            raise _refusal(data)
        return None


def _refusal(data: str) -> Refused | UnexpectedAnswer:
    try:
        return problem_of(data)
    except ValueError:
        return UnexpectedAnswer("The service sent an error that this client cannot read.")
