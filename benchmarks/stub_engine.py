"""The service with engines that answer at once with the same picture, to measure the API processes by themselves.

`benchmarks.api_servers` loads it. The engine processes speak the messages of the service and compute nothing.

    GENSERVE_API_SERVERS=2 python -m benchmarks.stub_engine
"""

import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from service import __main__ as service
from service import logs
from service.contract.manifest import Manifest
from service.link.channel import Channel, Listener
from service.link.messages import Array, Done, Frame, Submit, ToApi, array_of, decode_for_engine, encode
from service.processes import control, members
from service.processes.control import Costs, Load, Loaded, Ready, Seat, Serve, Serving, Stop, Version
from service.settings import Settings

#: Milliseconds that a forward pass is said to take, by its rows: so short that the API never refuses for the load.
PRICES = {1: 0.01, 64: 0.1}


class StubEngine:
    """Answers each row with a picture of its model's size as soon as the row has come."""

    def __init__(self) -> None:
        self._pictures: dict[int, Array] = {}

    def load(self, version: Version) -> Loaded:
        """Take rows for a version."""
        self._pictures[version.lane] = picture_of(version.parsed())
        return Loaded(version.number, Costs(PRICES))

    def answers(self, payload: bytes) -> list[ToApi]:
        """The results of all rows in a frame."""
        now = time.monotonic()
        return [
            Done(message.key, row.index, now, self._pictures[message.lane])
            for message in decode_for_engine(payload)
            if isinstance(message, Submit)
            for row in message.rows
        ]

    def serve(self, listener: Listener) -> None:
        """Answer every API process that connects, each in a thread of its own."""
        while (channel := listener.accept()) is not None:
            threading.Thread(target=self._answer, args=(channel,), daemon=True).start()

    def _answer(self, channel: Channel) -> None:
        while (payload := channel.receive()) is not None:
            answers = self.answers(payload)
            if answers:
                channel.send(encode(Frame(time.monotonic(), answers)))


def picture_of(manifest: Manifest) -> Array:
    """Noise of the size of the model's pictures."""
    channels, height, width = manifest.image_shape
    return array_of(np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8))


def run(connection: Connection, seat: Seat, settings: Settings, device: int) -> None:  # noqa: ARG001  (as the service calls it)
    """The target of an engine process: do what the supervisor says, until it says stop."""
    logs.configure(settings.log_level, settings.log_format)
    engine = StubEngine()
    control.send(connection, Ready(1))
    while True:
        match control.decode_for_engine(connection.recv_bytes()):
            case Load(version=version):
                control.send(connection, engine.load(version))
            case Serve(path=path):
                threading.Thread(target=engine.serve, args=(Listener(Path(path)),), daemon=True).start()
                control.send(connection, Serving())
            case Stop():
                return


def main() -> int:
    """Serve until stopped; returns the exit code."""
    members.ENGINE = "benchmarks.stub_engine"
    return service.main()


if __name__ == "__main__":
    sys.exit(main())
