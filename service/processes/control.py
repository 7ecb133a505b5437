"""The messages between the supervisor and its processes, in MessagePack over their control channels."""

from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from service.access.buckets import Buckets
from service.access.keys import ApiKey
from service.admission.shared import SharedLoad
from service.contract.manifest import Manifest
from service.engine.cost import CostModel
from service.metrics import Metrics
from service.settings import Settings

#: Lanes and gates of a model that requests are sent to: its own, its encoder's and its text encoder's.
PARTS = 3
#: By number of rows, the milliseconds of a forward pass at warm-up.
Prices = dict[int, float]


class Message(msgspec.Struct, array_like=True):
    """A message or a part of one."""


class Costs(Message):
    """The prices of a model and of its parts, None for a part that it has not."""

    model: Prices
    encoder: Prices | None = None
    text: Prices | None = None
    decoder: Prices | None = None


#: Numbers that a version's lanes take, or a model's gates: its own, its encoder's and its text encoder's.
PARTS = 3


class Version(Message):
    """One version of a model. ``number`` is unique in a run of the service; ``manifest`` is its JSON.

    ``gate`` is the number of the model's first gate; all its versions share its gates. ``costs`` are None before the
    first process has measured them.
    """

    number: int
    gate: int
    directory: str
    manifest: str
    costs: Costs | None = None

    @property
    def lane(self) -> int:
        """The number of the lane of the model in messages of the link; those of its parts follow."""
        return PARTS * self.number

    def parsed(self) -> Manifest:
        """The manifest."""
        return Manifest.model_validate_json(self.manifest)


class EngineAddress(Message):
    """Where an engine listens. ``generation`` counts the processes that have been this engine.

    ``inside``: the keys of the rows that its predecessor computed when it died.
    """

    number: int
    generation: int
    path: str
    inside: list[int] = []


class Load(Message, tag=0):
    """Load a version. With known costs, it is checked and not timed: other processes may be computing."""

    version: Version


class Unload(Message, tag=1):
    """Forget a version."""

    number: int


class Serve(Message, tag=2):
    """Take rows at this path."""

    path: str


class Stop(Message, tag=3):
    """End after the running ticks."""


ToEngine = Load | Unload | Serve | Stop


class Ready(Message, tag=0):
    """The engine process can load models, and computes with so many threads."""

    threads: int


class Loaded(Message, tag=1):
    """A version has been loaded, warmed and checked."""

    number: int
    costs: Costs


class Refused(Message, tag=2):
    """A version cannot be served."""

    number: int
    reason: str


class Serving(Message, tag=3):
    """The engine takes rows at the path that it was given."""


FromEngine = Ready | Loaded | Refused | Serving


class Devices(Message):
    """How many devices there are for engines, and whether they are GPUs; ``problem`` is why there is none."""

    count: int
    gpu: bool = False
    problem: str = ""


class Catalog(Message, tag=0):
    """All that an API process needs to know; each one replaces the one before.

    ``number`` counts the catalogs. ``threads`` are those of all engines. ``refused``: by model, why it is not served.
    ``keys``: those of requests, None if they need none.
    """

    number: int
    versions: list[Version]
    refused: dict[str, str]
    engines: list[EngineAddress]
    threads: int
    api_servers: int
    keys: list[ApiKey] | None = None


ToApi = Catalog


class Listening(Message, tag=0):
    """The API process takes requests."""


class Applied(Message, tag=2):
    """The API process serves what the catalog of that number says."""

    number: int


class Released(Message, tag=1):
    """No request of the API process uses a version any more."""

    number: int


FromApi = Listening | Released | Applied

encode = msgspec.msgpack.Encoder().encode
decode_for_engine: Callable[[bytes], ToEngine] = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine: Callable[[bytes], FromEngine] = msgspec.msgpack.Decoder(FromEngine).decode
decode_for_api: Callable[[bytes], Catalog] = msgspec.msgpack.Decoder(Catalog).decode
decode_devices: Callable[[bytes], Devices] = msgspec.msgpack.Decoder(Devices).decode
decode_from_api: Callable[[bytes], FromApi] = msgspec.msgpack.Decoder(FromApi).decode


class Seat(msgspec.Struct, frozen=True):
    """What a process takes over from its predecessor: its name, and its part of the files in the run folder.

    ``slot`` counts the API processes, or the engine processes with the spare.
    """

    name: str
    slot: int
    folder: Path

    def metrics(self) -> Metrics:
        """The process's metrics; it continues the counters of its predecessor."""
        return Metrics.shared(metrics_folder(self.folder), self.name)

    @property
    def heartbeat(self) -> Path:
        """The file of the process's heartbeat."""
        return self.folder / f"heartbeat-{self.name}"

    def load(self) -> SharedLoad:
        """The work that all API processes have admitted, this one in its own slot."""
        return SharedLoad.open(shared_load(self.folder), self.slot)

    def buckets(self) -> Buckets:
        """The device time that API keys may use, in all API processes together."""
        return Buckets(rates(self.folder))


def metrics_folder(folder: Path) -> Path:
    """The folder of the metrics of all processes."""
    return folder / "metrics"


def shared_load(folder: Path) -> Path:
    """The file of the work that API processes have admitted."""
    return folder / "admitted"


def rates(folder: Path) -> Path:
    """The file of the buckets of API keys."""
    return folder / "rates"


def cost_of(prices: Mapping[int, float], settings: Settings) -> CostModel:
    """The cost model of a lane with these prices."""
    return CostModel(prices, settings.tick_budget_ms)


def send(connection: Connection, message: Any) -> None:  # noqa: ANN401
    """Send a message to the supervisor."""
    connection.send_bytes(encode(message))
