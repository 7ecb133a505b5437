import base64
from pathlib import Path

import numpy as np
import pytest

from service.api.request.schemas import GenerateRequest, InterpolateRequest
from service.client.fields import GenerateFields, PathFields, generate_body, on_the_wire, path_body

#: Chosen by the client's methods, not by their caller.
OWN = {"format", "stream", "model", "from", "to", "points"}


@pytest.mark.parametrize(("fields", "request_"), [(GenerateFields, GenerateRequest), (PathFields, InterpolateRequest)])
def test_what_can_be_asked_for_is_what_the_service_takes(
    fields: type[GenerateFields | PathFields], request_: type[GenerateRequest | InterpolateRequest]
) -> None:
    taken = {field.alias or name for name, field in request_.model_fields.items()}
    assert taken - OWN == fields.__annotations__.keys()


def test_a_seed_is_drawn_where_none_is_given() -> None:
    drawn = {generate_body({"n": 2})["seed"] for _ in range(8)}
    assert len(drawn) > 1
    assert all(0 <= seed < 2**32 for seed in drawn)
    assert generate_body({"seed": 7}) == {"seed": 7}
    assert generate_body({"seeds": (7, 8)}) == {"seeds": [7, 8]}


def test_files_and_arrays_become_json(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"file")
    encoded = base64.b64encode(b"file").decode()
    assert on_the_wire({"image": path, "mask": b"file"}) == {"image": encoded, "mask": encoded}
    assert on_the_wire({"latents": np.array([[0.5, 1.0]], np.float32)}) == {"latents": [[0.5, 1.0]]}
    assert on_the_wire({"metadata": {"a": "b"}, "scale": 2}) == {"metadata": {"a": "b"}, "scale": 2}


def test_a_path_leads_through_points_of_all_kinds() -> None:
    encoded = base64.b64encode(b"file").decode()
    assert path_body("vae", (1, 2), {"frames": 5}) == {
        "model": "vae",
        "from": {"seed": 1},
        "to": {"seed": 2},
        "frames": 5,
    }
    points = path_body("vae", (1, b"file", {"latents": [0.5], "class_label": "bag"}), {})["points"]
    assert points == [{"seed": 1}, {"image": encoded}, {"latents": [0.5], "class_label": "bag"}]


def test_ends_of_a_path_are_drawn_where_none_are_given() -> None:
    body = path_body("vae", (), {})
    assert body["from"].keys() == body["to"].keys() == {"seed"}
    labelled = path_body("vae", ({"class_label": 1}, 2), {})
    assert labelled["from"].keys() == {"class_label", "seed"}
