"""Prompts in the formats of other APIs."""

import base64
import io
import json
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.images import Pixels, encode_png
from tests.service.api.conftest import JSON, assert_other, assert_same, base64_png, decode, pictures, problem, refused
from tests.service.api.prompts.test_pictures import FIELDS, PROMPT, left_half, some_colours

OPENAI: dict[str, Any] = {"model": "sd", **FIELDS}


def generations(studio: TestClient, **fields: object) -> Any:
    return studio.post("/v1/images/generations", json={**OPENAI, **fields})


def first(answer: Any) -> Pixels:
    """The first picture of an answer in OpenAI's format."""
    assert answer.status_code == 200, answer.text
    return decode(base64.b64decode(answer.json()["data"][0]["b64_json"]))


def test_openai_generates(studio: TestClient) -> None:
    answer = generations(studio, size="24x32", negative_prompt="rain", n=2)
    made = pictures(studio, "sd", **FIELDS, width=24, height=32, negative_prompt="rain", n=2)
    assert_same(first(answer), made[0])
    assert answer.json()["size"] == "24x32"
    assert [each["revised_prompt"] for each in answer.json()["data"]] == [PROMPT] * 2


def test_openai_streams_partial_images(studio: TestClient) -> None:
    body = generations(studio, stream=True, partial_images=2).text
    names = [line.removeprefix("event: ") for line in body.splitlines() if line.startswith("event: ")]
    assert names == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert body.endswith("data: [DONE]\n\n")


def test_openai_warns_of_dropped_text(studio: TestClient) -> None:
    assert "dropped: opq" in generations(studio, prompt="abcdefghijklmnopq").json()["warnings"][0]


@pytest.mark.parametrize("size", ["512x512", "17x16"])
def test_openai_sizes_are_those_of_the_model(studio: TestClient, size: str) -> None:
    (error,) = problem(generations(studio, size=size), 400, "bad-request")["errors"]
    assert error["pointer"] == "#/size"
    assert "a multiple of 4 from 4 to 32" in error["allowed"]


def test_openai_refuses_a_class_for_text(studio: TestClient) -> None:
    assert "it has no classes" in refused(generations(studio, class_label=1), "#/class_label")


@pytest.mark.parametrize("prompt", [" ", "none", "a fox"])
def test_openai_lists_the_classes_of_a_model_that_needs_one(studio: TestClient, prompt: str) -> None:
    answer = studio.post("/v1/images/generations", json={"model": "classes", "prompt": prompt})
    (error,) = problem(answer, 400, "bad-request")["errors"]
    assert (error["pointer"], error["allowed"]) == ("#/prompt", "0, 1, 2, 3, 4")
    assert "A prompt must be one of: 0" in answer.json()["error"]["message"]


def test_openai_edits_the_transparent_part(studio: TestClient) -> None:
    picture, mask = some_colours(), left_half()
    file = io.BytesIO()
    Image.fromarray(np.concatenate([picture, 255 - mask], axis=2)).save(file, format="PNG")
    fields = {name: str(each) for name, each in OPENAI.items()}
    by_mask = studio.post(
        "/v1/images/edits", data=fields, files={"image": encode_png(picture), "mask": file.getvalue()}
    )
    made = pictures(studio, "sd", **FIELDS, image=base64_png(picture), mask=base64_png(mask))
    assert_same(first(by_mask), made[0])
    whole = studio.post("/v1/images/edits", data={**fields, "strength": "0.6"}, files={"image": encode_png(picture)})
    assert_same(first(whole), pictures(studio, "sd", **FIELDS, image=base64_png(picture), strength=0.6)[0])


def test_an_edit_whose_text_is_read_meanwhile(studio: TestClient) -> None:
    """It computes the parts that it was priced for, also when its texts are known by then."""
    fields = {"model": "sd", "prompt": "a text that nobody read", "steps": "2", "seed": "1", "n": "1"}
    for _ in range(2):
        made = studio.post("/v1/images/edits", data=fields, files={"image": encode_png(some_colours())})
        assert made.status_code == 200, made.text


def hugging_face(studio: TestClient, inputs: str, **parameters: object) -> Any:
    return studio.post("/generate/sd", json={"inputs": inputs, "parameters": parameters}, headers=JSON)


def test_hugging_face_text_to_image(studio: TestClient) -> None:
    parameters = {"negative_prompt": "rain", "width": 24, "num_inference_steps": 5, "guidance_scale": 7.5, "seed": 3}
    answer = hugging_face(studio, PROMPT, **parameters, height=32).json()
    made = pictures(studio, "sd", **FIELDS, width=24, height=32, negative_prompt="rain")
    assert_same(decode(base64.b64decode(answer["images"][0]["b64_json"])), made[0])


def test_hugging_face_image_to_image(studio: TestClient) -> None:
    sent = base64_png(some_colours())
    answer = hugging_face(studio, sent, prompt=PROMPT, num_inference_steps=5, guidance_scale=7.5, seed=3).json()
    made = pictures(studio, "sd", **FIELDS, image=sent)
    assert_same(decode(base64.b64decode(answer["images"][0]["b64_json"])), made[0])


def test_hugging_face_refuses_a_size(studio: TestClient) -> None:
    (error,) = problem(hugging_face(studio, "a fox", width=17, height=16), 400, "bad-request")["errors"]
    assert error["pointer"] == "#/parameters/width"


def draw(studio: TestClient, to: str = "txt2img", **fields: Any) -> Any:
    """A request in AUTOMATIC1111's format, to the model control."""
    asked = {"prompt": PROMPT, "seed": 3, "steps": 5, "cfg_scale": 7.5, "sampler_name": "DDIM", **fields}
    return studio.post(f"/sdapi/v1/{to}", json={"override_settings": {"sd_model_checkpoint": "control"}, **asked})


def unit(**fields: Any) -> dict[str, Any]:
    """A unit as webuiapi sends it."""
    given = {"image": base64_png(some_colours()), "mask": None, "module": "none", "model": "None", "weight": 1.0}
    others = {
        "resize_mode": "Resize and Fill",
        "processor_res": 512,
        "control_mode": "Balanced",
        "pixel_perfect": False,
    }
    return {**given, **others, "guidance_start": 0.0, "guidance_end": 1.0, "enabled": True, **fields}


def units(*each: dict[str, Any], name: str = "ControlNet") -> dict[str, Any]:
    return {"alwayson_scripts": {name: {"args": [*each]}}}


def drawn(answer: Any) -> Pixels:
    """The first picture of an answer in AUTOMATIC1111's format."""
    assert answer.status_code == 200, answer.text
    return decode(base64.b64decode(answer.json()["images"][0]))


FIELDS_OF_DRAW = {"prompt": PROMPT, "seed": 3, "steps": 5, "guidance_scale": 7.5, "solver": "ddim"}


@pytest.mark.parametrize("name", ["ControlNet", "controlnet"])
def test_a1111_has_a_unit_of_the_controlnet(studio: TestClient, name: str) -> None:
    asked = unit(weight=0.6, guidance_start=0.2, guidance_end=0.8, model="controlnet [abc]")
    made = drawn(draw(studio, **units(unit(enabled=False), asked, name=name)))
    control = {"control_image": base64_png(some_colours()), "control_scale": 0.6}
    expected = pictures(studio, "control", **FIELDS_OF_DRAW, **control, control_start=0.2, control_end=0.8)
    assert_same(made, expected[0])
    assert_other(made, pictures(studio, "control", **FIELDS_OF_DRAW)[0])


def test_a1111_controls_by_the_picture_that_is_redrawn(studio: TestClient) -> None:
    sent = base64_png(some_colours())
    fields = {"init_images": [sent], "denoising_strength": 0.6, **units(unit(image=""))}
    made = pictures(studio, "control", **FIELDS_OF_DRAW, image=sent, control_image=sent, strength=0.6)
    assert_same(drawn(draw(studio, "img2img", **fields)), made[0])


def test_a1111_reads_a_lora_from_the_prompt(studio: TestClient) -> None:
    made = drawn(draw(studio, prompt=f"{PROMPT} <lora:ink:-0.7>"))
    assert_same(made, pictures(studio, "control", **FIELDS_OF_DRAW, lora="ink:-0.7")[0])
    assert [each["name"] for each in studio.get("/sdapi/v1/loras").json()] == ["chalk", "ink"]
    assert studio.get("/sdapi/v1/scripts").json()["txt2img"] == ["controlnet", "controlnet m2m"]
    assert studio.get("/controlnet/model_list").json() == {"model_list": ["controlnet"]}


@pytest.mark.parametrize(
    ("fields", "pointer", "says"),
    [
        ({"prompt": "<lora:oil:1>"}, "prompt", "no LoRA 'oil' chalk, ink"),
        ({"prompt": "<lora:ink:9>"}, "prompt", "outside of -4 to 4"),
        ({"prompt": "<lora:ink:0.5:0.7>"}, "prompt", "no LoRA 'ink:0.5'"),
        ({"prompt": f"<lora:{'x' * 300}:1>"}, "prompt", "no LoRA"),
        (units(unit(), unit()), "alwayson_scripts/ControlNet/args/1", "one unit"),
        (units(unit(image="")), "alwayson_scripts/ControlNet/args/0/image", "is needed"),
        (units(unit(image="x")), "alwayson_scripts/ControlNet/args/0/image", "not valid base64"),
        (units(unit(weight=5.0)), "alwayson_scripts/ControlNet/args/0/weight", "less than or equal to 4"),
        (units(unit(module="canny")), "alwayson_scripts/ControlNet/args/0/module", "none"),
        (units(unit(control_mode=1)), "alwayson_scripts/ControlNet/args/0/control_mode", "Balanced"),
        (units(unit(mask="x")), "alwayson_scripts/ControlNet/args/0/mask", "not supported"),
        (units(unit(model="pose")), "alwayson_scripts/ControlNet/args/0/model", "controlnet"),
        (units(unit(guidance_start=0.9, guidance_end=0.1)), "alwayson_scripts/ControlNet/args/0/guidance_end", "after"),
        ({"alwayson_scripts": {"ControlNet": [1]}}, "alwayson_scripts/ControlNet", "must be an object"),
    ],
)
def test_a1111_refuses(studio: TestClient, fields: dict[str, Any], pointer: str, says: str) -> None:
    assert says in refused(draw(studio, **fields), f"#/{pointer}")


def texts(name: str, *values: str) -> dict[str, object]:
    """A tensor of the Open Inference Protocol, in JSON."""
    return {"name": name, "shape": [len(values)], "datatype": "BYTES", "data": [*values]}


@pytest.mark.parametrize("binary", [False, True])
def test_open_inference_reads_a_tensor_of_texts(studio: TestClient, binary: bool) -> None:
    prompts, negative = ["a red Café", "an owl"], "rain"
    body: dict[str, Any] = {"inputs": [texts("prompt", *prompts), texts("negative_prompt", negative)]}
    rest = b""
    if binary:
        rest = b"".join(struct.pack("<I", len(each.encode())) + each.encode() for each in prompts)
        del body["inputs"][0]["data"]
        body["inputs"][0]["parameters"] = {"binary_data_size": len(rest)}
    seed = {"name": "seed", "shape": [2], "datatype": "INT64", "data": [3, 4]}
    body |= {"inputs": [*body["inputs"], seed], "parameters": {"steps": 3, "width": 24, "lora": "ink:0.5"}}
    head = json.dumps(body).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    (output,) = studio.post("/v2/models/control/infer", content=head + rest, headers=headers).json()["outputs"]
    fields = {"seeds": [3, 4], "steps": 3, "width": 24, "lora": {"name": "ink", "scale": 0.5}}
    made = pictures(studio, "control", prompt=prompts, negative_prompt=negative, **fields)
    assert output["shape"] == [2, 16, 24, 3]
    assert_same(np.array(output["data"], np.uint8).reshape(output["shape"]), made)


def test_open_inference_lists_the_inputs_of_a_model(studio: TestClient) -> None:
    card = studio.get("/v2/models/sd").json()
    assert card["inputs"] == [
        {"name": "seed", "datatype": "INT64", "shape": [-1]},
        {"name": "prompt", "datatype": "BYTES", "shape": [-1]},
        {"name": "negative_prompt", "datatype": "BYTES", "shape": [-1]},
        {"name": "latents", "datatype": "FP32", "shape": [-1, 4, -1, -1]},
    ]
    assert card["outputs"][0]["shape"] == [-1, -1, -1, 3]
    config = studio.get("/v2/models/sd/config").json()
    assert [each["data_type"] for each in config["input"]] == ["TYPE_INT64", "TYPE_STRING", "TYPE_STRING", "TYPE_FP32"]
    assert "prompt" not in [each["name"] for each in studio.get("/v2/models/classes").json()["inputs"]]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x05\0\0\0fox", "a text that is longer than its bytes"),
        (b"\x01\0", "a text that is longer than its bytes"),
        (b"\x01\0\0\0\xff", "not valid UTF-8"),
        (b"\x01\0\0\0a\x01\0\0\0b", "does not fit 2 values"),
        (b"\x01\0\0\0\0", "control character U+0000"),
    ],
)
def test_open_inference_refuses_texts(studio: TestClient, data: bytes, says: str) -> None:
    tensor = {"name": "prompt", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = studio.post("/v2/models/sd/infer", content=head + data, headers=headers)
    assert answer.status_code == 422
    assert says in answer.json()["error"]


def test_a_card_has_what_a_form_needs(studio: TestClient) -> None:
    card = studio.get("/models/control").json()
    fields, pipeline = card["tasks"]["generate"], card["manifest"]["pipeline"]
    does = ["generate", "text_to_image", "image_to_image", "inpaint", "control", "encode", "interpolate"]
    assert card["does"] == does
    assert card["tasks"]["interpolate"].keys() >= {"prompt", "negative_prompt", "width", "lora", "from"}
    assert card["tasks"]["interpolate"]["solver"]["enum"] == ["ddim", "dpmpp_2m", "euler"]
    assert fields.keys().isdisjoint({"class_label", "negative_class", "truncation", "spread", "point"})
    assert (fields["width"]["multipleOf"], fields["width"]["maximum"]) == (4, 32)
    assert fields["control"]["enum"] == ["controlnet"]
    assert fields["lora"]["examples"] == ["chalk", "ink"]
    assert fields["solver"]["enum"] == ["ddpm", "ddim", "dpmpp_2m", "euler", "euler_ancestral", "lcm"]
    assert (card["limits"]["tokens"], card["limits"]["prompt"]) == (14, 10_000)
    assert (pipeline["prediction_type"], pipeline["loras"]) == ("epsilon", ["chalk", "ink"])
    painter = studio.get("/models/inpaint9").json()
    assert painter["does"] == ["inpaint", "encode"]
    assert "mask" in painter["tasks"]["generate"]
    classes = studio.get("/models/classes").json()
    lacking = {"prompt", "width", "lora", "image", "guidance_scale", "negative_class"}
    assert classes["tasks"]["generate"].keys().isdisjoint(lacking)
    assert json.dumps(classes)
