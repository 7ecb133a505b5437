"""mosec as its documentation has it: processes that batch, behind a server written in Rust.

One process a core, the shortest wait for a batch to fill (1 ms; 0 would mean the default of 10). Two processes on one
core, and batches of 8, were slower.
"""

from mosec import Server, Worker

from benchmarks.peers.generator import MAX_BATCH, WORKERS, Generator


class Gan(Worker):  # type: ignore[misc]  # not installed where mypy runs
    """JSON in, which is mosec's default, and a PNG out."""

    resp_mime_type = "image/png"

    def __init__(self) -> None:
        super().__init__()
        self._generator = Generator()

    def forward(self, data: list[dict[str, int]]) -> list[bytes]:
        """A batch."""
        return self._generator.pngs([request["seed"] for request in data])

    def serialize(self, data: bytes) -> bytes:
        """A picture is bytes already."""
        return data


if __name__ == "__main__":
    server = Server()  # reads the port from the command line
    server.append_worker(Gan, num=WORKERS, max_batch_size=MAX_BATCH, max_wait_time=1, route="/generate")
    server.run()
