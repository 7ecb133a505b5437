"""R6: clients that leave give back their places at once, and hardly any work is done for them."""

import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from statistics import median

from benchmarks.attacks.watch import Demand
from benchmarks.clients import closed_loop
from benchmarks.connection import request_bytes
from benchmarks.reliability.bench import Form
from benchmarks.reliability.raw import exchange, reset
from benchmarks.reliability.scraping import exposition, seconds_until_idle, total
from benchmarks.server import Service

#: Clients that leave, in the long form and in the quick one, and how many at a time.
CLIENTS, AT_A_TIME = (1000, 60), 16
#: A request that takes long enough to leave in the middle of it, and its rows times steps.
BODY, STEPS = '{"n": 8, "steps": 40}', 8 * 40
#: Seconds until all places must be given back, and until that is not waited for any longer.
IDLE_S, MOST_IDLE_S = 1.0, 60.0
#: Part of the leavers' steps that may be computed: they leave in the middle on average, and a batch goes on to its end.
COMPUTED = 0.6
#: Part of the usual throughput that may be missing afterwards.
LOST = 0.05


def measure(form: Form) -> list[Demand]:
    """Leave, half with FIN and half with RST, at times spread over the time that a request takes."""
    with form.service("deaf", max_queue_ms="1e9", max_lag_ms="1e9") as service:
        return leave(service, form)


def leave(service: Service, form: Form) -> list[Demand]:
    """Have clients leave a running service."""
    sent = request_bytes("/generate/ddpm", BODY)
    before_per_s = _pictures_per_s(service, form)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        takes_s = median(reply.seconds for reply in pool.map(partial(exchange, service.port), [sent] * AT_A_TIME))
    before = total(exposition(service.port), "steps_total")
    generator = random.Random(0)
    clients = form.pick(*CLIENTS)
    plans = [(generator.uniform(0, takes_s), number % 2 == 0) for number in range(clients)]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(lambda plan: _leave(service.port, sent, *plan), plans))
    idle_s = seconds_until_idle(service.port, MOST_IDLE_S)
    computed = (total(exposition(service.port), "steps_total") - before) / (clients * STEPS)
    after_per_s = _pictures_per_s(service, form)
    return [
        Demand(f"seconds until {clients} who left have no rows and no work", idle_s, IDLE_S),
        Demand("part of their steps that was computed", computed, COMPUTED),
        Demand("part of the throughput that is missing afterwards", 1 - after_per_s / before_per_s, LOST),
    ]


def _leave(port: int, sent: bytes, after_s: float, with_reset: bool) -> None:
    connection = socket.create_connection(("127.0.0.1", port))
    with suppress(OSError):
        connection.sendall(sent)
        time.sleep(after_s)
    if with_reset:
        reset(connection)
    else:
        connection.close()


def _pictures_per_s(service: Service, form: Form) -> float:
    return closed_loop(service.port, "/generate/ddpm", {"steps": 10}, 8, form.pick(8, 4)).answers_per_s
