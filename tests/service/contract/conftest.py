import hashlib
import json
from typing import Any

import pytest

from service.contract.manifest import Manifest

PAYLOAD = b"weights of a very small model"


@pytest.fixture
def payload() -> bytes:
    return PAYLOAD


@pytest.fixture
def fields() -> dict[str, Any]:
    """The JSON of a valid diffusion manifest whose artefact is `payload`."""
    sha256 = hashlib.sha256(PAYLOAD).hexdigest()
    return {
        "schema_version": 1,
        "name": "fashion-ddpm",
        "family": "ddpm",
        "image_shape": [1, 28, 28],
        "latent_shape": [1, 28, 28],
        "x0_range": [-1.0, 1.0],
        "class_names": ["shirt", "bag", "boot"],
        "noise_schedule": {"kind": "linear", "timesteps": 1000},
        "t_max": 0.9,
        "capabilities": ["generate"],
        "defaults": {"steps": 20, "solver": "ddim", "guidance_scale": 1.5},
        "inference_dtype": "float32",
        "artifact": {
            "format": "torchscript",
            "file": f"model-{sha256[:8]}.pt",
            "size": len(PAYLOAD),
            "sha256": sha256,
        },
        "dataset": {"name": "sample", "licence": "MIT", "source": "https://example.org/sample", "images": 60},
        "training": {
            "command": "python -m trainer train fashion-ddpm",
            "epochs": 2.5,
            "images_seen": 150,
            "seconds": 12.25,
            "device": "cpu",
            "precision": "float32",
            "seed": 0,
            "parameters": 1234,
            "losses": {"loss": 0.0625},
            "ema_decay": 0.999,
        },
        "quality": [
            {
                "metric": "classifier-fid",
                "value": 5.3,
                "samples": 10_000,
                "reference": "train",
                "floor": 2.6,
                "sampler": "ddim, 20 steps",
            }
        ],
        "torch_version": "2.13.0",
        "created": "2026-11-22",
    }


@pytest.fixture
def one_shot_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a valid manifest of a model without steps."""
    sampler = {"noise_schedule": None, "t_max": None, "defaults": None}
    return fields | sampler | {"family": "gan", "latent_shape": [64], "x0_range": None}


@pytest.fixture
def manifest(fields: dict[str, Any]) -> Manifest:
    return Manifest.model_validate_json(json.dumps(fields))
