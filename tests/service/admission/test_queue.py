from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.admission.queue import RowQueue, most_places

Row = tuple[int, int]
SIZES = st.lists(st.integers(0, 9), max_size=12)


def rows_of(request: int, count: int) -> list[Row]:
    return [(request, row) for row in range(count)]


def filled(sizes: list[int]) -> RowQueue[Row]:
    queue: RowQueue[Row] = RowQueue()
    for request, count in enumerate(sizes):
        queue.put(rows_of(request, count))
    return queue


@given(sizes=SIZES, most=st.integers(1, 20))
def test_every_row_comes_out_once(sizes: list[int], most: int) -> None:
    queue = filled(sizes)
    taken: list[Row] = []
    assert len(queue) == sum(sizes)
    while len(queue):
        taken += queue.take(most)
    assert Counter(taken) == Counter(row for request, count in enumerate(sizes) for row in rows_of(request, count))
    assert list(queue.take(most)) == []


@given(sizes=SIZES, most=st.integers(0, 100))
def test_taking_goes_round_the_requests(sizes: list[int], most: int) -> None:
    taken = list(filled(sizes).take(most))
    assert len(taken) == min(most, sum(sizes))
    # Round r gives the r-th row of every request that has one, in order of arrival.
    assert taken == sorted(taken, key=lambda row: (row[1], row[0]))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), most=st.integers(0, 100))
def test_no_request_is_more_than_a_row_ahead_of_one_that_waits(sizes: list[int], most: int) -> None:
    taken = Counter(request for request, _ in filled(sizes).take(most))
    waiting = [request for request, count in enumerate(sizes) if taken[request] < count]
    for behind in waiting:
        assert max(taken.values(), default=0) <= taken[behind] + 1


@given(sizes=SIZES)
def test_rows_leave_as_they_are_yielded(sizes: list[int]) -> None:
    queue = filled(sizes)
    for left, _ in enumerate(queue.take(sum(sizes)), start=1):
        assert len(queue) == sum(sizes) - left


@given(sizes=SIZES, unwanted=st.sets(st.tuples(st.integers(0, 11), st.integers(0, 8))), most=st.integers(0, 50))
def test_what_is_discarded_never_comes_out(sizes: list[int], unwanted: set[Row], most: int) -> None:
    queue = filled(sizes)
    taken = list(queue.take(most))
    queue.discard(lambda row: row in unwanted)
    everything = {row for request, count in enumerate(sizes) for row in rows_of(request, count)}
    left = everything - set(taken) - unwanted
    assert len(queue) == len(left)
    assert Counter(queue.take(len(everything))) == Counter(left)


def test_a_late_request_comes_next_round() -> None:
    queue = filled([4])
    assert list(queue.take(1)) == [(0, 0)]
    queue.put(rows_of(1, 2))
    assert list(queue.take(4)) == [(0, 1), (1, 0), (0, 2), (1, 1)]


class AnyOrder(RuleBasedStateMachine):
    """Requests come, rows leave and are thrown out in any order: each row has one fate."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: RowQueue[Row] = RowQueue()
        self.requests = 0
        self.waiting: set[Row] = set()

    @rule(count=st.integers(0, 6))
    def put(self, count: int) -> None:
        self.queue.put(rows_of(self.requests, count))
        self.waiting |= set(rows_of(self.requests, count))
        self.requests += 1

    @rule(most=st.integers(0, 8))
    def take(self, most: int) -> None:
        taken = list(self.queue.take(most))
        assert len(taken) == min(most, len(self.waiting))
        assert set(taken) <= self.waiting
        self.waiting -= set(taken)

    @rule(request=st.integers(0, 20))
    def discard(self, request: int) -> None:
        self.queue.discard(lambda row: row[0] == request)
        self.waiting = {row for row in self.waiting if row[0] != request}

    @invariant()
    def counts(self) -> None:
        assert len(self.queue) == len(self.waiting)


TestAnyOrder = AnyOrder.TestCase


CLIENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=12)


def filled_by(requests: list[tuple[int, int]]) -> RowQueue[Row]:
    """A queue with requests of several clients, each of so many rows."""
    queue: RowQueue[Row] = RowQueue()
    for request, (client, count) in enumerate(requests):
        queue.put(rows_of(request, count), client)
    return queue


@given(requests=CLIENTS, taken=st.integers(0, 30))
def test_what_goes_before_a_request_is_what_is_taken_before_it(requests: list[tuple[int, int]], taken: int) -> None:
    queue = filled_by(requests)
    list(queue.take(taken))
    waiting = queue.waiting()
    assert len(waiting) == queue.requests
    left = list(queue.take(1000))
    for ahead, rows in waiting:
        assert list(rows) == [row for row in left if row[0] == rows[0][0]]
        assert ahead == left.index(rows[0])
    assert sum(len(each.rows) for each in waiting) == len(left)


@given(requests=CLIENTS, most=st.integers(0, 60))
def test_no_client_is_more_than_a_row_ahead_of_one_that_waits(requests: list[tuple[int, int]], most: int) -> None:
    taken = Counter(requests[request][0] for request, _ in filled_by(requests).take(most))
    wanted: Counter[int] = Counter()
    for client, count in requests:
        wanted[client] += count
    for client, count in wanted.items():
        if taken[client] < count:
            assert max(taken.values(), default=0) <= taken[client] + 1


# Places that a client gets


@given(places=st.integers(1, 300))
def test_a_client_alone_gets_all_but_an_eighth(places: int) -> None:
    queue: RowQueue[Row] = RowQueue()
    queue.put(rows_of(0, 400), client=1)
    taken = list(queue.take(places, Counter()))
    assert len(taken) == most_places(places)
    assert places - len(taken) == places // 8
    assert len(queue) == 400 - len(taken)


@given(held=st.lists(st.integers(0, 40), min_size=1, max_size=6), places=st.integers(1, 100))
def test_a_client_without_places_gets_one_whatever_the_others_have(held: list[int], places: int) -> None:
    queue: RowQueue[Row] = RowQueue()
    for client in range(len(held)):
        queue.put(rows_of(client, 50), client)
    queue.put(rows_of(99, 1), client=99)
    assert (99, 0) in queue.take(places, Counter(dict(enumerate(held)))) or places <= len(held)


def test_clients_that_were_passed_over_keep_their_turns() -> None:
    queue: RowQueue[Row] = RowQueue()
    for client in range(3):
        queue.put(rows_of(client, 2), client)
    assert list(queue.take(2, Counter({0: 14, 1: 14}))) == [(2, 0), (2, 1)]
    assert list(queue.take(9)) == [(0, 0), (1, 0), (0, 1), (1, 1)]
