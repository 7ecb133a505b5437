"""The whole road of a text-to-image model on the committed emoji: train, export, serve; each by its own command."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.e2e.process import ROOT, Service, serving
from tests.e2e.test_train_export_serve import run_trainer
from tests.trainer.conftest import EMOJI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRAIN = ["--data-dir", str(EMOJI), "--device", "cpu", "--precision", "fp32", "--batch-size", "16", "--epochs", "1"]
#: The models, and whether they start from emoji.
STARTS = {"emoji": False, "emoji-control": True, "emoji-few-step": True}
JSON = {"Accept": "application/json"}


def small(preset: str) -> str:
    """``preset`` with a small network, and with few steps: samples are drawn in every run."""
    for line in ("width = 32", "wide = 32", "blocks = 1", "steps = 2"):
        preset, count = re.subn(rf"(?m)^{line.split()[0]} = \d+$", line, preset)
        assert count == 1
    return preset


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with emoji, hardly trained, and the two models that start from it as it is exported."""
    folder = tmp_path_factory.mktemp("road")
    emoji, preset = folder / "weights" / "emoji", folder / "emoji.toml"
    preset.write_text(small((ROOT / "trainer" / "presets" / "emoji.toml").read_text()))
    for model, begun in STARTS.items():
        run = folder / "runs" / model
        options = [model, "--from", str(emoji)] if begun else [str(preset)]
        run_trainer("train", *options, *TRAIN, "--out", str(run))
        run_trainer("export", str(run), str(folder / "weights" / model), "--data-dir", str(EMOJI))
    return folder / "weights"


@pytest.fixture(scope="module")
def service(exported: Path) -> Iterator[Service]:
    with serving(exported) as running:
        yield running


def pictures(service: Service, model: str, **body: object) -> tuple[NDArray[np.uint8], list[str]]:
    """(n, height, width, 3), and the warnings."""
    answer = service.client.post(f"/generate/{model}", json=body, headers=JSON)
    assert answer.status_code == 200, answer.text
    made = [Image.open(io.BytesIO(base64.b64decode(each["b64_json"]))) for each in answer.json()["images"]]
    return np.stack([np.asarray(each, np.uint8) for each in made]), answer.json()["warnings"]


def test_a_prompt_is_read(service: Service) -> None:
    """In processes: by an engine that has the networks, and API processes that have the words."""
    made, warnings = pictures(service, "emoji", prompt=["red heart", "\u2764\ufe0f", "a blorp"], seeds=[1, 1, 1])
    assert made.shape == (3, 64, 64, 3)
    assert (np.abs(made[0].astype(int) - made[1]) <= 1).all()
    assert not np.array_equal(made[0], made[2])
    assert warnings == ["prompt: unknown words are ignored: blorp"]


def test_guidance_and_steps(service: Service) -> None:
    fields = {"prompt": "red heart", "seed": 1, "steps": 3}
    plain, guided = (pictures(service, "emoji", **fields, guidance_scale=scale)[0] for scale in (1.0, 5.0))
    assert not np.array_equal(plain, guided)


def test_a_few_steps_are_the_default_of_the_tuned_model(service: Service) -> None:
    answer = service.client.post("/generate/emoji-few-step", json={"prompt": "red heart"}, headers=JSON).json()
    assert answer["params"].items() >= {"steps": 4, "solver": "consistency", "guidance_scale": 1.0}.items()


def test_a_sketch_is_read(service: Service) -> None:
    drawing = np.full((256, 256), 255, dtype=np.uint8)
    drawing[60:200, 100:110] = 0
    file = io.BytesIO()
    Image.fromarray(drawing).save(file, format="PNG")
    sent = {"control_image": base64.b64encode(file.getvalue()).decode(), "prompt": "red heart", "seed": 1, "steps": 3}
    made, warnings = pictures(service, "emoji-control", **sent)
    assert made.shape == (1, 64, 64, 3)
    assert warnings == ["control_image: resized from 256 x 256 to 64 x 64 pixels"]


def test_nothing_failed(service: Service) -> None:
    assert service.sample("images_total") > 0
    assert service.sample("errors_total") == 0
    assert service.sample("model_ready") == 3
