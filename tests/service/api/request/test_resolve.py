from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.service.api.conftest import JSON, NPY, assert_same, change_manifest, load, problem, refused
from tests.service.conftest import settings_of

CLASSES = "0 t-shirt, 1 trouser, 2 bag"


@pytest.mark.parametrize("label", [-1, 3, "3", "-1", "", "shoe", "t-shirt ", "²", "٣", "0x1", "9" * 64])
@pytest.mark.parametrize("model", ["vae", "ddpm"])
def test_a_class_that_the_model_does_not_have(client: TestClient, model: str, label: int | str) -> None:
    said = refused(client.post(f"/generate/{model}", json={"class_label": label}), "#/class_label")
    assert CLASSES in said
    if label != "":
        query = client.get(f"/generate/{model}", params={"class_label": label})
        assert CLASSES in refused(query, "#/class_label")


def test_a_class_is_matched_as_written_before_it_is_matched_in_another_case(settings: Settings) -> None:
    change_manifest(settings.weights_dir / "vae", class_names=("A", "a", "Caf\u00e9"))
    with TestClient(create_app(settings)) as client:

        def told(**fields: object) -> object:
            return client.post("/generate/vae", json=fields, headers=JSON).json()["params"]["class_label"]

        assert [told(class_label=label) for label in ("A", "a", "cafe\u0301", 1)] == ["A", "a", "Caf\u00e9", "a"]
        prompts = [{"inputs": prompt} for prompt in ("a", "CAF\u00c9")]
        assert [told(**prompt) for prompt in prompts] == ["a", "Caf\u00e9"]
    change_manifest(settings.weights_dir / "vae", class_names=("Bag", "BAG", "shoe"))
    with TestClient(create_app(settings)) as client:
        for answer in (
            client.post("/generate/vae", json={"class_label": "bag"}),
            client.get("/generate/vae", params={"class_label": "bag"}),
        ):
            said = refused(answer, "#/class_label")
            assert "more than one class" in said
            assert "0 Bag, 1 BAG" in said
            assert "shoe" not in said
        (point,) = problem(
            client.post("/interpolate", json={"model": "vae", "from": {"class_label": "bag"}, "to": {}}),
            422,
            "invalid-field",
        )["errors"]
        assert (point["pointer"], point["allowed"]) == ("#/from/class_label", "0 Bag, 1 BAG")
        prompt = problem(client.post("/generate/vae", json={"inputs": "bag"}), 400, "bad-request")
        assert "0 Bag, 1 BAG" in prompt["detail"]


def test_a_number_is_a_name_where_names_are_numbers_and_an_index_elsewhere(settings: Settings) -> None:
    change_manifest(settings.weights_dir / "vae", class_names=("1", "2", "10"))
    with TestClient(create_app(settings)) as client:
        for label in (2, "2", "02"):
            answers = (
                client.post("/generate/vae", json={"class_label": label, "seed": 1}, headers=JSON),
                client.get("/generate/vae", params={"class_label": label, "seed": 1}, headers=JSON),
            )
            assert [answer.json()["params"]["class_label"] for answer in answers] == ["2", "2"]
        assert refused(client.post("/generate/vae", json={"class_label": 0}), "#/class_label").endswith(
            "1, 2, 10, none"
        )
        told = client.post("/generate/ddpm", json={"class_label": 2, "steps": 1}, headers=JSON).json()
        assert told["params"]["class_label"] == "bag"


def test_an_error_does_not_list_thousands_of_classes(settings: Settings) -> None:
    change_manifest(settings.weights_dir / "vae", class_names=tuple(f"class {index}" for index in range(3000)))
    with TestClient(create_app(settings)) as client:
        said = refused(client.post("/generate/vae", json={"class_label": "shoe"}), "#/class_label")
        assert said.endswith("49 class 49, and 2950 more listed by GET /models/vae, none")


@pytest.mark.parametrize("fields", [{"steps": 20}, {"solver": "ddim"}, {"guidance_scale": 1.0}])
def test_a_model_that_decodes_at_once_has_no_sampler(client: TestClient, fields: Mapping[str, Any]) -> None:
    field = next(iter(fields))
    said = refused(client.post("/generate/vae", json=fields), f"#/{field}")
    assert "is not supported by vae" in said
    assert "leave it out" in said
    assert refused(client.post("/interpolate", json={"model": "vae", **fields}), f"#/{field}") == said


@pytest.mark.parametrize("scale", [0, 2, 7.5])
def test_guidance_needs_a_class(client: TestClient, scale: float) -> None:
    for label in ("none", "NONE"):
        body = {"class_label": label, "guidance_scale": scale}
        assert "set a class" in refused(client.post("/generate/ddpm", json=body), "#/guidance_scale")


def test_a_model_without_classes_has_none(settings: Settings) -> None:
    for model in ("vae", "ddpm"):
        change_manifest(settings.weights_dir / model, class_names=())
    with TestClient(create_app(settings)) as client:
        for model in ("vae", "ddpm"):
            plain = client.post(f"/generate/{model}", json={"seed": 1}, headers=NPY)
            none = client.post(f"/generate/{model}", json={"seed": 1, "class_label": "none"}, headers=NPY)
            assert_same(load(none.content), load(plain.content))
            for label in (0, "0", "bag"):
                said = refused(client.post(f"/generate/{model}", json={"class_label": label}), "#/class_label")
                assert "none" in said
        assert refused(client.post("/generate/ddpm", json={"guidance_scale": 2}), "#/guidance_scale")


@pytest.mark.parametrize("path", ["/generate/ddpm", "/interpolate"])
def test_more_steps_than_the_model_has(client: TestClient, path: str) -> None:
    fields = {"steps": 1001, **({"model": "ddpm"} if path == "/interpolate" else {})}
    assert "1 to 1000" in refused(client.post(path, json=fields), "#/steps")


@pytest.mark.parametrize(("path", "field"), [("/generate/vae", "n"), ("/interpolate", "frames")])
def test_the_number_of_pictures_is_bounded(client: TestClient, path: str, field: str) -> None:
    fields = {"model": "vae"} if path == "/interpolate" else {}
    assert client.post(path, json={**fields, field: 64}).status_code == 200
    for count in (65, 10**6, 2**63, 10**30):
        assert "up to 64" in refused(client.post(path, json={**fields, field: count}), f"#/{field}")


def test_all_problems_are_reported(client: TestClient) -> None:
    body = {"n": 65, "steps": 1001, "class_label": "shoe", "guidance_scale": 2}
    document = problem(client.post("/generate/ddpm", json=body), 422, "invalid-field")
    assert {error["pointer"] for error in document["errors"]} == {"#/n", "#/steps", "#/class_label"}


def test_the_size_of_an_answer_is_bounded(client: TestClient) -> None:
    # What counts is the one image that shows all: 6 x 6 pictures of 8 x 8 with their borders are 62 x 62 pixels.
    assert client.post("/generate/vae", json={"n": 36, "scale": 32}).status_code == 200
    said = refused(client.post("/generate/vae", json={"n": 37, "scale": 32}), "#/scale")
    assert "4 megapixels" in said
    assert "up to 29 for 37 pictures" in said  # 72 x 62 x 29^2 is 3.75 million, 30^2 would be 4.02
    assert client.post("/generate/vae", json={"n": 37, "scale": 29}).status_code == 200
    strip = {"model": "vae", "frames": 64}
    assert "up to 22" in refused(client.post("/interpolate", json={**strip, "scale": 23}), "#/scale")
    assert client.post("/interpolate", json={**strip, "scale": 22}).status_code == 200


def test_bounds_are_the_settings(weights: Path) -> None:
    settings = settings_of(weights, max_images=4, max_steps=10, max_megapixels=0.001)
    with TestClient(create_app(settings)) as client:
        assert "up to 4" in refused(client.post("/generate/ddpm", json={"n": 5}), "#/n")
        assert "1 to 10" in refused(client.post("/generate/ddpm", json={"steps": 11}), "#/steps")
        assert "0.001 megapixels" in refused(client.post("/generate/ddpm", json={"n": 4, "scale": 2}), "#/scale")
        fitting = client.post("/generate/ddpm", json={"n": 3, "steps": 10}, headers=NPY)
        assert load(fitting.content).shape == (3, 8, 8, 1)
        limits = client.get("/models/ddpm").json()["limits"]
        assert limits == {"n": 4, "frames": 4, "steps": 10}


def test_the_bound_on_steps_holds_for_the_default_too(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"max_steps": 3}))) as client:
        assert client.post("/generate/ddpm", headers=JSON).json()["params"]["steps"] == 3


def test_a_model_does_only_what_its_manifest_lists(settings: Settings) -> None:
    change_manifest(settings.weights_dir / "vae", capabilities=("generate",))
    with TestClient(create_app(settings)) as client:
        assert client.post("/generate/vae").status_code == 200
        said = refused(client.post("/interpolate", json={"model": "vae"}), "#/model")
        assert said == "vae cannot interpolate generate"


@pytest.mark.parametrize(
    ("fields", "pointer", "said"),
    [
        ({"seeds": [1, 2], "seed": 1}, "#/seeds", "one of the two"),
        ({"seeds": [1, 2], "n": 3}, "#/n", "not the number of seeds, 2"),
        ({"seeds": [1, 2], "n": 1}, "#/n", "not the number of seeds, 2"),
        ({"seeds": list(range(65))}, "#/seeds", "up to 64"),
        ({"class_label": ["bag"], "n": 2}, "#/class_label", "a list of 2"),
        ({"class_label": []}, "#/class_label", "a list of 1"),
        ({"class_label": ["bag", "shoe"], "n": 2}, "#/class_label", CLASSES),
        ({"class_label": ["bag", "bag"], "seeds": [1]}, "#/class_label", "a list of 1"),
        ({"class_label": ["bag", "none"], "n": 2, "guidance_scale": 2}, "#/guidance_scale", "set a class"),
    ],
)
def test_lists_with_a_value_for_each_picture(
    client: TestClient, fields: Mapping[str, Any], pointer: str, said: str
) -> None:
    assert said in refused(client.post("/generate/ddpm", json=fields), pointer)


def test_n_may_repeat_the_number_of_seeds(client: TestClient) -> None:
    assert client.post("/generate/vae", json={"seeds": [1, 2], "n": 2, "seed": None}).status_code == 200
