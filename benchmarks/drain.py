"""Stop the service under load, again and again: no accepted request is lost, and the service ends in time.

Accepted is a request whose last byte was sent on a connection that was made before the service refused connections.
Clients reuse connections that are open, as real ones do, and never try again. Beside them are idle connections,
connections that send their request late, slow readers, and a stream of the events of a job that outlives the service.

    python -m benchmarks.drain                  50 stops, with one API process and with two in turn; ten minutes
    python -m benchmarks.drain --stops 4        fewer
    python -m benchmarks.drain --plant          the service does not wait for requests; is that noticed?

The exit code is 0 if all goals are met; with --plant, if the fault was noticed.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import uvloop

from benchmarks.attacks.connections import LARGE
from benchmarks.connection import Connection, request_bytes
from benchmarks.report import verdict, write_record
from benchmarks.server import Service, service_process, some_models

QUICK, SLOW = request_bytes("/generate/quick-gan", "{}"), request_bytes("/generate/ddpm", '{"steps": 20}')
STREAM = b"POST /generate/ddpm HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\ncontent-length: 26\r\n\r\n"
#: 16,000 steps of a row: no CPU ends them before the service must stop.
ENDLESS = STREAM + b'{"n": 16, "steps": 1000  }'
CLIENTS, SLOW_CLIENTS, LATE, READERS = 12, 2, 4, 4
#: Seconds of load before the signal; seconds that a late client waits before it sends its request.
BEFORE_S, LATE_S = 1.0, 0.2
DELAY_S, DRAIN_S, REQUEST_S = 0.5, 5.0, 1.0
#: Seconds that a stop may take: the settings, the longest request, and one more.
MOST_S = DELAY_S + DRAIN_S + REQUEST_S + 1.0
SETTINGS = {"client_share": 1, "access_log": "false", "spare_engine": "false", "max_lag_ms": 1e9, "max_queue_ms": 1e9}


@dataclass
class Stop:
    """One stop: seconds until the exit, its code, and the requests by what became of them."""

    seconds: float = 0.0
    code: int | None = None
    requests: Counter[str] = field(default_factory=Counter)
    stream_ended: bool = False
    traceback: bool = False


def main() -> int:
    """Stop, report, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=50, help="how often (default 50)")
    parser.add_argument("--plant", action="store_true", help="the service does not wait; no record")
    options = parser.parse_args()
    stops = [stop_once(1 + number % 2, plant=options.plant) for number in range(options.stops)]
    goals = judge(stops)
    print("\n".join(f"{text}: {verdict(met)}" for text, met in goals.items()))
    if options.plant:
        return 1 if all(goals.values()) else 0
    if options.stops >= 50:
        write_record("drain", goals=goals, stops=stops)
    return 0 if all(goals.values()) else 1


def judge(stops: Sequence[Stop]) -> dict[str, bool]:
    """Whether each goal is met, by a text with its figure."""
    requests: Counter[str] = sum((stop.requests for stop in stops), Counter())
    longest, codes = max(stop.seconds for stop in stops), Counter(stop.code for stop in stops)
    ended, tracebacks = sum(stop.stream_ended for stop in stops), sum(stop.traceback for stop in stops)
    lost = f"{requests['lost']} of {requests.total()} accepted requests lost, goal 0"
    return {
        lost: requests["lost"] == 0 and requests["answered"] == requests.total() > 0,
        f"longest stop {longest:.2f} s, goal {MOST_S:g}": longest <= MOST_S,
        f"exit codes {dict(codes)}, goal only 0": set(codes) == {0},
        f"{ended} of {len(stops)} streams ended with an event, goal all": ended == len(stops),
        f"{tracebacks} logs with a traceback, goal 0": tracebacks == 0,
    }


def stop_once(servers: int, *, plant: bool = False) -> Stop:
    """Start a service with so many API processes, load it, and stop it."""
    delay_s, drain_s = (0.0, 0.01) if plant else (DELAY_S, DRAIN_S)
    settings = {"api_servers": servers, "drain_delay_s": delay_s, "drain_s": drain_s, **SETTINGS}
    with some_models("quick-gan", "ddpm") as weights:
        texts = {name: str(value) for name, value in settings.items()}
        with service_process(weights_dir=str(weights), **texts) as service:
            stop = uvloop.run(_load_and_stop(service))
            stop.traceback = "Traceback" in service.log.read_text()
    print(f"{servers} API processes: {stop.seconds:.2f} s, code {stop.code}, {dict(stop.requests)}", flush=True)
    return stop


async def _load_and_stop(service: Service) -> Stop:
    stop, over = Stop(), asyncio.Event()
    readers = [_slow_reader(service.port) for _ in range(READERS)]
    stream = asyncio.create_task(_ends_with_an_event(service.port))
    asking = [_keep_asking(service.port, QUICK, 0.0, stop, over) for _ in range(CLIENTS)]
    asking += [_keep_asking(service.port, SLOW, 0.0, stop, over) for _ in range(SLOW_CLIENTS)]
    asking += [_keep_asking(service.port, QUICK, LATE_S, stop, over) for _ in range(LATE)]
    clients = [asyncio.create_task(each) for each in asking]
    await asyncio.sleep(BEFORE_S)
    began = time.monotonic()
    os.kill(service.pid, signal.SIGTERM)
    ended = await asyncio.to_thread(os.waitid, os.P_PID, service.pid, os.WEXITED | os.WNOWAIT)
    stop.seconds, stop.code = time.monotonic() - began, None if ended is None else ended.si_status
    over.set()
    await asyncio.gather(*clients)
    stop.stream_ended = await stream
    for reader in readers:
        reader.close()
    return stop


async def _keep_asking(port: int, request: bytes, late_s: float, stop: Stop, over: asyncio.Event) -> None:
    """Ask until connections are refused; with ``late_s`` each time on a new connection, so long after it was made."""
    connection: Connection | None = None
    while not over.is_set():
        try:
            if connection is None or not connection.is_open:
                connection = await Connection.open(port)
        except OSError:  # it is stopping
            return
        await asyncio.sleep(late_s)
        if not connection.is_open:
            continue
        try:
            answer = await connection.ask(request)
            stop.requests["answered" if answer.status == 200 else str(answer.status)] += 1
        except OSError:
            stop.requests["lost"] += 1
        if late_s:
            connection.close()


def _slow_reader(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(2 * LARGE)
    return connection


async def _ends_with_an_event(port: int) -> bool:
    """Whether a stream that the service cannot finish ends with the event that says so."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ENDLESS)
    last = b""
    with suppress(OSError):
        while chunk := await reader.read(1 << 16):
            last = (last + chunk)[-4096:]
    writer.close()
    return b"event: error" in last and b"service-stopping" in last


if __name__ == "__main__":
    sys.exit(main())
