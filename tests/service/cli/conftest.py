import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.service.client.answers import generation, status

MODEL = {
    "name": "ddpm",
    "version": "0123abcd",
    "family": "ddpm",
    "image_shape": [1, 28, 28],
    "class_names": ["bag", "sneaker"],
    "capabilities": ["generate", "interpolate"],
    "limits": {"n": 64},
    "does": ["generate", "image_to_image"],
}
HEADERS = {"X-Seed": "7, 8, 9", "X-Model": "ddpm", "X-Model-Version": "0123abcd"}


@dataclass
class FakeService:
    """Answers by method and path, and what was asked: a JSON body, or none."""

    answers: dict[str, tuple[int, Any]]
    asked: list[tuple[str, Any]] = field(default_factory=list)
    #: Bytes of each answer that never come: the connection closes first.
    withheld: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def body(self, request: str) -> dict[str, Any]:
        """What came with a request."""
        found: dict[str, Any] = next(body for each, body in self.asked if each == request)
        return found


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    """A service that has made whatever is asked for, at the address that commands ask by default."""
    made = {
        **{f"GET /models/{name}": (200, MODEL | {"name": name}) for name in ("ddpm", "gan", "vae")},
        "GET /models/sd": (200, MODEL | {"name": "sd", "image_shape": [3, 512, 512]}),
        "GET /jobs/job-1": (200, status("succeeded", 1.0)),
        "GET /jobs/job-1/result": (200, b"the file"),
        "POST /generate/ddpm": (202, status("queued")),
        "POST /interpolate": (202, status("queued")),
    }
    fake = FakeService(made)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            request = f"{self.command} {self.path}"
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fake.asked.append((request, json.loads(sent) if sent[:1] == b"{" else None))
            code, body = fake.answers.get(request, (404, generation()))
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            about = {"Content-Length": str(len(content) + fake.withheld), "Content-Type": "image/png"}
            for name, text in {**HEADERS, **about, **fake.headers}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = self.close_connection or fake.withheld > 0

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        monkeypatch.setenv("GENSERVE_URL", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        server.shutdown()
        thread.join()
