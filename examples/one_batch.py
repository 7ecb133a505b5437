"""Four requests in one forward pass per step: two LoRAs, a ControlNet, and none of them.

    python examples/one_batch.py weights/fox grid.png

The folder is in diffusers' format and has a ControlNet and two LoRAs. The pictures are then made again one by one, and
compared.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from service.background import call_soon
from service.engine.cost import CostModel
from service.engine.engine import Engine
from service.engine.host import Host
from service.engine.model import Model, Served
from service.engine.parts import no_prompt
from service.engine.results import Picture
from service.engine.rows import Adapter, RowSpec
from service.images import encode_png, tile
from service.metrics import Metrics
from service.models.conditions import Control, conditioned
from service.models.diffusers.rows import pipeline_of
from service.models.registry import pick_device, prepare
from service.settings import Settings

#: A request may take as long as it takes. Several engine threads would share the rows between them.
SETTINGS = Settings(max_queue_ms=1e9, max_request_ms=1e9, client_share=1.0, engine_threads=1)


def four_rows(model: Model, steps: int = 8) -> list[RowSpec]:
    """A row with the model's first LoRA, one with its second, one with its ControlNet, and one with a prompt alone."""
    pipeline = pipeline_of(model)
    if len(pipeline.loras) < 2 or not pipeline.controls:
        raise ValueError(f"{model.name} needs two LoRAs and a ControlNet: {pipeline.loras}, {pipeline.controls}")
    first, second = (Adapter(name, scale=0.8) for name in pipeline.loras[:2])
    return [
        _row(model, 1, "a fox in the snow", steps, adapter=first),
        _row(model, 2, "a fox in the snow", steps, adapter=second),
        _row(model, 3, "a lighthouse", steps, control=Control(_square(model), end=0.5)),
        _row(model, 4, "a boat at night", steps),
    ]


def _row(
    model: Model, seed: int, prompt: str, steps: int, adapter: Adapter | None = None, control: Control | None = None
) -> RowSpec:
    zeros, row = no_prompt(model), RowSpec(seed, 0, 1.0, model.plan(steps=steps))
    negative = _embedding(model, "", adapter) if zeros is None else zeros
    controls = {} if control is None else {pipeline_of(model).controls[0]: control}
    embedding = _embedding(model, prompt, adapter)
    return conditioned(model, row, 7.5, embedding, negative, controls=controls, adapter=adapter)


def _embedding(model: Model, prompt: str, adapter: Adapter | None) -> dict[str, Tensor]:
    """What the network is given of a prompt; a LoRA may change the text encoder too."""
    assert model.tokenize is not None
    assert model.encode_text is not None
    made = model.encode_text(model.tokenize(prompt).ids[None], [adapter])
    return {name: batch[0].cpu() for name, batch in made.items()}


def _square(model: Model) -> Tensor:
    """A white square on black, (3, height, width), as the picture that a ControlNet follows."""
    picture = torch.zeros(model.manifest.image_shape)
    height, width = picture.shape[1:]
    picture[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 1
    return picture


def counted(served: Served, calls: list[int]) -> Served:
    """``served``, which adds the number of rows of every forward pass to ``calls``; a guided picture has two rows.

    Warm-up measures which batches are worth while, and on a CPU that may be small ones. Here all of up to eight rows
    cost the same, so that the engine has no reason to split them.
    """
    denoise = served.model.denoise
    assert denoise is not None

    def noted(x: Tensor, *rest: object, **named: object) -> Tensor:
        calls.append(len(x))
        return denoise(x, *rest, **named)

    return replace(served, model=replace(served.model, denoise=noted), cost=CostModel(dict.fromkeys(range(1, 9), 1.0)))


async def pictures(served: Served, rows: Sequence[RowSpec]) -> list[Picture]:
    """The picture of each row. Each is a request of its own; all are queued before the engine starts."""
    metrics = Metrics()
    host = Host(served.model.device, SETTINGS, metrics)
    engine = Engine(host, SETTINGS, metrics)
    deployment = engine.build(served)
    jobs = [engine.submit(deployment, [row]) for row in rows]
    host.start(partial(call_soon, asyncio.get_running_loop()))
    made = [(await job.future)[0] for job in jobs]
    await engine.drain(within_s=1.0)
    return made


def main(folder: Path, target: Path) -> None:
    """Make four pictures of ``folder``'s model together and alone, and write those made together to ``target``."""
    calls: list[int] = []
    served = counted(prepare(folder, pick_device(SETTINGS.device), SETTINGS), calls)
    rows = four_rows(served.model)
    calls.clear()  # those of the warm-up
    together = asyncio.run(pictures(served, rows))
    print(f"{len(rows)} pictures of {rows[0].plan.steps} steps, {len(calls)} forward passes of {calls[0]} rows")
    calls.clear()
    alone = [asyncio.run(pictures(served, [row]))[0] for row in rows]
    print(f"one by one, {len(calls)} forward passes of {calls[0]} rows")
    apart = np.abs(np.stack(together).astype(int) - np.stack(alone)).max()
    print(f"the pictures differ by at most {apart} of 255 grey levels")
    target.write_bytes(encode_png(tile(together, columns=2)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
