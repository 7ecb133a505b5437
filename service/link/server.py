"""The engine process's side of a link: takes rows from API processes and sends them the results of every tick."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from service.engine.delivery import FinishedRow, PreviewedRow, deliver
from service.engine.host import Host
from service.engine.lane import Lane
from service.engine.progress import LaneProgress
from service.engine.results import Preview, Result
from service.engine.table import LiveRow
from service.errors import ComputeFailed
from service.link.channel import Channel, Listener
from service.link.messages import (
    VERSION,
    Done,
    Drop,
    Failed,
    Frame,
    Hello,
    JobProgress,
    LaneState,
    Progress,
    Started,
    Submit,
    ToApi,
    ToEngine,
    array_of,
    decode_for_engine,
    encode,
    previewed,
    specs_of,
)

log = logging.getLogger(__name__)

#: Seconds between two looks at what the lanes cost; API processes price requests by it.
STATE_S = 0.1
#: And so many of these between two messages with the progress of jobs, each of which visits every row.
PROGRESS_TURNS = 4


class LinkServer:
    """Serves ``host`` to the API processes that connect."""

    def __init__(self, host: Callable[["LinkServer"], Host]) -> None:
        self._clients: list[Client] = []
        self._lanes: dict[int, Lane] = {}
        self._told: dict[int, LaneState] = {}
        self.host = host(self)

    def add(self, number: int, lane: Lane) -> None:
        """Take rows for ``lane``."""
        self._lanes[number] = lane

    def remove(self, number: int) -> None:
        """Take no more rows for a lane; its memory is freed with its last row."""
        self._lanes.pop(number, None)
        self._told.pop(number, None)

    def lane(self, number: int) -> Lane | None:
        """The lane of that number, None if there is none."""
        return self._lanes.get(number)

    def serve(self, listener: Listener) -> None:
        """Accept connections until ``listener`` is closed, each served by a thread of its own."""
        threading.Thread(target=self._tell_states, name="lane-states", daemon=True).start()
        while (channel := listener.accept()) is not None:
            client = Client(channel, self)
            self._clients.append(client)
            for state in list(self._told.values()):
                client.add(state)
            threading.Thread(target=self._read, args=(client,), name="link-reader", daemon=True).start()

    def close(self) -> None:
        """Close all connections."""
        for client in list(self._clients):
            client.close()

    def deliver(self, finished: Sequence[FinishedRow], previews: Sequence[PreviewedRow], now: float) -> None:
        """Send a tick's results to the processes that wait for them."""
        deliver(finished, previews, now)
        for client in list(self._clients):
            client.flush(now)

    def _read(self, client: "Client") -> None:
        try:
            client.read()
        except Exception:  # whatever a process sends must not end the engine, which others use too
            log.exception("connection to an API process closed")
        finally:
            self._clients.remove(client)
            client.close()

    def _tell_states(self) -> None:
        for turn in itertools.count():
            time.sleep(STATE_S)
            for number, lane in list(self._lanes.items()):
                self._tell_state(number, lane)
                if turn % PROGRESS_TURNS == 0 and not lane.is_empty and lane.model.denoise is not None:
                    self._tell_progress(number, self.host.progress(lane))
            for client in list(self._clients):
                client.flush(time.monotonic())

    def _tell_state(self, number: int, lane: Lane) -> None:
        state = state_of(number, lane)
        if self._told.get(number) != state:
            self._told[number] = state
            for client in list(self._clients):
                client.add(state)

    def _tell_progress(self, number: int, progress: LaneProgress) -> None:
        jobs: dict[Client, list[JobProgress]] = {}
        for job, left in progress.items():
            if isinstance(job, RemoteJob):
                jobs.setdefault(job.process, []).append(JobProgress(job.key, left.rows_ahead, [*left.calls]))
        for client, own in jobs.items():
            client.add(Progress(number, own))


def state_of(number: int, lane: Lane) -> LaneState:
    """What a lane costs now."""
    cost = lane.cost
    return LaneState(number, cost.ratio, cost.largest, lane.drain.ms_per_s, lane.waiting, cost.decode_ms)


class Client:
    """One API process. Its reader thread, the engine threads and the thread of the lanes' states use it."""

    def __init__(self, channel: Channel, server: LinkServer) -> None:
        self._channel, self._server = channel, server
        self._jobs: dict[int, RemoteJob] = {}
        self._lock = threading.Lock()
        self._outbox: list[ToApi] = []

    def read(self) -> None:
        """Handle the messages of the process until it closes the connection. Raises DecodeError for an invalid one."""
        greeting = self._channel.receive()
        if greeting is None:
            return
        match decode_for_engine(greeting):
            case [Hello(version=version)] if version == VERSION:
                pass
            case first:
                raise msgspec.DecodeError(f"the first message is {first}, not a greeting of version {VERSION}")
        while (payload := self._channel.receive()) is not None:
            for message in decode_for_engine(payload):
                self._do(message)

    def add(self, message: ToApi) -> None:
        """Send ``message`` with the next ``flush``."""
        with self._lock:
            self._outbox.append(message)

    def flush(self, now: float) -> None:
        """Send what was added since the last call, in one frame."""
        with self._lock:
            if not self._outbox:
                return
            frame = encode(Frame(now, self._outbox))
            self._outbox = []
            self._channel.send(frame)

    def close(self) -> None:
        """Compute nothing more for the process, which is gone."""
        self._channel.close()
        for job in list(self._jobs.values()):
            self._drop(job)

    def forget(self, job: "RemoteJob") -> None:
        """All rows of ``job`` are answered."""
        self._jobs.pop(job.key, None)

    def _do(self, message: ToEngine) -> None:
        match message:
            case Submit():
                self._submit(message)
            case Drop(key=key) if key in self._jobs:
                self._drop(self._jobs[key])

    def _submit(self, message: Submit) -> None:
        lane = self._server.lane(message.lane)
        if lane is None:  # unloaded meanwhile: the API process has released its last deployment of that version
            self.add(Failed(message.key, 0, "The version of the model that was asked for is not loaded any more."))
            self.flush(time.monotonic())
            return
        job = self._jobs[message.key] = RemoteJob(self, message, lane)
        pairs = zip(message.rows, specs_of(message), strict=True)
        self._server.host.put(lane, [LiveRow(job, row.index, spec, int(row.alone)) for row, spec in pairs])

    def _drop(self, job: "RemoteJob") -> None:
        self.forget(job)
        job.cancelled = True
        self._server.host.drop(job.lane, job)


class RemoteJob:
    """A job of another process: what it would tell its ``Submission`` becomes messages."""

    def __init__(self, process: Client, message: Submit, lane: Lane) -> None:
        self.process, self.key, self.client, self.lane = process, message.key, message.client, lane
        self.cancelled = False
        self._expires_at = message.expires_at
        self._started_at: float | None = None
        self._missing = len(message.rows)

    def dropped(self, now: float) -> bool:
        """Whether missing rows need not be computed."""
        return self.cancelled or now >= self._expires_at

    def start(self, now: float) -> None:
        """The first tick with a row of it begins. Sent with that tick's results: a message before would cost a call."""
        if self._started_at is None:
            self._started_at = now
            if self.lane.model.denoise is not None:
                self.process.add(Started(self.key, now))

    def deliver(self, row: int, result: Result, now: float) -> None:  # noqa: ARG002
        """Send a row's result."""
        assert self._started_at is not None
        self.process.add(Done(self.key, row, self._started_at, array_of(result)))
        self._missing -= 1
        if not self._missing:
            self.process.forget(self)

    def preview(self, preview: Preview) -> None:
        """Send a preview."""
        if not self.cancelled:
            self.process.add(previewed(self.key, preview))

    def fail(self, failure: Exception) -> None:
        """Send the reason; the whole job fails."""
        reason = str(failure) if isinstance(failure, ComputeFailed) else "The service failed to compute this picture."
        self.process.add(Failed(self.key, 0, reason))
        self.process.forget(self)
        self.cancelled = True
