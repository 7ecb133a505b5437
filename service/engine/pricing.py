"""The price of a request: device milliseconds of its parts, admitted by the gates of the lanes that compute them."""

from collections.abc import Sequence
from typing import NamedTuple

from service.admission.gate import Gate, WorkRequest
from service.engine.deployment import Deployment
from service.errors import ServiceError, TooExpensive


class Part(NamedTuple):
    """``rows`` computed together, by the model or its encoder; each takes part in ``calls`` forward passes."""

    rows: int
    calls: int
    encodes: bool = False


class PricedPart(NamedTuple):
    """A part of a request: the deployment that computes it, and what it asks of its gate."""

    deployment: Deployment
    ask: WorkRequest

    @property
    def calls(self) -> int:
        """Forward-pass rows of the whole part."""
        return self.ask.rows * self.ask.calls


def price(deployment: Deployment, part: Part, client: str, within_s: float) -> PricedPart:
    """The price of ``part`` now. Raises ValueError when it needs an encoder and the model has none."""
    on = deployment.encoder if part.encodes else deployment
    if on is None:
        raise ValueError(f"{deployment.model.name} has no encoder")
    return PricedPart(on, WorkRequest(part.rows, part.calls, on.lane.cost.row_ms(), client, within_s))


def check_price(deployment: Deployment, parts: Sequence[PricedPart], limit_ms: float) -> None:
    """Raise TooExpensive for a request above ``limit_ms``, unless it costs no more than one default picture.

    Prices are those of warm-up, so that the same request is not accepted now and rejected a minute later.
    """
    price_ms = sum(part.calls * part.deployment.lane.cost.warmup_row_ms() for part in parts)
    if price_ms > limit_ms and price_ms > (picture_ms := default_picture_ms(deployment)):
        raise TooExpensive(price_ms / 1000, max(limit_ms, picture_ms) / 1000)


def default_picture_ms(deployment: Deployment) -> float:
    """Device milliseconds of one picture with the model's defaults, by the prices of warm-up."""
    manifest, row_ms = deployment.model.manifest, deployment.lane.cost.warmup_row_ms()
    if manifest.defaults is None:
        return row_ms
    guided = manifest.defaults.guidance_scale != 1 and manifest.class_names
    return manifest.defaults.steps * (2 if guided else 1) * row_ms


def admit_all(parts: Sequence[PricedPart]) -> None:
    """Admit every part at its gate, or none. Raises as ``Gate.admit``."""
    by_gate: dict[Gate, list[WorkRequest]] = {}
    for part in parts:
        by_gate.setdefault(part.deployment.gate, []).append(part.ask)
    admitted: list[tuple[Gate, WorkRequest]] = []
    try:
        for gate, asks in by_gate.items():
            gate.admit(*asks)
            admitted += [(gate, ask) for ask in asks]
    except ServiceError:
        for gate, ask in admitted:
            gate.release(ask)
        raise
