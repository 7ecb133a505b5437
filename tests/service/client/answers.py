"""What a service may answer."""

import base64
import io
from typing import Any

import httpx
from PIL import Image


def png(grey: int = 0) -> bytes:
    """A picture of 3 x 2 pixels."""
    file = io.BytesIO()
    Image.new("L", (3, 2), grey).save(file, "PNG")
    return file.getvalue()


def picture(index: int = 0, seed: int | None = 7) -> dict[str, Any]:
    encoded = base64.b64encode(png(index)).decode()
    about = {"class_label": "bag", "mime": "image/png", "width": 3, "height": 2}
    return {"index": index, "seed": seed, "b64_json": encoded, **about}


def generation(count: int = 1) -> dict[str, Any]:
    timings = {"queue_ms": 1.0, "compute_ms": 2.0, "encode_ms": 3.0, "total_ms": 6.0, "ms_per_step": None}
    return {
        "id": "an-id",
        "object": "generation",
        "created": 1,
        "model": "vae",
        "model_version": "0123abcd",
        "images": [picture(index, 7 + index) for index in range(count)],
        "params": {"seed": 7},
        "warnings": [],
        "metadata": {},
        "timings": timings,
        "reproduce": "curl",
        "what a later version adds": True,
    }


def status(state: str = "running", progress: float = 0.5) -> dict[str, Any]:
    return {
        "id": "job-1",
        "status": state,
        "model": "vae",
        "created": 1,
        "progress": progress,
        "step": 2,
        "steps": 4,
        "queue_position": 0,
        "eta_ms": 10.0,
        "params": {"seed": 7},
        "error": None,
        "urls": {},
    }


def problem(status: int, code: str, **errors: str) -> dict[str, Any]:
    """A problem document; ``errors`` are messages by field."""
    return {
        "status": status,
        "code": code,
        "detail": "It is not to be had.",
        "request_id": "an-id",
        "errors": [{"pointer": f"#/{name}", "message": text} for name, text in errors.items()],
    }


def refusal(status: int, code: str, retry_after: str | None = None, **errors: str) -> httpx.Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return httpx.Response(status, json=problem(status, code, **errors), headers=headers)
