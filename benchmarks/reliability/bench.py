"""What all benches share: their form, the service that they measure, and the judgement."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from benchmarks.attacks.watch import Demand
from benchmarks.reliability import faults
from benchmarks.report import verdict
from benchmarks.server import Service, service_process, some_models

#: The models of a service that is measured, unless a bench names others.
MODELS = ("quick-gan", "ddpm")
#: One client may use the whole queue, because all requests come from one address.
SETTINGS = {"client_share": "1", "access_log": "false", "spare_engine": "false"}


class NotRun(Exception):
    """A bench cannot run here, or is run elsewhere; ``str()`` says why, or where."""


class Form(NamedTuple):
    """How a bench runs: ``quick`` is for a busy machine, and ``planted`` with the bench's fault in the service.

    ``minutes`` is the length of a soak.
    """

    quick: bool = False
    planted: bool = False
    minutes: float = 10.0

    def pick(self, long: int, quick: int) -> int:
        """A count: ``quick`` in the quick form."""
        return quick if self.quick else long

    @contextmanager
    def service(self, fault: str, *models: str, **settings: str) -> Iterator[Service]:
        """A fresh service, with ``fault`` if the form is planted."""
        with some_models(*(models or MODELS)) as weights, self.planting(fault) as (module, needed):
            everything = SETTINGS | {"weights_dir": str(weights)} | settings | needed
            with service_process(module=module, **everything) as service:
                yield service

    @contextmanager
    def planting(self, fault: str) -> Iterator[tuple[str, dict[str, str]]]:
        """The module of the service and settings that it needs: with ``fault`` if the form is planted."""
        if not self.planted:
            yield "service", {}
            return
        with faults.planted(fault) as needed:
            yield faults.MODULE, needed


class Bench(NamedTuple):
    """A bench: what it shows, and the name of the fault in ``faults`` that it must notice (empty: there is none)."""

    text: str
    measure: Callable[[Form], Sequence[Demand]]
    fault: str = ""


def elsewhere(where: str) -> Callable[[Form], Sequence[Demand]]:
    """The measurement of a demand that tests check."""

    def measure(form: Form) -> Sequence[Demand]:  # noqa: ARG001
        raise NotRun(where)

    return measure


def lines(name: str, demands: Sequence[Demand]) -> list[str]:
    """A table's rows: the demand, the figure, its limit, and whether it is met."""
    return [
        f"{name:6}{demand.text:74} {demand.figure:10.4g} {demand.most:10.4g}  {verdict(demand.met)}"
        for demand in demands
    ]


def all_met(demands: Sequence[Demand]) -> bool:
    """Whether there is a demand, and all are met."""
    return bool(demands) and all(demand.met for demand in demands)
