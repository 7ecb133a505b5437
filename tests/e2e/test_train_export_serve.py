"""The whole road on real pictures: train, export, serve; each by its own command."""

import base64
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.contract.artifact import read_artifact
from service.contract.manifest import read_manifest
from tests.e2e.process import ROOT, Service, serving
from tests.trainer.sample import first_of_sample

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

IMAGES = 400
TRAIN = {
    "vae": ["--epochs", "2"],
    "gan": ["--epochs", "1"],
    "ddpm": ["--epochs", "1", "--batch-size", "128"],
    "autoencoder": ["--epochs", "2"],
    "ldm": ["--epochs", "1"],
    "few-step": ["--epochs", "1", "--batch-size", "128"],
}
STARTS = {"ldm": "autoencoder", "few-step": "ddpm"}
EPOCHS = {"vae": 2, "gan": 1, "ddpm": 1, "autoencoder": 2, "ldm": 1, "few-step": 1}
MODELS = tuple(TRAIN)
GENERATORS = tuple(model for model in MODELS if model != "autoencoder")

Pixels = NDArray[np.uint8]


def run_trainer(*arguments: str) -> str:
    """What a command of the trainer prints."""
    result = subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with one of each family, hardly trained."""
    folder = tmp_path_factory.mktemp("road")
    data = str(first_of_sample(folder / "data", IMAGES, 150))
    for model, options in TRAIN.items():
        run = str(folder / "runs" / model)
        begun = ["--from", str(folder / "runs" / STARTS[model])] if model in STARTS else []
        run_trainer("train", model, "--data-dir", data, "--device", "cpu", "--out", run, *begun, *options)
        run_trainer("export", run, str(folder / "weights" / model), "--data-dir", data)
    return folder / "weights"


@pytest.fixture(scope="module")
def service(exported: Path) -> Iterator[Service]:
    with serving(exported) as running:
        yield running


def decode(png: bytes) -> Pixels:
    """(height, width) grey levels; a colour picture must be grey in all of its channels."""
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image, np.uint8)
    if pixels.ndim == 3:
        assert (pixels == pixels[..., :1]).all()
        return pixels[..., 0]
    return pixels


def picture(response: httpx2.Response) -> Pixels:
    """The one picture of an answer."""
    assert response.status_code == 200, response.text
    return decode(response.content)


def distance(first: Pixels, second: Pixels) -> int:
    """The largest difference in grey levels."""
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second.astype(int)).max())


@pytest.mark.parametrize("model", [model for model in MODELS if model != "few-step"])
def test_the_artefact_says_what_it_is(exported: Path, model: str) -> None:
    folder = exported / model
    manifest = read_manifest(folder)
    assert {path.name for path in folder.iterdir() if path.suffix != ".npz"} == {
        manifest.artifact.file,
        "manifest.json",
        "card.md",
        "samples.png",
    }
    assert len(read_artifact(folder, manifest.artifact)) == manifest.artifact.size < 10_000_000
    assert (manifest.name, manifest.family, manifest.image_shape) == (model, model, (1, 28, 28))
    assert len(manifest.class_names) == 10
    assert (manifest.made_from.name, manifest.made_from.images) == ("fashion-mnist", IMAGES)
    assert "MIT" in manifest.made_from.licence
    assert manifest.made_by.epochs == EPOCHS[model]
    assert manifest.made_by.losses
    assert manifest.made_by.command.startswith(f"python -m trainer train {model} ")
    card = (folder / "card.md").read_text()
    for told in (manifest.made_by.command, manifest.artifact.file, manifest.made_from.licence, "samples.png"):
        assert told in card


def test_a_tuned_model_is_a_diffusion_model_to_the_service(exported: Path) -> None:
    manifest = read_manifest(exported / "few-step")
    assert (manifest.name, manifest.family) == ("few-step", "ddpm")
    assert manifest.defaults is not None
    assert (manifest.defaults.solver, manifest.defaults.steps) == ("consistency", 2)
    assert " --from " in manifest.made_by.command


def test_every_model_is_ready(service: Service, exported: Path) -> None:
    ready = service.client.get("/health/ready")
    assert ready.status_code == 200
    versions = {model: read_manifest(exported / model).version for model in MODELS}
    assert ready.json() == {"status": "ready", "models": versions, "refused": {}, "faults": {}}
    cards = service.client.get("/models").json()
    assert {card["name"]: card["version"] for card in cards} == versions
    assert all(card["class_names"] == list(read_manifest(exported / card["name"]).class_names) for card in cards)


@pytest.mark.parametrize("model", GENERATORS)
def test_a_picture_of_every_model(service: Service, model: str) -> None:
    plain = service.client.post(f"/generate/{model}")
    made = picture(plain)
    assert made.shape == (28, 28)
    assert made.std() > 1  # a picture, not one grey level
    again = service.client.get(f"/generate/{model}", params={"seed": plain.headers["x-seed"]})
    assert distance(picture(again), made) <= 1
    first, second = (
        picture(service.client.post(f"/generate/{model}", json={"seed": seed, "class_label": "ankle boot"}))
        for seed in (1, 2)
    )
    assert distance(first, second) > 3


@pytest.mark.parametrize("model", GENERATORS)
def test_the_pictures_on_the_card_are_those_that_are_served(service: Service, exported: Path, model: str) -> None:
    grid = decode((exported / model / "samples.png").read_bytes())
    for seed in (0, 7, 42):
        top, left = 2 + 30 * (seed // 10), 2 + 30 * (seed % 10)
        body = {"seed": seed, "class_label": seed % 10}
        served = picture(service.client.post(f"/generate/{model}", json=body))
        assert distance(served, grid[top : top + 28, left : left + 28]) <= 1


@pytest.mark.parametrize("model", GENERATORS)
def test_a_path_between_two_seeds(service: Service, model: str) -> None:
    body = {"model": model, "from": {"seed": 1}, "to": {"seed": 2}, "frames": 4, "class_label": "bag"}
    strip = picture(service.client.post("/interpolate", json=body))
    assert strip.shape == (32, 4 * 30 + 2)
    for seed, left in ((1, 2), (2, 3 * 30 + 2)):
        walked = {"solver": "ddim"} if model == "few-step" else {}  # its own would draw noise on the way
        alone = {"seed": seed, "class_label": "bag", **walked}
        end = picture(service.client.post(f"/generate/{model}", json=alone))
        assert distance(strip[2:30, left : left + 28], end) <= 1


def test_many_at_once_as_json(service: Service) -> None:
    body = {"n": 5, "seed": 3, "class_label": 9, "steps": 3, "guidance_scale": 2.0}
    answer = service.client.post("/generate/ddpm", json=body, headers={"Accept": "application/json"}).json()
    assert [image["seed"] for image in answer["images"]] == [3, 4, 5, 6, 7]
    assert {image["class_label"] for image in answer["images"]} == {"ankle boot"}
    assert {decode(base64.b64decode(image["b64_json"])).shape for image in answer["images"]} == {(28, 28)}
    assert answer["params"].items() >= {"steps": 3, "solver": "dpmpp_2m", "guidance_scale": 2.0}.items()


def test_one_step_of_a_tuned_model(service: Service) -> None:
    body = {"seed": 3, "class_label": "bag", "steps": 1}
    answer = service.client.post("/generate/few-step", json=body, headers={"Accept": "application/json"}).json()
    assert answer["params"].items() >= {"steps": 1, "solver": "consistency"}.items()
    assert picture(service.client.post("/generate/few-step", json=body)).shape == (28, 28)


def test_the_metrics_tell_of_it(service: Service) -> None:
    assert service.sample("images_total") > 0
    assert service.sample("errors_total") == 0
    assert service.sample("model_ready") == len(MODELS)
