"""What the routes share, put on the app by the composition root."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import Request

from service.admission.memory import Memory
from service.api.order import Made, Order
from service.api.request.meanings import Meanings
from service.background import Background
from service.engine.engine import Deployment, Engine
from service.errors import ModelUnavailable, UnknownModel
from service.history import History
from service.metrics import UNKNOWN_MODEL, Metrics
from service.models.manager import ModelManager
from service.request_info import info_of
from service.settings import Settings
from service.store.job import Job
from service.store.jobs import JobStore
from service.store.keys import KeyedAnswers

#: The lines of a head, encoded.
Headers = Sequence[tuple[bytes, bytes]]


class Finished(NamedTuple):
    """What a job made, and its JSON answer."""

    made: Made
    body: bytes
    headers: Headers


PictureJob = Job[Order, Finished]


class KeptAnswer(NamedTuple):
    """An answer that is given again."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True)
class State:
    """The parts of a running service."""

    settings: Settings
    engine: Engine
    manager: ModelManager
    metrics: Metrics
    jobs: JobStore[Order, Finished]
    keyed: KeyedAnswers[KeptAnswer]
    history: History
    meanings: Meanings
    memory: Memory
    background: Background

    @property
    def faults(self) -> dict[str, str]:
        """What does not work that should, by part of the service, with the reason; models apart."""
        dead = {} if self.engine.is_alive() else {"engine": "A thread ended by a fault: only a restart will help."}
        return dead | self.background.failing

    @property
    def ready(self) -> bool:
        """Whether requests should come here: every model serves, and the engine's threads run.

        A background step that fails is shown and is no reason: what is served is served as well without it, and a disk
        that all instances share would otherwise take all of them out at once.
        """
        return self.manager.ready and self.engine.is_alive()

    def deployment(self, name: str) -> Deployment:
        """What new requests for that model get. Raises UnknownModel, or ModelUnavailable when it was refused."""
        if name in self.engine.deployments:
            return self.engine.deployments[name]
        if name in self.manager.refused:
            raise ModelUnavailable(f"{name} was refused: {self.manager.refused[name]}")
        raise UnknownModel(name, self.engine.deployments)

    def count_error(self, name: str | None, code: str) -> None:
        """Count an answer with an error; names that are no served model's share one series."""
        if name in self.engine.deployments:
            self.engine.deployments[name].metrics.errors[code].inc()
        else:
            self.metrics.errors.labels(UNKNOWN_MODEL, code).inc()


def state_of(request: Request) -> State:
    """The state of the service that ``request`` came to."""
    state = request.app.state.service
    assert isinstance(state, State)
    return state


def deployment_of(request: Request, state: State, name: str) -> Deployment:
    """The version that answers all of ``request``; what goes wrong with it from here on counts as its model's error.

    Raises as ``State.deployment``.
    """
    info = info_of(request.scope)
    info.model = name
    deployment = state.deployment(name)
    info.model_version = deployment.model.manifest.version
    return deployment
