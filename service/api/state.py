"""What the routes share, put on the app by the composition root."""

from dataclasses import dataclass

from starlette.requests import Request

from service.engine.engine import Deployment, Engine
from service.engine.motion import Motion
from service.errors import ModelUnavailable, UnknownModel
from service.metrics import UNKNOWN_MODEL, Metrics
from service.settings import Settings


@dataclass(frozen=True)
class State:
    """The parts of a running service."""

    settings: Settings
    engine: Engine
    motion: Motion
    metrics: Metrics

    def deployment(self, name: str) -> Deployment:
        """What new requests for that model get. Raises UnknownModel, or ModelUnavailable when it was refused."""
        if name in self.engine.deployments:
            return self.engine.deployments[name]
        if name in self.motion.refused:
            raise ModelUnavailable(f"{name} was refused: {self.motion.refused[name]}")
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
    request.scope.setdefault("state", {})["model"] = name  # through request.state it costs as much as all the rest
    return state.deployment(name)
