"""The API process's side of the links: a backend whose rows are computed by engine processes."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from service.admission.drain import DrainRate
from service.engine.cost import CostModel
from service.engine.model import Model, Served
from service.engine.progress import LaneProgress, Remaining
from service.engine.submission import Job, Submission
from service.engine.table import LiveRow
from service.errors import ComputeFailed
from service.link.messages import (
    VERSION,
    Done,
    Drop,
    Failed,
    Hello,
    LaneState,
    Previewed,
    Progress,
    Started,
    ToApi,
    ToEngine,
    decode_for_api,
    encode,
    numbers_of,
    preview_of,
    submit_of,
)
from service.link.stream import FrameStream, connect
from service.metrics import ModelMetrics

log = logging.getLogger(__name__)

#: Engine processes that may die while they compute a row. Then it is the likely reason, and is not computed again.
MOST_DEATHS = 2
#: A row's key has the number of its API process, of its job, and its own, in this many bits below the sign.
ROW_BITS, KEY_BITS = 16, 39


class RemoteLane:
    """One version of a model, or its encoder, in all engines. ``number`` names it in messages."""

    def __init__(self, number: int, model: Model, cost: CostModel, drain: DrainRate) -> None:
        self.number, self.model, self.cost, self._drain = number, model, cost, drain
        self._states: dict[int, LaneState] = {}
        #: As the engines told it last. Of a job that two engines share, what the later message said.
        self.progress: LaneProgress = WeakKeyDictionary()
        #: Jobs of this process that no engine has begun.
        self.unstarted = 0

    @property
    def waiting(self) -> int:
        """Requests with waiting rows, a moment ago."""
        return max(self.unstarted, sum(state.waiting for state in self._states.values()))

    def update(self, engine: int, state: LaneState) -> None:
        """Note what the lane costs in one of the engines."""
        self._states[engine] = state
        states = self._states.values()
        self.cost.ratio = sum(each.ratio for each in states) / len(states)
        self.cost.limit(state.largest)
        self.cost.decode_ms = state.decode_ms
        self._drain.ms_per_s = sum(each.ms_per_s for each in states)


@dataclass(slots=True)
class Sent:
    """Rows of a job that an engine has and has not answered, by index; ``previewed``: the last step shown of each."""

    lane: RemoteLane
    job: Submission[Any]
    rows: dict[int, LiveRow]
    previewed: dict[int, int] = field(default_factory=dict)


class EngineLink:
    """The rows that one engine has; they are kept until they are answered, and sent again to its successor."""

    def __init__(self, number: int, lane: Callable[[int], RemoteLane | None], *, shares: bool) -> None:
        self.number, self._shares = number, shares
        self._lane = lane
        self._sent: dict[int, Sent] = {}
        self._outbox: list[ToEngine] = []
        self._stream: FrameStream | None = None
        self._attached = 0
        #: Predicted milliseconds of one step of each of its rows; counted only if it shares them with other engines.
        self.turn_ms = 0.0

    @property
    def connected(self) -> bool:
        """Whether its engine can be reached."""
        return self._stream is not None

    @property
    def working(self) -> bool:
        """Whether it has rows."""
        return bool(self._sent)

    async def attach(self, path: Path, inside: Iterable[int]) -> None:
        """Use the engine that listens at ``path``.

        ``inside`` are the rows that its predecessor computed when it died, by their keys. Raises OSError when nobody
        listens.
        """
        self.close()
        self._attached += 1
        stream = await connect(path, self._receive, partial(self._lost, self._attached))
        stream.send(encode([Hello(VERSION)]))
        self._stream, self._outbox = stream, []
        self._count_deaths({*inside})
        for key, sent in self._sent.items():
            self._send(submit_of(key, sent.lane.number, sent.job.expires_at, [*sent.rows.values()]))

    def close(self) -> None:
        """Send and take nothing more."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def put(self, lane: RemoteLane, job: Submission[Any], rows: Sequence[LiveRow]) -> None:
        """Have the engine compute ``rows``; while there is none, they wait for it."""
        self._sent[job.key] = Sent(lane, job, {row.index: row for row in rows})
        if self._shares:
            self.turn_ms += sum(row.spec.weight for row in rows) * lane.cost.row_ms()
        self._send(submit_of(job.key, lane.number, job.expires_at, rows))

    def drop(self, job: Job) -> None:
        """Have the engine compute no more rows of ``job``."""
        sent = self._sent.pop(job.key, None)
        if sent is not None:
            self._settle(sent, sent.rows.values())
            self._send(Drop(job.key))

    def unstarted(self, lane: RemoteLane) -> int:
        """The jobs in ``lane`` of which no row has been computed."""
        return sum(sent.lane is lane and sent.job.started_at is None for sent in self._sent.values())

    def _send(self, message: ToEngine) -> None:
        """Send with everything else of this turn of the event loop: a frame costs more than its messages."""
        if self._stream is None:
            return
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(message)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self._stream is not None and outbox:
            self._stream.send(encode(outbox))

    def _lost(self, attached: int, failure: Exception | None) -> None:
        if attached != self._attached or self._stream is None:  # closed here, or replaced already
            return
        self._stream = None
        told = {"engine": self.number, "reason": str(failure or "closed"), "jobs": len(self._sent)}
        log.warning("engine lost", extra=told)

    def _count_deaths(self, inside: set[int]) -> None:
        suspects = [row for sent in self._sent.values() for row in sent.rows.values() if row.key in inside]
        for row in suspects:
            row.deaths += 1
            if row.deaths == MOST_DEATHS:
                row.job.fail(ComputeFailed("The engine died twice while it computed this picture."))

    def _receive(self, payload: bytes) -> None:
        frame = decode_for_api(payload)
        for message in frame.messages:
            self._take(message, frame.at)

    def _take(self, message: ToApi, at: float) -> None:
        match message:
            case Done():
                self._done(message, at)
            case Failed():
                self._failed(message)
            case Previewed():
                self._preview(message)
            case Started():
                self._started(message)
            case LaneState():
                lane = self._lane(message.lane)
                if lane is not None:
                    lane.update(self.number, message)
            case Progress():
                self._progress(message)

    def _done(self, message: Done, at: float) -> None:
        sent = self._sent.get(message.key)
        if sent is None or (row := sent.rows.pop(message.index, None)) is None:  # the job has ended
            return
        self._settle(sent, [row])
        if not sent.rows:
            del self._sent[message.key]
        sent.job.start(message.started_at)
        try:
            sent.job.deliver(message.index, numbers_of(message.result), at)
        except Exception:
            log.exception("a job rejected its result")
            sent.job.fail(ComputeFailed("The service failed to answer with this picture; its log says why."))

    def _failed(self, message: Failed) -> None:
        sent = self._sent.get(message.key)
        if sent is not None:
            sent.job.fail(ComputeFailed(message.reason))

    def _started(self, message: Started) -> None:
        sent = self._sent.get(message.key)
        if sent is not None:
            sent.job.start(message.at)

    def _preview(self, message: Previewed) -> None:
        sent = self._sent.get(message.key)
        # After a restart a row begins anew; what was shown already must not be shown again.
        if sent is None or message.index not in sent.rows or message.step <= sent.previewed.get(message.index, -1):
            return
        sent.previewed[message.index] = message.step
        sent.job.preview(preview_of(message))

    def _progress(self, message: Progress) -> None:
        lane = self._lane(message.lane)
        for each in message.jobs:
            sent = self._sent.get(each.key)
            if lane is not None and sent is not None:
                lane.progress[sent.job] = Remaining(each.rows_ahead, each.calls)

    def _settle(self, sent: Sent, rows: Iterable[LiveRow]) -> None:
        """``rows`` take part in no more steps; exactly zero without rows, whatever rounding left."""
        if not self._shares:
            return
        self.turn_ms -= sum(row.spec.weight for row in rows) * sent.lane.cost.row_ms()
        if not self._sent or self.turn_ms < 0:
            self.turn_ms = 0.0


class EnginePool:
    """The backend of an API process: all engines. ``threads`` is how many threads they have together.

    ``slot`` is this process's among the API processes: two of them must not use the same keys for their jobs.
    """

    #: Rows that no engine can take now wait for the next one.
    accepts = True

    def __init__(self, engines: int, threads: int, slot: int) -> None:
        self.engines, self.threads = engines, threads
        self.links = [EngineLink(number, self._lane, shares=engines > 1) for number in range(engines)]
        #: A lane is kept by its deployment, and no longer than it.
        self._lanes: WeakValueDictionary[int, RemoteLane] = WeakValueDictionary()
        self._keys = itertools.count((slot << KEY_BITS) + 1)

    @property
    def working(self) -> bool:
        """Whether an engine has rows."""
        return any(link.working for link in self.links)

    @property
    def fault(self) -> str | None:
        """Rows of an engine that died wait for the next one."""
        return None if all(link.connected for link in self.links) else "An engine died and is being replaced."

    def is_alive(self) -> bool:
        """The supervisor replaces engines that die, or ends the service."""
        return True

    def stop(self) -> None:
        """Close the connections."""
        for link in self.links:
            link.close()

    def new_lane(self, served: Served, drain: DrainRate, metrics: ModelMetrics) -> RemoteLane:  # noqa: ARG002
        """The lane that the engines have for ``served``."""
        assert served.lane is not None
        lane = self._lanes[served.lane] = RemoteLane(served.lane, served.model, served.cost, drain)
        return lane

    def put(self, lane: RemoteLane, rows: Sequence[LiveRow]) -> None:
        """Have the engines with the least predicted work compute the rows of one job."""
        job = rows[0].job
        assert isinstance(job, Submission)
        job.key = next(self._keys) << ROW_BITS
        if len(self.links) == 1:
            self.links[0].put(lane, job, rows)
            return
        for link, own in self._shared_out(lane, rows):
            link.put(lane, job, own)

    def drop(self, lane: RemoteLane, job: Job) -> None:  # noqa: ARG002
        """Compute no more rows of ``job``."""
        for link in self.links:
            link.drop(job)

    def progress(self, lane: RemoteLane) -> LaneProgress:
        """The remaining work of the lane's jobs, as the engines told it last."""
        lane.unstarted = sum(link.unstarted(lane) for link in self.links)
        return lane.progress

    def _lane(self, number: int) -> RemoteLane | None:
        return self._lanes.get(number)

    def _shared_out(self, lane: RemoteLane, rows: Sequence[LiveRow]) -> list[tuple[EngineLink, list[LiveRow]]]:
        """Each row with the engine where a step takes the least time for all rows.

        Not where there is the least work: an engine serves its rows in turn, so a row is slowed by how many others
        there are, and not by how long they go on (docs/SCALING.md has the simulation).
        """
        usable = [link for link in self.links if link.connected] or self.links
        turn_ms = {link: link.turn_ms for link in usable}
        shares: dict[EngineLink, list[LiveRow]] = {}
        for row in rows:
            link = min(usable, key=turn_ms.__getitem__)
            turn_ms[link] += row.spec.weight * lane.cost.row_ms()
            shares.setdefault(link, []).append(row)
        return [*shares.items()]
