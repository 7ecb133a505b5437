"""A device that only notes what it is asked, as a GPU does: clocks are read after waiting, and streams stay.

``tests -m gpu`` runs the same code on a real one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from service.engine.model import Model
from service.models.buckets import CALLS_BEFORE_CAPTURE, GraphedPart
from service.models.warmup import warm_up
from service.sampling.step import Inputs
from service.settings import Settings
from tests.service.engine.conftest import LaneOf, put, request_rows


class Asynchronous:
    """A device with a clock: work is asked at no time at all, and takes its time when it is waited for."""

    def __init__(self) -> None:
        self.now, self.asked_s, self.waits = 0.0, 0.0, 0

    def model(self, model: Model) -> Model:
        """``model`` on this device: a call of the network takes a millisecond a row, one of the decoder ten."""

        def denoise(x: Tensor, t: Tensor, inputs: Inputs) -> Tensor:
            assert model.denoise is not None
            self.asked_s += 0.001 * len(x)
            result: Tensor = model.denoise(x, t, inputs)
            return result

        def decode(z: Tensor, inputs: Inputs) -> Tensor:
            self.asked_s += 0.01 * len(z)
            result: Tensor = model.decode(z, inputs)
            return result

        return replace(model, denoise=None if model.denoise is None else denoise, decode=decode)

    def wait_for(self, device: torch.device) -> None:
        self.waits += 1
        self.now, self.asked_s = self.now + self.asked_s, 0.0


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Asynchronous:
    gpu = Asynchronous()
    monkeypatch.setattr("service.models.warmup.wait_for", gpu.wait_for)
    monkeypatch.setattr("service.models.warmup.time", SimpleNamespace(perf_counter=lambda: gpu.now))
    monkeypatch.setattr("service.engine.lane.wait_for", gpu.wait_for)
    return gpu


@pytest.mark.parametrize(("kind", "row_ms"), [("diffusion", 1.0), ("one_shot", 10.0)])
def test_a_price_is_what_a_call_takes_and_not_what_asking_for_it_does(
    gpu: Asynchronous, kind: str, row_ms: float, request: pytest.FixtureRequest
) -> None:
    """Neither less, nor with what was asked before."""
    cost = warm_up(gpu.model(request.getfixturevalue(kind)), Settings(max_bucket=4))
    assert [cost.forward_ms(rows) for rows in (1, 2, 4)] == pytest.approx([row_ms, 2 * row_ms, 4 * row_ms])


async def test_a_tick_ends_when_its_work_is_done(gpu: Asynchronous, diffusion: Model, lane_of: LaneOf) -> None:
    """One of three steps, too, which copies nothing to the host."""

    lane = lane_of(gpu.model(diffusion))
    put(lane, request_rows(2, 0, 1, 1.0, diffusion.plan("ddim", 3)))
    for waits in range(1, 4):
        result = lane.compute(lane.claim(None, 1))
        assert (gpu.waits, gpu.asked_s) == (waits, 0.0)
        lane.complete_tick(result, spent_ms=1.0)
    assert lane.is_empty


class Doubles:
    """A part whose recording works on the tensors of the call that was recorded. Fails at call ``fails_at``."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.calls, self._fails_at = 0, fails_at

    def __call__(self, x: Tensor, inputs: Inputs) -> Tensor:
        self.calls += 1
        if self.calls == self._fails_at:
            raise torch.jit.Error("cannot be captured")
        self._input, self._output = x, 2 * x
        return self._output

    def replay(self) -> None:
        self._output.copy_(2 * self._input)


class Streams:
    """What this test needs of torch.cuda: streams, and a capture that, as torch's, keeps its stream when it fails."""

    def __init__(self, part: Doubles) -> None:
        self.current = "default"
        self.modes: list[str] = []
        self._part = part

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stand_ins = {
            "current_stream": lambda _: SimpleNamespace(wait_stream=lambda _: None, name=self.current),
            "Stream": lambda _: SimpleNamespace(wait_stream=lambda _: None, name="aside"),
            "stream": self._stream,
            "CUDAGraph": lambda: SimpleNamespace(replay=self._part.replay),
            "graph": self._graph,
        }
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)

    @contextmanager
    def _stream(self, stream: SimpleNamespace) -> Iterator[None]:
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def _graph(self, graph: SimpleNamespace, capture_error_mode: str) -> Iterator[None]:
        self.modes.append(capture_error_mode)
        before, self.current = self.current, "capture"
        yield
        self.current = before


def test_replays_share_their_buffers_and_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Doubles()
    streams = Streams(part)
    streams.patch(monkeypatch)
    graphed = GraphedPart(part, [2, 4])
    batches = [torch.arange(float(rows))[:, None] + seed for seed, rows in enumerate((4, 3, 4))]
    results = [graphed(batch, {}) for batch in batches]
    for batch, result in zip(batches, results, strict=True):
        assert torch.equal(result, 2 * batch)
    assert part.calls == CALLS_BEFORE_CAPTURE + 1  # captured once
    assert streams.modes == ["thread_local"]  # another thread that loads a model does not end a capture
    assert streams.current == "default"


def test_what_cannot_be_captured_is_called_as_it_is_and_in_the_stream_of_the_rest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    part = Doubles(fails_at=CALLS_BEFORE_CAPTURE + 1)
    streams = Streams(part)
    streams.patch(monkeypatch)
    graphed = GraphedPart(part, [4])
    for rows in (3, 4, 1):
        assert torch.equal(graphed(torch.ones(rows, 1), {}), torch.full((rows, 1), 2.0))
        assert streams.current == "default"
    (record,) = caplog.records
    assert "cannot be captured" in vars(record)["reason"]
