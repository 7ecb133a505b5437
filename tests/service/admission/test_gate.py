"""The bounds of admission control: on all admitted work of a model, and on one client's share of it."""

import math
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.drain import DrainRate
from service.admission.gate import Gate, WorkRequest
from service.errors import Overloaded, ServiceError, ShareExceeded

pytestmark = pytest.mark.usefixtures("no_jitter")

PRICES = st.floats(0.001, 5000, allow_nan=False)


def gate_of(limit_ms: float, client_share: float = 1.0) -> Gate:
    return Gate(limit_ms, client_share, DrainRate(1000.0), table_rows=1_000)


def priced(price_ms: float, client: str = "") -> WorkRequest:
    """A request of one row that is called once."""
    return WorkRequest(1, 1, price_ms, client)


def admitted(gate: Gate, requests: list[WorkRequest]) -> list[WorkRequest]:
    """Those of ``requests`` that were admitted."""
    inside = []
    for request in requests:
        try:
            gate.admit(request)
        except (Overloaded, ShareExceeded):
            continue
        inside.append(request)
    return inside


def test_a_price_is_all_rows_of_all_calls() -> None:
    assert WorkRequest(rows=3, calls=20, call_ms=0.5).price_ms == 30.0


def test_work_is_admitted_up_to_the_bound() -> None:
    gate = gate_of(100.0)
    gate.admit(priced(60.0))
    gate.admit(priced(40.0))
    with pytest.raises(Overloaded):
        gate.admit(priced(0.1))
    assert gate.accepted_ms == 100.0


@given(limit=st.floats(1, 1000), prices=st.lists(PRICES, max_size=30))
def test_no_more_than_the_bound_unless_it_is_one_request_alone(limit: float, prices: list[float]) -> None:
    gate = gate_of(limit)
    inside = [request.price_ms for request in admitted(gate, [priced(price) for price in prices])]
    assert gate.accepted_ms == pytest.approx(sum(inside))
    assert len(inside) == 1 or sum(inside) <= limit * (1 + 1e-9)


@given(
    limit=st.floats(1, 1000),
    share=st.floats(0.01, 1),
    prices=st.lists(st.tuples(PRICES, st.sampled_from("abc")), min_size=1, max_size=30),
    order=st.randoms(use_true_random=False),
)
def test_an_idle_model_admits_any_request(
    limit: float, share: float, prices: list[tuple[float, str]], order: Random
) -> None:
    gate = gate_of(limit, share)
    inside = admitted(gate, [priced(price, client) for price, client in prices])
    order.shuffle(inside)
    for request in inside:
        gate.release(request)
    assert gate.accepted_ms == 0
    gate.admit(priced(1e9, "a"))
    with pytest.raises(Overloaded):
        gate.admit(priced(0.001, "b"))


@given(prices=st.lists(PRICES, min_size=1, max_size=20), order=st.randoms(use_true_random=False))
def test_a_client_whose_work_is_done_has_an_empty_account(prices: list[float], order: Random) -> None:
    """Rounding must not leave work on a client's account: it may again send any request that fits the queue."""
    gate = gate_of(1e6, client_share=0.5)
    gate.admit(priced(0.001, "other"))
    inside = admitted(gate, [priced(price, "this") for price in prices])
    order.shuffle(inside)
    for request in inside:
        gate.release(request)
    gate.admit(priced(9e5, "this"))


def test_what_is_released_can_be_admitted_again() -> None:
    gate = gate_of(100.0)
    first = priced(70.0)
    gate.admit(first)
    gate.admit(priced(30.0))
    gate.release(first)
    gate.admit(first)
    with pytest.raises(Overloaded):
        gate.admit(priced(1.0))


def test_a_rejection_reserves_nothing() -> None:
    gate = gate_of(100.0, client_share=0.9)
    gate.admit(priced(85.0, "this"))
    for _ in range(5):
        with pytest.raises(Overloaded):
            gate.admit(priced(20.0, "other"))
        with pytest.raises(ShareExceeded):
            gate.admit(priced(6.0, "this"))
    gate.admit(priced(5.0, "this"))
    gate.admit(priced(10.0, "other"))
    assert gate.accepted_ms == 100.0


def test_a_client_has_its_share_and_leaves_the_rest_to_others() -> None:
    gate = gate_of(100.0, client_share=0.5)
    gate.admit(priced(30.0, "this"))
    gate.admit(priced(20.0, "this"))
    with pytest.raises(ShareExceeded):
        gate.admit(priced(0.1, "this"))
    gate.admit(priced(50.0, "other"))


def test_a_client_without_work_may_exceed_its_share_once() -> None:
    gate = gate_of(100.0, client_share=0.25)
    gate.admit(priced(10.0, "this"))
    dear = priced(60.0, "other")
    gate.admit(dear)
    with pytest.raises(ShareExceeded):
        gate.admit(priced(1.0, "other"))
    gate.release(dear)
    gate.admit(priced(1.0, "other"))


@dataclass(frozen=True)
class Inside:
    """A model of the gate; whole milliseconds, so that sums are exact."""

    limit: int
    share: int
    requests: list[WorkRequest]

    def error_of(self, request: WorkRequest) -> type[ServiceError] | None:
        """None if it should be admitted, else the error."""
        own = [each.price_ms for each in self.requests if each.client == request.client]
        if self.requests and sum(each.price_ms for each in self.requests) + request.price_ms > self.limit:
            return Overloaded
        return ShareExceeded if own and sum(own) + request.price_ms > self.share else None


@given(data=st.data(), limit=st.sampled_from([16, 64]), divisor=st.sampled_from([1, 2, 4]))
def test_any_order_of_requests_is_admitted_and_rejected_by_the_rules(
    data: st.DataObject, limit: int, divisor: int
) -> None:
    gate, inside = gate_of(limit, 1 / divisor), Inside(limit, limit // divisor, [])
    for _ in range(data.draw(st.integers(1, 40))):
        leaves = data.draw(st.booleans())
        if inside.requests and leaves:
            request = inside.requests.pop(data.draw(st.integers(0, len(inside.requests) - 1)))
            gate.release(request)
        else:
            request = WorkRequest(
                data.draw(st.integers(1, 3)), data.draw(st.integers(1, 8)), 1.0, data.draw(st.sampled_from("ab"))
            )
            if (rejection := inside.error_of(request)) is None:
                gate.admit(request)
                inside.requests.append(request)
            else:
                with pytest.raises(rejection):
                    gate.admit(request)
        assert gate.accepted_ms == sum(each.price_ms for each in inside.requests)


@pytest.mark.parametrize(
    ("accepted_ms", "price_ms", "seconds"),
    [
        (30_000, 1, 1),  # rounded up: the header counts in seconds
        (30_000, 1000, 1),
        (30_000, 1001, 2),
        (25_000, 10_000, 5),
        (28_000, 40_000, 28),  # above the bound: admitted when nothing else is
        (45_000, 10, 16),
    ],
)
def test_a_rejection_has_a_retry_time(accepted_ms: float, price_ms: float, seconds: int) -> None:
    gate = gate_of(30_000.0)
    gate.admit(priced(accepted_ms))
    with pytest.raises(Overloaded) as rejection:
        gate.admit(priced(price_ms))
    assert rejection.value.retry_after_s == seconds
    assert f"{accepted_ms / 1000:g} s of work" in str(rejection.value)
    assert "limit is 30 s" in str(rejection.value)


@pytest.mark.parametrize(("accepted_ms", "price_ms", "seconds"), [(8000, 1, 1), (7000, 4500, 4), (9000, 20_000, 9)])
def test_a_rejection_for_a_clients_share_has_a_retry_time(accepted_ms: float, price_ms: float, seconds: int) -> None:
    gate = gate_of(32_000.0, client_share=0.25)
    gate.admit(priced(accepted_ms, "this"))
    with pytest.raises(ShareExceeded) as rejection:
        gate.admit(priced(price_ms, "this"))
    assert rejection.value.retry_after_s == seconds
    assert f"{accepted_ms / 1000:g} s of your work" in str(rejection.value)
    assert "one client is 8 s" in str(rejection.value)


@given(
    expected=st.floats(1, 1e5),
    works=st.lists(st.tuples(st.booleans(), PRICES, st.floats(0, 1000)), max_size=10),
    accepted_ms=PRICES,
    price_ms=PRICES,
)
def test_a_rejection_always_names_a_whole_number_of_seconds(
    expected: float, works: list[tuple[bool, float, float]], accepted_ms: float, price_ms: float
) -> None:
    gate = Gate(accepted_ms, 0.5, drain := DrainRate(expected), table_rows=1_000)
    for waited, work_ms, took_s in works:
        drain.note(work_ms, took_s) if waited else drain.rest(took_s)
    gate.admit(priced(accepted_ms, "this"))
    with pytest.raises(Overloaded) as full:
        gate.admit(priced(price_ms, "other"))
    slowest_s = accepted_ms / (expected / 20)
    assert isinstance(full.value.retry_after_s, int)
    assert 1 <= full.value.retry_after_s <= math.ceil(slowest_s * (1 + 1e-9))
