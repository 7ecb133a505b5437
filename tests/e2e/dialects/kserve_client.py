"""Asks a service by KServe's InferenceRESTClient, in an environment that has it; prints what came as JSON.

python kserve_client.py http://127.0.0.1:8000
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def seeds(*, binary: bool) -> InferInput:
    tensor = InferInput("seed", [2], "INT64")
    tensor.set_data_from_numpy(np.array([7, 9], np.int64), binary_data=binary)
    return tensor


def request(tensor: InferInput, **options: Any) -> InferRequest:
    return InferRequest(model_name="ddpm", infer_inputs=[tensor], parameters={"steps": 3}, **options)


async def main(url: str) -> None:
    """Every form of request, and of each answer its pictures."""
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=60))
    binary = RequestedOutput("images", {"binary_data": True})
    requests: dict[str, InferRequest | dict[str, Any]] = {
        "json": request(seeds(binary=False)),
        "binary": request(seeds(binary=True)),
        "binary answer": request(seeds(binary=True), request_outputs=[binary], request_id="mine"),
        "named output": request(seeds(binary=False), request_outputs=[RequestedOutput("images")]),
        "dictionary": request(seeds(binary=False)).to_dict(),
    }
    found: dict[str, object] = {}
    for name, asked in requests.items():
        answer = await client.infer(url, asked, model_name="ddpm")
        found[name] = answer.outputs[0].as_numpy().tolist()
    nested = InferInput("latents", [1, 4], "FP32", data=[[0.5, -0.5, 0.25, 0.0]])
    latents = InferRequest(model_name="vae", infer_inputs=[nested])
    found["nested"] = (await client.infer(url, latents, model_name="vae")).outputs[0].as_numpy().tolist()
    found["ready"] = [
        await client.is_server_ready(url),
        await client.is_server_live(url),
        await client.is_model_ready(url, "ddpm"),
    ]
    await client.close()
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
