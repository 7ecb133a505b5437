"""The service on Ray Serve: `serve run deploy.ray.app:app`. docs/SCALING.md says how, and what clients see.

Each replica is a whole service in one process: the API, admission and an engine that batches rows step by step.
"""

import asyncio
from typing import Any, cast

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from deploy.ray.policy import WORK
from service import logs
from service.__main__ import refusal
from service.api.request.capabilities import reads_prompts
from service.api.request.resolve import resolve
from service.api.request.schemas import GenerateRequest
from service.api.state import State
from service.app import create_app
from service.engine.deployment import Deployment
from service.engine.pricing import default_picture_ms
from service.errors import Overloaded, ShareExceeded, TooLate
from service.server.hosts import with_hosts
from service.server.proxy import behind_proxy
from service.settings import Settings

#: Seconds between two tries to get the picture of a health check past a full queue.
AGAIN_S = 0.1

#: What serve's configuration file may override. The service's own limits reject first, with 429 and 503: Ray's are
#: above them. `check_health` may wait for a full queue, so its timeout is longer than GENSERVE_MAX_QUEUE_MS.
OPTIONS = {
    "ray_actor_options": {"num_cpus": 1},
    "max_ongoing_requests": 512,
    "max_queued_requests": 512,
    "health_check_period_s": 5,
    "health_check_timeout_s": 60,
    "graceful_shutdown_timeout_s": 40,
    "autoscaling_config": AutoscalingConfig(
        min_replicas=2,
        max_replicas=8,
        policy=AutoscalingPolicy(policy_function="deploy.ray.policy:PredictedWork", policy_kwargs={"target_s": 2.0}),
    ),
}


@serve.deployment(name="Genserve", **OPTIONS)
@serve.ingress()
class Genserve:
    """A replica. Its settings are the environment variables of its process. Raises ValueError if they are refused."""

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The application, which Ray Serve starts on the event loop of the replica."""
        settings = Settings()
        if (reason := refusal(settings)) is not None:
            raise ValueError(reason)
        logs.configure(settings.log_level, settings.log_format)
        self._app = create_app(settings)
        app = with_hosts(behind_proxy(self._app, settings), settings)
        trusted = settings.forwarded_allow_ips
        return cast(ASGIApp, ProxyHeadersMiddleware(cast(Any, app), trusted)) if trusted else app

    async def check_health(self) -> None:
        """Make one picture, of the model whose pictures cost least. Raises when the replica must be replaced.

        A full queue is no fault, so the picture is tried again; Ray's timeout bounds that. Models that need a prompt
        are not tried: a replica that has no others is checked for its engine's threads only.
        """
        state = self._state
        if not state.engine.is_alive():
            raise RuntimeError("A thread of the engine has ended.")
        able = [each for each in state.engine.deployments.values() if _draws(each)]
        if able:
            await _draw(state, min(able, key=default_picture_ms))

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Seconds until the admitted work is done, by the engine's prices."""
        return {WORK: predicted_s(self._state)}

    @property
    def _state(self) -> State:
        state: State = self._app.state.service
        return state


def predicted_s(state: State) -> float:
    """Seconds in which all threads of the engine would do the admitted work of all models."""
    parts = [part for each in state.engine.deployments.values() for part in each.parts]
    return sum(part.gate.accepted_ms / part.threads for part in parts) / 1000


def _draws(deployment: Deployment) -> bool:
    model = deployment.model
    return "generate" in model.manifest.capabilities and not reads_prompts(model)


async def _draw(state: State, deployment: Deployment) -> None:
    resolved = resolve(GenerateRequest(), deployment.model, "image/png", state.settings)
    while True:
        try:
            submission = state.engine.submit(deployment, [resolved.row(0)], client="health")
        except (Overloaded, ShareExceeded, TooLate):
            await asyncio.sleep(AGAIN_S)
            continue
        try:
            await submission.future
        finally:
            submission.cancel()
        return


app = Genserve.bind()  # type: ignore[attr-defined]  # mypy does not apply decorators to classes
