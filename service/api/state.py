"""The parts of the running service that handlers share; ``service.app`` builds it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from starlette.requests import Request

from service.access.addresses import client_at
from service.access.keys import KeyFile, KeyRing
from service.access.streams import Streams
from service.admission.memory import Memory
from service.api.http.paced import Paced
from service.api.order import Order, Output
from service.api.prompts import PromptCache
from service.api.request.body import BodyTranslator
from service.api.request.resolve_cache import ResolvedCache
from service.background import Background
from service.engine.deployment import Deployment
from service.engine.engine import Engine
from service.errors import ModelUnavailable, UnknownModel
from service.history import History
from service.metrics import UNKNOWN_MODEL, Metrics
from service.request_info import info_of
from service.settings import Settings
from service.store.job import Job, JobView
from service.store.jobs import JobStore
from service.store.keys import KeyedAnswers
from service.store.opening import Store


class JobResult(NamedTuple):
    """The output of a job, the order that it answers, and its JSON answer with encoded headers."""

    order: Order
    output: Output
    body: bytes
    headers: Sequence[tuple[bytes, bytes]]


#: A job that this process computes, and a job whichever process computes it.
PictureJob = Job[Order, JobResult]
AnyJob = JobView[JobResult]


class ModelStates(Protocol):
    """Which models cannot be served. ``refused``: by model, the reason. ``ready``: one is served and none refused."""

    @property
    def refused(self) -> Mapping[str, str]: ...  # noqa: D102

    @property
    def ready(self) -> bool: ...  # noqa: D102


@dataclass
class State:
    """The parts of a running service."""

    settings: Settings
    engine: Engine
    models: ModelStates
    metrics: Metrics
    store: Store[Order, JobResult]
    history: History
    resolved: ResolvedCache
    memory: Memory
    background: Background
    keys: KeyRing
    streams: Streams
    #: Where this process reads them from; None where another process does, or there are none.
    key_file: KeyFile | None = None
    translators: Sequence[BodyTranslator] = ()
    prompts: PromptCache = field(default_factory=PromptCache)
    paced: Paced = field(default_factory=Paced)
    #: Whether the service is about to end: it answers, and wants no new clients.
    stopping: bool = False

    @property
    def jobs(self) -> JobStore[Order, JobResult]:
        """The jobs of all processes that share the store."""
        return self.store.jobs

    @property
    def keyed(self) -> KeyedAnswers:
        """The answers that are kept for an Idempotency-Key."""
        return self.store.keyed

    @property
    def faults(self) -> dict[str, str]:
        """Reasons of failure by part of the service; models are not included."""
        fault = self.engine.fault
        ends = {"service": "it is stopping"} if self.stopping else {}
        return ends | ({} if fault is None else {"engine": fault}) | self.background.failing

    @property
    def ready(self) -> bool:
        """Whether every model serves, every engine runs, and the service is not stopping.

        A failing background step is reported in ``faults`` only: requests are served without it, and a failure of a
        disk that all instances share would otherwise make all of them unready.
        """
        return self.models.ready and self.engine.fault is None and not self.stopping

    def deployment(self, name: str) -> Deployment:
        """The deployment for new requests to that model. Raises UnknownModel; ModelUnavailable if it failed to load."""
        if name in self.engine.deployments:
            return self.engine.deployments[name]
        if name in self.models.refused:
            raise ModelUnavailable(f"{name} could not be loaded: {self.models.refused[name]}")
        raise UnknownModel(name, self.engine.deployments)

    def count_error(self, name: str | None, code: str) -> None:
        """Count an answer with an error; all names of unknown models share one series."""
        if name in self.engine.deployments:
            self.engine.deployments[name].metrics.errors[code].inc()
        else:
            self.metrics.errors.labels(UNKNOWN_MODEL, code).inc()


def state_of(request: Request) -> State:
    """The state of the service that handles ``request``."""
    state = request.app.state.service
    assert isinstance(state, State)
    return state


def deployment_of(request: Request, state: State, name: str) -> Deployment:
    """The version of the model that computes all of ``request``; later errors of the request count as that model's.

    Raises as ``State.deployment``.
    """
    info = info_of(request.scope)
    info.model = name
    deployment = state.deployment(name)
    info.model_version = deployment.model.manifest.version
    return deployment


def client_of(request: Request) -> str:
    """The client that all bounds for one client count: its API key, else its address or IPv6 network."""
    client = request.scope["client"]
    return client_at(client[0]) if client else ""
