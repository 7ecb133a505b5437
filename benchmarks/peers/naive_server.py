"""What one writes first: FastAPI, a plain function, one forward pass for one request."""

import sys

import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

from benchmarks.peers.generator import Generator

app = FastAPI(strict_content_type=False)  # our client names no Content-Type
generator = Generator()


class Request(BaseModel):
    """Which picture."""

    seed: int


@app.post("/generate")
def generate(request: Request) -> Response:
    """One picture."""
    return Response(generator.pngs([request.seed])[0], media_type="image/png")


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
