"""GET /stats: the last minute of each model, from the numbers that Prometheus scrapes."""

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.http.endpoint import route
from service.api.http.openapi import Answer, Operation
from service.api.request.body import parse_query
from service.api.request.fields import Fields
from service.api.request.negotiation import JSON
from service.api.state import State, state_of
from service.history import LONGEST_S, STAGES, STEP_S, Latency, Snapshot, increase, latency, quantile_ms, steps


class StatsRequest(Fields):
    """The query of GET /stats."""

    window: int = Field(default=60, ge=int(STEP_S), le=LONGEST_S, description="Length of the window in seconds.")


class ModelHistory(BaseModel):
    """The window in steps, oldest first; the last step is incomplete."""

    requests: list[int]
    pictures: list[int]
    queued_rows: list[int] = Field(description="At the end of the step.")
    p50_ms: list[float | None] = Field(description="From a request's arrival to its answer.")
    p95_ms: list[float | None]


class ModelStats(BaseModel):
    """One model in the window."""

    requests: int = Field(description="Requests and jobs answered with images.")
    pictures: int
    errors: dict[str, int] = Field(description="Requests answered with an error, by its code.")
    queued_rows: int = Field(description="Images that are waiting now.")
    live_rows: int = Field(description="Images that are being computed now.")
    latency: dict[str, Latency] = Field(
        description="By stage: queue, compute, encode, and request, which is the whole."
    )
    history: ModelHistory


class Stats(BaseModel):
    """Every model in the window."""

    window_s: int
    step_s: float
    models: dict[str, ModelStats]


async def get_stats(request: Request) -> Response:
    """Requests, latencies, queues and errors of each model in the last seconds."""
    state = state_of(request)
    asked = parse_query(StatsRequest, request)
    body = await state.paced.get(("stats", asked.window), lambda: _stats(state, asked.window))
    return Response(body, media_type=JSON, headers={"Cache-Control": "no-store"})


def _stats(state: State, window_s: int) -> bytes:
    looks = state.history.since(window_s)
    models = {name: _model(looks, name) for name in looks[-1].models}
    return Stats(window_s=window_s, step_s=STEP_S, models=models).model_dump_json().encode()


ROUTE = route(
    "/stats",
    {
        "GET": Operation(
            get_stats,
            tag="operations",
            answers={200: Answer("The numbers.", {JSON: Stats}, ["Cache-Control"])},
            errors=[422],
            query=StatsRequest,
        )
    },
)


def _model(looks: list[Snapshot], name: str) -> ModelStats:
    taken = steps(looks, name)
    first, last = taken[0][0], taken[-1][1]
    seconds = {stage: increase(last.seconds[stage], first and first.seconds[stage]) for stage in STAGES}
    errors = {code: int(count - (first.errors.get(code, 0) if first else 0)) for code, count in last.errors.items()}
    answered = [increase(after.seconds["queue"], before and before.seconds["queue"]) for before, after in taken]
    spent = [increase(after.seconds["request"], before and before.seconds["request"]) for before, after in taken]
    return ModelStats(
        requests=sum(seconds["queue"]),
        pictures=int(last.pictures - (first.pictures if first else 0)),
        errors={code: count for code, count in errors.items() if count},
        queued_rows=int(last.queued_rows),
        live_rows=int(last.live_rows),
        latency={stage: latency(counts) for stage, counts in seconds.items()},
        history=ModelHistory(
            requests=[sum(counts) for counts in answered],
            pictures=[int(after.pictures - (before.pictures if before else 0)) for before, after in taken],
            queued_rows=[int(after.queued_rows) for _, after in taken],
            p50_ms=[quantile_ms(counts, 0.5) for counts in spent],
            p95_ms=[quantile_ms(counts, 0.95) for counts in spent],
        ),
    )
