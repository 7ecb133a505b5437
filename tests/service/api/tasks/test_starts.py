"""Where pictures begin: images, masks, latents, points of a map, truncated noise."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from service.api.request.arrays import to_base64
from service.images import Pixels, encode_png
from service.sampling.noise import RowNoise
from tests.service.api.conftest import (
    JSON,
    assert_other,
    assert_same,
    base64_png,
    decode,
    pictures,
    refused,
    some_picture,
)
from tests.service.artefacts import some_codes

IMAGE = some_picture()
LEFT = np.where(np.arange(8) < 4, 255, 0).astype(np.uint8)[None, :, None].repeat(8, axis=0)


def noise(seed: int, *shape: int) -> NDArray[np.float32]:
    return RowNoise(seed).draw(shape).numpy()


@pytest.mark.parametrize("model", ["ddpm", "ldm"])
def test_a_stronger_image_to_image_is_farther_from_the_image(tasks: TestClient, model: str) -> None:
    """Compared with what the model makes of nothing: strength 1 takes no notice of the image."""
    fields: dict[str, Any] = {"seed": 5, "steps": 20, "solver": "ddim", "class_label": "bag"}
    image = base64_png(IMAGE)
    made = [pictures(tasks, model, **fields, image=image, strength=each)[0] for each in (0.1, 0.5, 1.0)]
    assert_same(made[2], pictures(tasks, model, **fields)[0])
    apart = [np.abs(each.astype(int) - made[2].astype(int)).mean() for each in made]
    assert apart[0] > apart[1] > apart[2] == 0
    assert_same(pictures(tasks, model, **fields, image=image, strength=0.5)[0], made[1])


def test_an_image_has_a_strength_of_its_own_by_default(tasks: TestClient) -> None:
    fields: dict[str, Any] = {"seed": 5, "image": base64_png(IMAGE)}
    answer = tasks.post("/generate/ddpm", json=fields, headers=JSON).json()
    assert answer["params"].items() >= {"strength": 0.6, "class_label": "none", "steps": 4}.items()
    assert_same(pictures(tasks, "ddpm", **fields), pictures(tasks, "ddpm", **fields, strength=0.6, class_label="none"))


@pytest.mark.parametrize("strength", [None, 0.5])
def test_what_is_black_in_a_mask_is_kept_exactly(tasks: TestClient, strength: float | None) -> None:
    fields = {"n": 3, "seed": 1, "image": base64_png(IMAGE), "mask": base64_png(LEFT), "strength": strength}
    made = pictures(tasks, "ddpm", **fields)
    assert (made[:, :, 4:] == IMAGE[:, 4:]).all()
    assert_other(made[0][:, :4], IMAGE[:, :4])
    assert_other(made[0], made[1])
    other = pictures(tasks, "ddpm", **{**fields, "mask_invert": True})
    assert (other[:, :, :4] == IMAGE[:, :4]).all()
    assert_other(other[0][:, 4:], IMAGE[:, 4:])


def test_grey_in_a_mask_is_a_blend(tasks: TestClient) -> None:
    fields = {"seed": 1, "steps": 1, "image": base64_png(IMAGE)}
    grey, white = (base64_png(np.full((8, 8, 1), level, np.uint8)) for level in (51, 255))
    blend, anew = (pictures(tasks, "ddpm", **fields, mask=mask)[0].astype(float) for mask in (grey, white))
    assert np.abs(blend - (0.2 * anew + 0.8 * IMAGE)).max() <= 1


def test_a_mask_of_a_latent_diffusion_is_one_of_its_latents(tasks: TestClient) -> None:
    fields = {"seed": 1, "class_label": 2, "image": base64_png(IMAGE), "mask": base64_png(LEFT)}
    made = pictures(tasks, "ldm", **fields)[0]
    codes = IMAGE.reshape(4, 2, 4, 2).astype(float).mean(axis=(1, 3)).repeat(2, axis=0).repeat(2, axis=1)
    assert np.abs(made[:, 4:, 0] - codes[:, 4:]).max() <= 1
    assert np.abs(made[:, :4, 0] - codes[:, :4]).max() > 3


@pytest.mark.parametrize("model", ["vae", "ae"])
def test_variations_are_around_the_image(tasks: TestClient, model: str) -> None:
    image = base64_png(IMAGE)
    centre = pictures(tasks, model, n=3, seed=4, image=image, spread=0)
    assert_same(centre, centre[:1].repeat(3, axis=0))
    near, far = (pictures(tasks, model, n=3, seed=4, image=image, spread=spread) for spread in (0.3, 1))
    assert_other(far[0], far[1])
    assert np.abs(near - centre.astype(int)).mean() < np.abs(far - centre.astype(int)).mean()
    assert_same(pictures(tasks, model, n=3, seed=4, image=image), far)


@pytest.mark.parametrize("model", ["gan", "ddpm"])
def test_given_latents_are_those_of_a_seed(tasks: TestClient, model: str) -> None:
    shape = (4,) if model == "gan" else (1, 8, 8)
    latents = np.stack([noise(7, *shape), noise(8, *shape)])
    expected = pictures(tasks, model, n=2, seed=7, class_label=1)
    assert_same(pictures(tasks, model, latents=latents.tolist(), class_label=1, seed=7), expected)
    packed = to_base64(latents)
    assert_same(pictures(tasks, model, latents=packed, class_label=1, seed=7, n=2), expected)
    query = tasks.get(f"/generate/{model}", params={"latents": packed, "class_label": 1, "seed": 7, "layout": "strip"})
    assert_same(decode(query.content)[2:10, 2:10], expected[0])


def test_latents_of_an_autoencoder_are_decoded(tasks: TestClient) -> None:
    latents = np.array([[1.0, -2.0, 0.5, 0.0]])
    assert_same(
        pictures(tasks, "ae", latents=latents.tolist(), class_label=2),
        pictures(tasks, "vae", latents=latents.tolist(), class_label=2),
    )
    assert "image, latents or point" in refused(tasks.post("/generate/ae"), "#/model")


def test_truncation_scales_the_noise(tasks: TestClient) -> None:
    latents = 0.5 * np.stack([noise(seed, 4) for seed in (3, 4)])
    for model in ("vae", "gan"):
        expected = pictures(tasks, model, latents=latents.tolist(), class_label=0)
        assert_same(pictures(tasks, model, n=2, seed=3, truncation=0.5, class_label=0), expected)


def test_a_point_of_the_map_is_the_latent_there(tasks: TestClient) -> None:
    shown = some_codes()
    latent = shown.origin + 1.5 * shown.axes[0] - 0.25 * shown.axes[1]
    expected = pictures(tasks, "vae", latents=[latent.tolist()], class_label=1)
    assert_same(pictures(tasks, "vae", point=[1.5, -0.25], class_label=1), expected)
    query = tasks.get("/generate/vae", params={"point": [1.5, -0.25], "class_label": 1})
    assert_same(decode(query.content), expected[0])
    again = tasks.get(
        "/generate/vae",
        params={"point": [1.5, -0.25], "class_label": 1},
        headers={"If-None-Match": query.headers["etag"]},
    )
    assert again.status_code == 304


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("ddpm", {"n": 2, "image": base64_png(IMAGE), "strength": 0.3}),
        ("ddpm", {"image": base64_png(IMAGE), "mask": base64_png(LEFT), "mask_invert": True, "class_label": 1}),
        ("vae", {"n": 2, "image": base64_png(IMAGE), "spread": 2.0}),
        ("vae", {"point": [0.5, 1.0]}),
        ("gan", {"n": 2, "truncation": 0.5}),
        ("gan", {"latents": [[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, 1.0]]}),
        ("ddpm", {"solver": "ddim", "eta": 0.5, "guidance_scale": 2.0, "class_label": 1, "negative_class": "bag"}),
    ],
)
def test_params_make_the_same_pictures_again(tasks: TestClient, model: str, fields: Mapping[str, Any]) -> None:
    answer = tasks.post(f"/generate/{model}", json=fields, headers=JSON).json()
    shown = np.stack([decode(base64.b64decode(image["b64_json"])) for image in answer["images"]])
    assert_same(pictures(tasks, model, **answer["params"]), shown)
    for image, picture in zip(answer["images"], shown, strict=True):
        file = base64.b64decode(image["b64_json"])
        alone = tasks.post("/inspect", content=file).json()["params"]
        assert_same(pictures(tasks, model, **alone), picture[None])


def test_an_image_may_be_the_body_or_a_file_of_a_form(tasks: TestClient) -> None:
    png = encode_png(IMAGE)
    query: dict[str, int | float | str] = {"seed": 3, "strength": 0.5, "format": "npy"}
    expected = pictures(tasks, "ddpm", seed=3, strength=0.5, image=base64_png(IMAGE))
    for response in (
        tasks.post("/generate/ddpm", params=query, content=png),
        tasks.post("/generate/ddpm", data=query, files={"image": ("a.png", png)}),
    ):
        assert response.status_code == 200
        assert_same(np.load(io.BytesIO(response.content)), expected)


def test_changes_to_an_upload_are_warnings(tasks: TestClient) -> None:
    large = base64_png(np.full((16, 32, 3), (255, 0, 0), np.uint8))
    fields = {"image": large, "mask": large}
    warnings = tasks.post("/generate/ddpm", json=fields, headers=JSON).json()["warnings"]
    assert [warning.split(":")[0] for warning in warnings] == ["image", "image", "mask", "mask"]


def test_guidance_may_lead_away_from_a_class(tasks: TestClient) -> None:
    fields: dict[str, Any] = {"seed": 1, "steps": 1, "class_label": 0}
    plain, negative = (pictures(tasks, "ddpm", **fields | {"class_label": each})[0].astype(float) for each in (0, 2))
    guided = pictures(tasks, "ddpm", **fields, guidance_scale=1.5, negative_class="bag")[0]
    assert np.abs(guided - np.clip(negative + 1.5 * (plain - negative), 0, 255)).max() <= 2
    for solver in ("ddpm", "ddim", "dpmpp_2m"):
        more = fields | {"steps": 5, "solver": solver, "guidance_scale": 3.0}
        assert_other(pictures(tasks, "ddpm", **more, negative_class=2)[0], pictures(tasks, "ddpm", **more)[0])


def test_eta_is_between_ddim_and_ddpm(tasks: TestClient) -> None:
    fields: dict[str, Any] = {"seed": 1, "steps": 10, "solver": "ddim"}
    plain, noisy = (pictures(tasks, "ddpm", **fields, eta=eta)[0] for eta in (0.0, 1.0))
    assert_same(plain, pictures(tasks, "ddpm", **fields)[0])
    assert_same(noisy, pictures(tasks, "ddpm", **fields | {"solver": "ddpm"})[0])
    assert_other(noisy, plain)


@pytest.mark.parametrize(
    ("model", "fields", "pointer", "said"),
    [
        ("gan", {"image": "aGVsbG8="}, "#/image", "is not supported by gan: it cannot encode pictures leave it out"),
        ("gan", {"eta": 0.0}, "#/eta", "is not supported by gan"),
        ("gan", {"negative_class": 1}, "#/negative_class", "is not supported by gan"),
        ("gan", {"point": [0, 0]}, "#/point", "is not supported by gan: it has no latent map"),
        ("vae", {"image": base64_png(IMAGE), "strength": 0.5}, "#/strength", "is not supported by vae"),
        ("vae", {"image": base64_png(IMAGE), "mask": base64_png(IMAGE)}, "#/mask", "is not supported by vae"),
        ("vae", {"layout": "film"}, "#/layout", "film is not supported by vae"),
        ("ddpm", {"image": base64_png(IMAGE), "spread": 1}, "#/spread", "is not supported by ddpm"),
        ("ddpm", {"truncation": 1}, "#/truncation", "is not supported by ddpm"),
        ("ae", {"latents": [[0, 0, 0, 0]], "truncation": 1}, "#/truncation", "is not supported by ae"),
        ("ddpm", {"strength": 0.5}, "#/strength", "without image"),
        ("ddpm", {"mask": base64_png(IMAGE)}, "#/mask", "without image"),
        ("ddpm", {"mask_invert": True}, "#/mask_invert", "without mask"),
        ("ddpm", {"image": base64_png(IMAGE), "strength": 0}, "#/strength", "greater than 0"),
        ("ddpm", {"image": base64_png(IMAGE), "strength": 1.1}, "#/strength", "less than or equal to 1"),
        ("ddpm", {"image": base64_png(IMAGE), "latents": [[[[0.0] * 8] * 8]]}, "#/latents", "one of the two"),
        ("ddpm", {"solver": "dpmpp_2m", "eta": 0.5}, "#/eta", "solver ddim"),
        ("ddpm", {"eta": 0.5}, "#/eta", "solver ddim"),
        ("ddpm", {"negative_class": "shoe"}, "#/negative_class", "0 t-shirt, 1 trouser, 2 bag"),
        ("ddpm", {"negative_class": "bag", "class_label": 1}, "#/negative_class", "guidance_scale"),
        ("ddpm", {"image": base64_png(IMAGE), "guidance_scale": 2}, "#/guidance_scale", "set a class"),
        ("vae", {"point": [0]}, "#/point", "at least 2 items"),
        ("vae", {"point": [0, 1001]}, "#/point", "less than or equal to 1000"),
        ("vae", {"point": [0, 0], "truncation": 1}, "#/truncation", "one of the two"),
        ("gan", {"latents": [[1, 2, 3]]}, "#/latents", "has shape (1, 3) (1, 4)"),
        ("gan", {"latents": [1, 2, 3, 4]}, "#/latents", "(4, 4)"),
        ("gan", {"latents": [[1, 2, 3, 4]], "n": 2}, "#/latents", "(2, 4)"),
        ("gan", {"latents": [[1, 2, 3, 101]]}, "#/latents", "outside -100 to 100"),
        ("gan", {"latents": [[0.0] * 4] * 65}, "#/latents", "up to 64"),
        ("gan", {"latents": to_base64(np.zeros((), np.float32))}, "#/latents", "has shape () (1, 4)"),
        ("ddpm", {"layout": "film", "preview_every": 1 << 63}, "#/preview_every", "less than or equal to 1000000"),
    ],
)
def test_a_field_without_a_meaning_is_rejected(
    tasks: TestClient, model: str, fields: Mapping[str, Any], pointer: str, said: str
) -> None:
    assert said in refused(tasks.post(f"/generate/{model}", json=fields), pointer)


def test_an_invalid_picture_is_rejected_as_anywhere(tasks: TestClient) -> None:
    for field in ("image", "mask"):
        fields = {"image": base64_png(IMAGE), field: base64.b64encode(b"GIF89a, or so").decode()}
        response = tasks.post("/generate/ddpm", json=fields)
        assert (response.status_code, response.json()["errors"][0]["pointer"]) == (415, f"#/{field}")


def test_jobs_and_streams_begin_there_too(tasks: TestClient) -> None:
    fields = {"seed": 2, "image": base64_png(IMAGE), "strength": 0.5}
    expected: Pixels = pictures(tasks, "ddpm", **fields)[0]
    accepted = tasks.post("/generate/ddpm", json=fields, headers={"Prefer": "respond-async"})
    assert accepted.status_code == 202
    result = tasks.get(accepted.headers["location"] + "/result", headers={"Prefer": "wait=30"})
    assert_same(decode(result.content), expected)
    events = tasks.post("/generate/ddpm", json={**fields, "stream": True}).text
    assert "event: completed" in events
