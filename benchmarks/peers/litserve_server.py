"""LitServe as its documentation has it: FastAPI in one process, a worker that batches in another.

With a second core a second process for HTTP, where a second worker was slower. Waiting 5 ms for a batch to fill makes
5 % more answers than its default, not to wait; a lone request pays for it. fast_queue made no difference.
"""

import sys

import litserve
from fastapi import Response

from benchmarks.peers.generator import MAX_BATCH, WORKERS, Generator


class Gan(litserve.LitAPI):  # type: ignore[misc]  # not installed where mypy runs
    """JSON in, which is LitServe's default, and a PNG out."""

    def setup(self, device: str) -> None:  # noqa: ARG002  (LitServe's signature)
        """In the worker."""
        self._generator = Generator()

    def predict(self, requests: list[dict[str, int]]) -> list[bytes]:
        """A batch."""
        return self._generator.pngs([request["seed"] for request in requests])

    def encode_response(self, output: bytes) -> Response:
        """The PNG itself."""
        return Response(output, media_type="image/png")


if __name__ == "__main__":
    api = Gan(max_batch_size=MAX_BATCH, batch_timeout=0.005, api_path="/generate")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=WORKERS,
        generate_client_file=False,
        log_level="warning",
    )
