"""Pictures without a server, from the engine in this process: python examples/engine.py weights/ddpm grid.png"""

import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from service.background import call_soon
from service.engine.engine import Engine
from service.engine.host import Host
from service.engine.results import Picture
from service.engine.rows import RowSpec
from service.images import encode_png, tile
from service.metrics import Metrics
from service.models.registry import pick_device, prepare
from service.settings import Settings


async def pictures(folder: Path, seeds: Sequence[int]) -> Sequence[Picture]:
    """A picture (height, width, channel) uint8 of no class for each seed, by the model in ``folder``."""
    settings, metrics = Settings(), Metrics()
    device = pick_device(settings.device)
    host = Host(device, settings, metrics)
    engine = Engine(host, settings, metrics)
    served = engine.build(prepare(folder, device, settings))
    host.start(partial(call_soon, asyncio.get_running_loop()))
    no_class, plan = served.model.manifest.null_label, served.model.plan()
    made = await engine.submit(served, [RowSpec(seed, no_class, 1.0, plan) for seed in seeds]).future
    await engine.drain(within_s=1.0)
    return made


if __name__ == "__main__":
    grid = tile(asyncio.run(pictures(Path(sys.argv[1]), range(16))), columns=4)
    Path(sys.argv[2]).write_bytes(encode_png(grid))
