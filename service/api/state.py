"""What the routes share, put on the app by the composition root."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import Request

from service.api.history import History
from service.api.rendering import Made, Order
from service.engine.engine import Engine
from service.engine.model import Model
from service.engine.registry import Registry
from service.errors import ModelUnavailable, UnknownModel
from service.jobs.keys import KeyedAnswers
from service.jobs.record import JobRecord
from service.jobs.store import JobStore
from service.metrics import UNKNOWN_MODEL, Metrics
from service.settings import Settings

#: The lines of a head, encoded.
Headers = Sequence[tuple[bytes, bytes]]


class Finished(NamedTuple):
    """What a job made, and its JSON answer."""

    made: Made
    body: bytes
    headers: Headers


PictureJob = JobRecord[Order, Finished]


class KeptAnswer(NamedTuple):
    """An answer that is given again."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True)
class State:
    """The parts of a running service."""

    settings: Settings
    registry: Registry
    engine: Engine
    metrics: Metrics
    jobs: JobStore[Order, Finished]
    keyed: KeyedAnswers[KeptAnswer]
    history: History

    def model(self, name: str) -> Model:
        """The served model of that name. Raises UnknownModel, or ModelUnavailable when it was refused at start."""
        if name in self.registry.served:
            return self.registry.served[name].model
        if name in self.registry.refused:
            raise ModelUnavailable(f"{name} was refused at start: {self.registry.refused[name]}")
        raise UnknownModel(name, self.registry.served)

    def count_error(self, name: str | None, code: str) -> None:
        """Count an answer with an error; names that are no served model's share one series."""
        if name in self.engine.lanes:
            self.engine.lanes[name].metrics.errors[code].inc()
        else:
            self.metrics.errors.labels(UNKNOWN_MODEL, code).inc()


def state_of(request: Request) -> State:
    """The state of the service that ``request`` came to."""
    state = request.app.state.service
    assert isinstance(state, State)
    return state


def model_of(request: Request, state: State, name: str) -> Model:
    """The served model that ``request`` asks for; what goes wrong with the request from here on counts as its error.

    Raises as ``State.model``.
    """
    request.scope.setdefault("state", {})["model"] = name  # through request.state it costs as much as all the rest
    return state.model(name)
