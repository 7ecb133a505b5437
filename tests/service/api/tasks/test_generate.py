import base64
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.api.response.schemas import PicturesAnswer
from service.app import create_app
from service.settings import Settings
from tests.service.api.conftest import (
    JSON,
    MODELS,
    NPY,
    assert_other,
    assert_same,
    change_manifest,
    decode,
    load,
    pictures,
)
from tests.service.artefacts import CLASS_NAMES

each_model = pytest.mark.parametrize("model", MODELS)


@each_model
def test_no_body_gives_a_picture_that_its_seed_makes_again(client: TestClient, model: str) -> None:
    response = client.post(f"/generate/{model}")
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-model"] == model
    assert response.headers["x-model-version"] == client.get(f"/models/{model}").json()["version"]
    picture = decode(response.content)
    assert picture.shape == (8, 8, 1)
    again = client.post(f"/generate/{model}", json={"seed": int(response.headers["x-seed"])})
    assert_same(decode(again.content), picture)
    assert again.headers["x-seed"] == response.headers["x-seed"]


@each_model
def test_seeds_are_drawn_anew_and_decide_the_picture(client: TestClient, model: str) -> None:
    first, second = client.post(f"/generate/{model}"), client.post(f"/generate/{model}")
    assert first.headers["x-seed"] != second.headers["x-seed"]
    assert_other(decode(first.content), decode(second.content))


def test_answers_are_not_cached_and_tell_where_the_time_went(client: TestClient) -> None:
    response = client.post("/generate/vae")
    headers = response.headers
    assert int(headers["content-length"]) == len(response.content)
    assert headers["cache-control"] == "no-store"
    assert headers["vary"] == "Accept"
    stages = dict(stage.split(";dur=") for stage in headers["server-timing"].split(", "))
    assert list(stages) == ["queue", "compute", "encode"]
    assert all(float(milliseconds) >= 0 for milliseconds in stages.values())


@pytest.mark.parametrize("n", [2, 4, 5])
def test_several_pictures_are_a_grid_in_reading_order(client: TestClient, n: int) -> None:
    response = client.post("/generate/vae", json={"n": n, "seed": 7})
    assert response.headers["x-seed"] == ", ".join(str(7 + index) for index in range(n))
    grid, expected = decode(response.content), pictures(client, "vae", n=n, seed=7)
    columns = {2: 2, 4: 2, 5: 3}[n]
    assert grid.shape[1] == columns * 10 + 2
    for index, picture in enumerate(expected):
        top, left = 2 + 10 * (index // columns), 2 + 10 * (index % columns)
        assert_same(grid[top : top + 8, left : left + 8], picture)


@each_model
def test_npy_holds_the_pictures(client: TestClient, model: str) -> None:
    response = client.post(f"/generate/{model}", json={"n": 3, "seed": 1}, headers=NPY)
    assert response.headers["content-type"] == "application/x-npy"
    assert load(response.content).shape == (3, 8, 8, 1)


@each_model
def test_json_holds_the_same_pictures_with_their_seeds(client: TestClient, model: str) -> None:
    fields = {"n": 3, "seed": 2**32 - 2, "class_label": "TROUSER"}
    response = client.post(f"/generate/{model}", json=fields, headers=JSON)
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == PicturesAnswer.model_fields.keys()
    answer = PicturesAnswer.model_validate(response.json(), strict=True)
    assert answer.model == model
    assert [image.index for image in answer.images] == [0, 1, 2]
    assert [image.seed for image in answer.images] == [2**32 - 2, 2**32 - 1, 0]
    assert {image.class_label for image in answer.images} == {"trouser"}
    assert {(image.width, image.height) for image in answer.images} == {(8, 8)}
    shown = np.stack([decode(base64.b64decode(image.b64_json, validate=True)) for image in answer.images])
    assert_same(shown, pictures(client, model, **fields))
    assert min(answer.timings.queue_ms, answer.timings.compute_ms, answer.timings.encode_ms) >= 0


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("vae", {}),
        ("ddpm", {"steps": 4, "solver": "dpmpp_2m", "guidance_scale": 1.0}),
    ],
)
def test_json_has_every_value_that_determines_the_pictures(
    client: TestClient, model: str, params: Mapping[str, Any]
) -> None:
    told = client.post(f"/generate/{model}", headers=JSON).json()["params"]
    seed = told["seed"]
    assert told == {"n": 1, "seed": seed, "class_label": None, "scale": 1, **params}
    assert_same(pictures(client, model, **told), pictures(client, model, seed=seed))


@each_model
def test_get_takes_the_same_fields_from_the_query(client: TestClient, model: str) -> None:
    fields: dict[str, int | str] = {"n": 2, "seed": 9, "class_label": "bag", "scale": 3}
    query = client.get(f"/generate/{model}", params=fields)
    body = client.post(f"/generate/{model}", json=fields)
    assert query.status_code == 200
    assert decode(query.content).shape == (3 * (8 + 4), 3 * (2 * 10 + 2), 1)
    assert query.headers["x-seed"] == "9, 10"
    assert_same(decode(query.content), decode(body.content))


def test_scale_makes_every_pixel_a_square(client: TestClient) -> None:
    plain = pictures(client, "vae", seed=3)
    large = client.get("/generate/vae", params={"seed": 3, "scale": 4})
    expected = plain[0].repeat(4, axis=0).repeat(4, axis=1)
    assert_same(decode(large.content), expected)
    assert_same(pictures(client, "vae", seed=3, scale=4)[0], expected)
    image = client.post("/generate/vae", json={"seed": 3, "scale": 4}, headers=JSON).json()["images"][0]
    assert (image["width"], image["height"]) == (32, 32)
    assert_same(decode(base64.b64decode(image["b64_json"])), expected)


@each_model
@pytest.mark.parametrize("index", range(len(CLASS_NAMES)))
def test_a_class_has_an_index_and_a_name(client: TestClient, model: str, index: int) -> None:
    name = CLASS_NAMES[index]
    by_index = pictures(client, model, seed=5, class_label=index)
    for label in (name, name.upper(), name.title(), str(index)):
        assert_same(pictures(client, model, seed=5, class_label=label), by_index)
        query = client.get(f"/generate/{model}", params={"seed": 5, "class_label": label})
        assert_same(decode(query.content), by_index[0])
    assert_other(pictures(client, model, seed=5, class_label="none"), by_index)
    assert_other(pictures(client, model, seed=5, class_label=(index + 1) % 3), by_index)


@each_model
def test_without_a_class_every_seed_has_its_own(client: TestClient, model: str) -> None:
    response = client.post(f"/generate/{model}", json={"n": 5, "seed": 7}, headers=JSON)
    answer = PicturesAnswer.model_validate_json(response.content)
    assert answer.params["class_label"] is None
    assert [image.class_label for image in answer.images] == [CLASS_NAMES[seed % 3] for seed in range(7, 12)]
    together = pictures(client, model, n=5, seed=7)
    for index, seed in enumerate(range(7, 12)):
        assert_same(pictures(client, model, seed=seed, class_label=seed % 3)[0], together[index])


@each_model
def test_no_class_is_selected_by_name(client: TestClient, model: str) -> None:
    response = client.post(f"/generate/{model}", json={"seed": 7, "class_label": "None"}, headers=JSON)
    answer = PicturesAnswer.model_validate_json(response.content)
    assert answer.params["class_label"] == "none"
    assert answer.images[0].class_label is None


def test_a_class_with_capitals_is_found_by_any_spelling(settings: Settings) -> None:
    change_manifest(settings.weights_dir / "vae", class_names=("T-Shirt", "Größe", "BAG"))
    with TestClient(create_app(settings)) as client:
        for index, spellings in enumerate([("t-shirt", "T-SHIRT"), ("größe", "GRÖSSE"), ("bag", "Bag")]):
            expected = pictures(client, "vae", seed=5, class_label=index)
            for label in spellings:
                assert_same(pictures(client, "vae", seed=5, class_label=label), expected)


@pytest.mark.parametrize(
    "content_type",
    [None, "application/x-www-form-urlencoded", "text/plain", "application/octet-stream", "multipart/form-data", "?"],
)
def test_a_body_is_json_whatever_its_content_type_says(client: TestClient, content_type: str | None) -> None:
    headers = {**NPY, **({"Content-Type": content_type} if content_type else {})}
    response = client.post("/generate/vae", content=b'{"seed": 11, "n": 2}', headers=headers)
    assert response.status_code == 200
    assert_same(load(response.content), pictures(client, "vae", seed=11, n=2))


@pytest.mark.parametrize("body", [b"", b"{}", b" \r\n\t", b' {"seed": null, "class_label": null} '])
def test_an_empty_body_is_all_defaults(client: TestClient, body: bytes) -> None:
    response = client.post("/generate/vae", content=body, headers=JSON)
    assert response.status_code == 200
    assert response.json()["params"].items() >= {"n": 1, "class_label": None, "scale": 1}.items()


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("vae", {}),
        ("vae", {"class_label": 1}),
        ("ddpm", {}),
        ("ddpm", {"solver": "ddpm", "steps": 7}),
        ("ddpm", {"solver": "ddim", "steps": 3, "class_label": 2, "guidance_scale": 2.5}),
    ],
)
def test_a_picture_of_a_batch_is_that_of_its_own_seed(
    client: TestClient, model: str, fields: Mapping[str, Any]
) -> None:
    first = 2**32 - 3
    batch = pictures(client, model, n=6, seed=first, **fields)
    for index, picture in enumerate(batch):
        alone = pictures(client, model, seed=(first + index) % 2**32, **fields)
        assert_same(alone[0], picture)


def test_other_requests_do_not_change_a_picture(client: TestClient) -> None:
    asks: list[dict[str, Any]] = [
        {"seed": seed, "n": 1 + seed % 3, "steps": 1 + 5 * (seed % 4), "solver": ("ddpm", "ddim", "dpmpp_2m")[seed % 3]}
        for seed in range(12)
    ]
    guided = {"class_label": 1, "guidance_scale": 3.0}
    asks += [{**fields, **guided} for fields in asks]
    alone = [pictures(client, "ddpm", **fields) for fields in asks]
    with ThreadPoolExecutor(len(asks)) as senders:
        together = list(senders.map(lambda fields: pictures(client, "ddpm", **fields), asks))
    for expected, actual in zip(alone, together, strict=True):
        assert_same(actual, expected)


def test_guidance(client: TestClient) -> None:
    unguided = pictures(client, "ddpm", seed=4, class_label=2)
    assert_same(pictures(client, "ddpm", seed=4, class_label=2, guidance_scale=1), unguided)
    assert_other(pictures(client, "ddpm", seed=4, class_label=2, guidance_scale=6.0), unguided)
    # No weight on the class is no class.
    without = pictures(client, "ddpm", seed=4, class_label="none")
    assert_same(pictures(client, "ddpm", seed=4, class_label=2, guidance_scale=0), without)
    assert_same(pictures(client, "ddpm", seed=4, class_label="none", guidance_scale=1.0), without)
    # Without a class asked for, guidance is towards the seed's own: 4 modulo 3.
    own = pictures(client, "ddpm", seed=4, class_label=1, guidance_scale=6.0)
    assert_same(pictures(client, "ddpm", seed=4, guidance_scale=6.0), own)


@pytest.mark.parametrize("steps", [1, 2, 50, 1000])
@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmpp_2m"])
def test_steps_and_solvers(client: TestClient, solver: str, steps: int) -> None:
    body = {"seed": 6, "solver": solver, "steps": steps}
    answer = client.post("/generate/ddpm", json=body, headers=JSON).json()
    assert answer["params"].items() >= body.items()
    picture = decode(base64.b64decode(answer["images"][0]["b64_json"]))
    assert_same(pictures(client, "ddpm", **body)[0], picture)
    if steps == 50:
        others = {"ddpm", "ddim", "dpmpp_2m"} - {solver}
        for other in others:
            assert not np.array_equal(pictures(client, "ddpm", seed=6, steps=50, solver=other)[0], picture)


def test_defaults_are_the_manifests(client: TestClient) -> None:
    defaults = client.get("/models/ddpm").json()["manifest"]["defaults"]
    assert_same(pictures(client, "ddpm", seed=8, **defaults), pictures(client, "ddpm", seed=8))


@each_model
def test_seeds_may_be_any(client: TestClient, model: str) -> None:
    seeds = [9, 0, 9, 2**32 - 1]
    response = client.post(f"/generate/{model}", json={"seeds": seeds}, headers=NPY)
    assert response.headers["x-seed"] == "9, 0, 9, 4294967295"
    for picture, seed in zip(load(response.content), seeds, strict=True):
        assert_same(pictures(client, model, seed=seed)[0], picture)
    query = client.get(f"/generate/{model}", params={"seeds": seeds, "format": "npy"})
    assert_same(load(query.content), load(response.content))


@each_model
def test_each_picture_may_have_its_own_class(client: TestClient, model: str) -> None:
    labels = [2, "TROUSER", "none", "0"]
    together = pictures(client, model, seed=4, n=4, class_label=labels)
    for index, label in enumerate(labels):
        assert_same(pictures(client, model, seed=4 + index, class_label=label)[0], together[index])
    answer = client.post(f"/generate/{model}", json={"seed": 4, "n": 4, "class_label": labels}, headers=JSON).json()
    assert answer["params"]["class_label"] == ["bag", "trouser", "none", "t-shirt"]
    assert [image["class_label"] for image in answer["images"]] == ["bag", "trouser", None, "t-shirt"]
    fields: dict[str, Any] = {"seed": 4, "n": 4, "class_label": labels, "format": "npy"}
    query = client.get(f"/generate/{model}", params=fields)
    assert_same(load(query.content), together)
    assert_same(pictures(client, model, seed=4, class_label=["bag"]), together[:1])
