import asyncio
import itertools
import time
from collections.abc import Sequence

import pytest

from benchmarks import open_loop
from benchmarks.open_loop import Arrival, Kind, OpenOutcome, Tally, latencies, poisson, run

ANSWERS = {
    "/ok": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "/slow": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "/refused": b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    "/refused-curtly": b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
    "/expired": b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n",
    "/broken": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
}


class Server:
    """Answers by path; /slow one at a time, each after ``SLOW_S``."""

    SLOW_S = 0.1

    def __init__(self) -> None:
        self.connections = 0
        self._one = asyncio.Lock()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while request := await self._read(reader):
                if request == "/silent":
                    await reader.read()
                if request not in ANSWERS:
                    break
                if request == "/slow":
                    async with self._one:
                        await asyncio.sleep(self.SLOW_S)
                writer.write(ANSWERS[request])
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> str:
        try:
            return (await reader.readuntil(b"\r\n\r\n")).decode().split(" ", 2)[1]
        except asyncio.IncompleteReadError:
            return ""


def drive(
    paths: Sequence[str],
    due_s: Sequence[float],
    drain_s: float = 5.0,
    deadline_ms: float = 1000.0,
    stall_s: float = 0.0,
    warm_up_s: float = 0.0,
) -> tuple[OpenOutcome, int]:
    """A run of one request to each path, and how many connections it took; the client stalls at its start."""

    async def both() -> tuple[OpenOutcome, int]:
        served = Server()
        server = await asyncio.start_server(served.handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        kinds = [Kind(path, 1, path, "") for path in dict.fromkeys(paths)]
        arrivals = [Arrival(at, list(dict.fromkeys(paths)).index(path)) for path, at in zip(paths, due_s, strict=True)]
        asyncio.get_running_loop().call_later(0, time.sleep, stall_s)
        outcome = await run(port, kinds, arrivals, max(due_s), drain_s, deadline_ms, warm_up_s)
        server.close()
        await server.wait_closed()
        return outcome, served.connections

    return asyncio.run(both())


def test_a_schedule_has_its_rate_its_gaps_and_its_mix() -> None:
    arrivals = poisson(rate=200, seconds=100, weights=[3, 1], seed=1)
    assert len(arrivals) == pytest.approx(20_000, rel=0.03)
    assert sum(arrival.kind == 0 for arrival in arrivals) == pytest.approx(0.75 * len(arrivals), rel=0.03)
    due_s = [arrival.due_s for arrival in arrivals]
    assert due_s == sorted(due_s)
    assert due_s[0] > 0
    assert due_s[-1] < 100
    gaps = [later - earlier for earlier, later in itertools.pairwise(due_s)]
    longer_than_the_mean = sum(gap > 1 / 200 for gap in gaps) / len(gaps)
    assert longer_than_the_mean == pytest.approx(0.368, abs=0.02)  # 1/e, as exponential gaps have it


def test_a_schedule_is_its_seeds() -> None:
    assert poisson(50, 5, [1, 2], seed=3) == poisson(50, 5, [1, 2], seed=3)
    assert poisson(50, 5, [1, 2], seed=3) != poisson(50, 5, [1, 2], seed=4)


def test_requests_do_not_wait_for_answers_and_latency_counts_from_when_they_were_due() -> None:
    """Three at once to a server that takes them one after another: a closed loop would see 100 ms each."""
    outcome, connections = drive(3 * ["/slow"], 3 * [0.0])
    assert connections == 3
    assert outcome.kinds[0].ok.count == 3
    assert (outcome.kinds[0].ok.p50_ms or 0) > 190
    assert (outcome.kinds[0].ok.p99_ms or 0) > 290
    assert outcome.last_answer_s > 0.29


def test_a_client_that_was_late_says_so_and_its_lag_is_in_the_latency() -> None:
    outcome, _ = drive(["/ok"], [0.05], stall_s=0.2)
    assert outcome.lag_p99_ms > 100
    assert outcome.void
    assert (outcome.kinds[0].ok.p50_ms or 0) > 100


def test_requests_of_the_warm_up_are_sent_and_not_counted() -> None:
    outcome, connections = drive(["/refused", "/ok", "/ok"], [0.0, 0.05, 0.2], warm_up_s=0.1)
    assert connections == 1
    assert [(kind.sent, kind.ok.count, kind.refused.count) for kind in outcome.kinds] == [(0, 0, 0), (1, 1, 0)]


def test_an_idle_connection_is_used_again() -> None:
    outcome, connections = drive(4 * ["/ok"], [0.0, 0.05, 0.1, 0.15])
    assert outcome.kinds[0].ok.count == 4
    assert connections == 1


def test_a_connection_that_the_server_closed_is_replaced() -> None:
    outcome, connections = drive(["/hangs-up", "/ok"], [0.0, 0.05])
    assert [kind.failed for kind in outcome.kinds] == [1, 0]
    assert outcome.kinds[1].ok.count == 1
    assert connections == 2


def test_answers_are_told_apart() -> None:
    paths = ["/ok", "/refused", "/refused-curtly", "/expired", "/broken", "/hangs-up"]
    outcome, _ = drive(paths, [0.0] * len(paths))
    ok, refused, curtly, expired, broken, gone = outcome.kinds
    assert (ok.ok.count, ok.accepted.count, ok.failed) == (1, 1, 0)
    assert (refused.refused.count, refused.retry_after) == (1, 1)
    assert (curtly.refused.count, curtly.retry_after) == (1, 0)
    assert (expired.expired.count, expired.accepted.count, expired.ok.count) == (1, 1, 0)
    assert [kind.failed for kind in (broken, gone)] == [1, 1]
    assert all(kind.sent == 1 for kind in outcome.kinds)


def test_a_run_ends_though_an_answer_never_comes() -> None:
    started = time.perf_counter()
    outcome, _ = drive(["/silent", "/ok"], [0.0, 0.0], drain_s=0.2)
    assert time.perf_counter() - started < 2
    assert [kind.failed for kind in outcome.kinds] == [1, 0]


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "MOST_CONNECTIONS", 2)
    outcome, connections = drive(3 * ["/slow"], 3 * [0.0])
    assert connections == 2
    assert (outcome.kinds[0].sent, outcome.kinds[0].ok.count, outcome.kinds[0].failed) == (3, 2, 1)


def test_only_pictures_within_the_deadline_are_in_time() -> None:
    tally = Tally(sent=4, ok=[10.0, 99.0, 101.0], expired=[100.5])
    outcome = tally.outcome("a", deadline_ms=100)
    assert (outcome.in_time, outcome.ok.count, outcome.accepted.count, outcome.failed) == (2, 3, 4, 0)


def test_percentiles() -> None:
    summary = latencies([float(value) for value in reversed(range(1, 101))])
    assert (summary.count, summary.p50_ms, summary.p99_ms) == (100, 51, 100)
    assert latencies([]).p99_ms is None
