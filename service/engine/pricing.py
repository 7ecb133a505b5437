"""The price of a request: device milliseconds of its parts, admitted by the gates of the lanes that compute them."""

from collections.abc import Sequence
from typing import NamedTuple

from service.admission.gate import Gate, WorkRequest
from service.engine.deployment import Deployment
from service.engine.ready import picture_ms
from service.errors import ServiceError, TooExpensive


class Part(NamedTuple):
    """``rows`` computed together, each in ``calls`` forward passes: by the model, its encoder or its text encoder.

    ``pixels`` is the size of its pictures as a multiple of the model's own.
    """

    rows: int
    calls: int
    encodes: bool = False
    reads: bool = False
    pixels: float = 1.0


class PricedPart(NamedTuple):
    """A part of a request: the deployment that computes it, what it asks of its gate, and the size of its pictures."""

    deployment: Deployment
    ask: WorkRequest
    pixels: float = 1.0

    @property
    def calls(self) -> int:
        """Forward-pass rows of the whole part."""
        return self.ask.rows * self.ask.calls

    @property
    def warmup_ms(self) -> float:
        """Its price by the costs of warm-up."""
        cost = self.deployment.lane.cost
        return self.pixels * (self.calls * cost.warmup_row_ms() + self.ask.rows * cost.decode_ms)


def price(deployment: Deployment, part: Part, client: str, within_s: float) -> PricedPart:
    """The price of ``part`` now. Raises ValueError when it needs an encoder and the model has none."""
    on = deployment.encoder if part.encodes else deployment.text if part.reads else deployment
    if on is None:
        raise ValueError(f"{deployment.model.name} has no {'encoder' if part.encodes else 'text encoder'}")
    call_ms = part.pixels * on.lane.cost.call_ms(part.calls)
    return PricedPart(on, WorkRequest(part.rows, part.calls, call_ms, client, within_s), part.pixels)


def check_price(deployment: Deployment, parts: Sequence[PricedPart], limit_ms: float) -> None:
    """Raise TooExpensive for a request above ``limit_ms``, unless it costs no more than one default picture.

    Prices are those of warm-up, so that the same request is not accepted now and rejected a minute later.
    """
    price_ms = sum(part.warmup_ms for part in parts)
    if price_ms > limit_ms and price_ms > (picture_ms := default_picture_ms(deployment)):
        raise TooExpensive(price_ms / 1000, max(limit_ms, picture_ms) / 1000)


def default_picture_ms(deployment: Deployment) -> float:
    """Device milliseconds of one picture with the model's defaults, by the prices of warm-up."""
    text = None if deployment.text is None else deployment.text.lane.cost
    return picture_ms(deployment.model.manifest, deployment.lane.cost, text)


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
