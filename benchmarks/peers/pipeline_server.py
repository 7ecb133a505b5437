"""A pipeline of diffusers behind FastAPI: requests wait in line for `pipe(...)`, and those of equal settings share it.

With MOST = 1 a call is for one request, as with a lock around it. With more, a call takes the oldest request and up to
MOST - 1 others that wait with the same steps and the same guidance: what a call can do for several requests.

    python -m benchmarks.peers.pipeline_server FOLDER MOST PORT
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

from benchmarks.prompt_folder import load_pipeline
from service.images import encode_png


class Request(BaseModel):
    """A picture; without steps and guidance, one that is quick to make."""

    seed: int
    prompt: str = ""
    steps: int = 2
    guidance_scale: float = 1.0

    @property
    def settings(self) -> tuple[int, float]:
        """What all pictures of one call have in common."""
        return self.steps, self.guidance_scale


class Waiting(NamedTuple):
    """A request, and where its PNG goes."""

    request: Request
    png: "asyncio.Future[bytes]"


class Maker(Protocol):
    """Makes the pictures of a call."""

    def pngs(self, requests: Sequence[Request]) -> list[bytes]:
        """A PNG for each request."""


class Pictures:
    """The pipeline, and what it has computed: ``rows`` of its UNet in ``calls`` of it."""

    def __init__(self, folder: Path) -> None:
        self._pipeline = load_pipeline(folder, torch.float32)
        self._pipeline.unet.register_forward_hook(self._count)
        self.rows = self.calls = 0

    def pngs(self, requests: Sequence[Request]) -> list[bytes]:
        """Their pictures, by one call."""
        made = self._pipeline(
            [request.prompt for request in requests],
            num_inference_steps=requests[0].steps,
            guidance_scale=requests[0].guidance_scale,
            generator=[torch.Generator().manual_seed(request.seed) for request in requests],
            output_type="np",
        )
        return [encode_png((255 * picture).round().astype("uint8")) for picture in made.images]

    def _count(self, _: Any, __: Any, output: Any) -> None:  # noqa: ANN401  (as torch calls a hook)
        self.rows += len(output[0])
        self.calls += 1


def take(line: list[Waiting], most: int) -> list[Waiting]:
    """Remove the oldest of ``line`` and the next of equal settings, at most ``most``."""
    settings = line[0].request.settings
    taken = [each for each in line if each.request.settings == settings][:most]
    line[:] = [each for each in line if all(each is not other for other in taken)]
    return taken


async def serve_line(pictures: Maker, line: list[Waiting], arrived: asyncio.Event, most: int) -> None:
    """Compute what waits in ``line``, call after call."""
    while True:
        if not line:
            arrived.clear()
            await arrived.wait()
        batch = take(line, most)
        try:
            pngs = await asyncio.to_thread(pictures.pngs, [each.request for each in batch])
        except Exception as failure:  # the answer is a 500, and the next call may succeed
            for each in batch:
                each.png.set_exception(failure)
        else:
            for each, png in zip(batch, pngs, strict=True):
                each.png.set_result(png)


def application(pictures: Pictures, most: int) -> FastAPI:
    """POST /generate makes a picture; GET /counts says what was computed."""
    line: list[Waiting] = []
    arrived = asyncio.Event()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        serving = asyncio.create_task(serve_line(pictures, line, arrived, most))
        yield
        serving.cancel()

    app = FastAPI(strict_content_type=False, lifespan=lifespan)  # our client names no Content-Type

    @app.post("/generate")
    async def generate(request: Request) -> Response:
        waiting = Waiting(request, asyncio.get_running_loop().create_future())
        line.append(waiting)
        arrived.set()
        return Response(await waiting.png, media_type="image/png")

    @app.get("/counts")
    async def counts() -> dict[str, int]:
        return {"rows": pictures.rows, "calls": pictures.calls}

    return app


if __name__ == "__main__":
    folder, most, port = sys.argv[1:]
    uvicorn.run(application(Pictures(Path(folder)), int(most)), port=int(port), log_level="warning")
