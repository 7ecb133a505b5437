"""What RFC 2046 and RFC 7578 let a form look like, and what reading one may cost."""

from contextlib import suppress
from typing import SupportsIndex
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.testclient import TestClient

from service.api.dialects.openai import ImagesRequest
from service.api.request.form import MAX_PARTS, boundary_of, form_fields
from service.api.request.schemas import GenerateRequest, InterpolateRequest
from service.api.tasks.latent_map import LatentMapRequest
from service.errors import BadRequest, BodyTooLarge, InvalidField
from tests.service.api.conftest import problem, refused
from tests.service.decoding.files import noise

Fields = list[tuple[str, str | bytes]]


def part(name: str, value: bytes = b"1", more: str = "", boundary: bytes = b"b") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"{more}'
    return b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head.encode(), value)


def read(body: bytes, content_type: str = "") -> Fields:
    boundary = boundary_of(body, content_type)
    assert boundary is not None
    return form_fields(body, boundary, 10_000)


PLAIN = part("n") + part("seed", b"7") + b"--b--\r\n"
TOLD: Fields = [("n", "1"), ("seed", "7")]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (PLAIN, ""),
        (PLAIN, "multipart/form-data; boundary=b"),
        (PLAIN, 'Multipart/Form-Data; Boundary="b"; charset=utf-8'),
        (PLAIN, "multipart/form-data; boundary=other"),
        (PLAIN.removesuffix(b"\r\n"), ""),
        (PLAIN + b"epilogue\r\n--b\r\nis no part", ""),
        (PLAIN + b"\r\n" * 100, ""),
        (b"\r\n" + PLAIN, "multipart/form-data; boundary=b"),
        (b"This is a form.\r\n\r\n" + PLAIN, "multipart/form-data; boundary=b"),
        (b"--nothing\r\n" + PLAIN, "multipart/form-data; boundary=b"),
        (PLAIN.replace(b"--b\r\n", b"--b \t \r\n").replace(b"--b--", b"--b-- \t"), ""),
        (PLAIN.replace(b"--b", b"--a b:c"), 'multipart/form-data; boundary="a b:c"'),
        (PLAIN.replace(b"--b", b"--a b:c"), ""),
        (PLAIN.replace(b"--b", b"--b--b"), ""),
        (PLAIN.replace(b"Content-Disposition", b"CONTENT-DISPOSITION"), ""),
        (PLAIN.replace(b"Content-Disposition:", b"X-A: b\r\nContent-Type: text/plain\r\nContent-Disposition:"), ""),
        (PLAIN.replace(b"form-data;", b"form-data;\r\n "), ""),
        (PLAIN.replace(b"form-data; name", b"Form-Data;name"), ""),
        (PLAIN.replace(b'name="n"', b"name=n"), ""),
        (PLAIN.replace(b"\r\n\r\n7", b"\r\nContent-Transfer-Encoding: 8BIT\r\n\r\n7"), ""),
        (part("_charset_", b"UTF-8") + PLAIN, ""),
        (PLAIN.replace(b'"n"', b'"n[]"'), ""),
    ],
)
def test_what_a_reader_may_ignore_is_ignored(body: bytes, content_type: str) -> None:
    assert read(body, content_type) == TOLD


def test_files_are_bytes_and_other_fields_are_text() -> None:
    for name in ("a.png", "", 'with \\"quotes\\"', "x; name=y"):
        more = f'; filename="{name}"\r\nContent-Type: image/png'
        assert read(part("image", b"\r\n--\xff\r\n", more) + b"--b--") == [("image", b"\r\n--\xff\r\n")]
    assert read(part("image", b"", '; filename=""') + b"--b--") == [("image", b"")]
    assert read(part("class_label", "Stiefel ä".encode()) + b"--b--") == [("class_label", "Stiefel ä")]
    assert read(b"--b--\r\n") == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"--", "first line"),
        (b"--b", "first line"),
        (b"--b\n", "first line"),
        (b"--b\r\n", "last boundary"),
        (PLAIN[:-6], "last boundary"),
        (b"--b\r\n--b--", "name"),
        (b"--b\r\n\r\n1\r\n--b--", "name"),
        (b"--b\r\nno header\r\n\r\n1\r\n--b--", "colon"),
        (b"--b\r\nContent-Disposition: attachment; name=n\r\n\r\n1\r\n--b--", "name"),
        (part("n", b"1\r\n--bc") + b"--b--", "other text"),
        (part("n", b"MQ==", "\r\nContent-Transfer-Encoding: base64") + b"--b--", "Transfer"),
        (part("n", more="\r\nX: " + "x" * 9000) + b"--b--", "name"),
    ],
)
def test_an_invalid_form_is_rejected_with_its_reason(body: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        read(body)


def test_text_that_is_not_utf_8_is_rejected() -> None:
    with pytest.raises(InvalidField, match="class_label: is not valid UTF-8"):
        read(part("class_label", b"\xe4") + b"--b--")
    with pytest.raises(InvalidField, match="utf-8"):
        read(part("_charset_", b"latin-1") + b"--b--")


def test_what_is_no_form() -> None:
    for body in (b"", b"{}", b"n=1", b"\xff", b"b--\r\n"):
        assert boundary_of(body, "") is None
        assert boundary_of(body, "multipart/form-data") is None
        assert boundary_of(body, "multipart/form-data; boundary=b") is None
        assert boundary_of(body, "text/plain; boundary=b--") is None


def test_parts_and_text_are_bounded() -> None:
    assert len(read(part("n") * MAX_PARTS + b"--b--")) == MAX_PARTS
    with pytest.raises(BadRequest, match="too many parts"):
        read(part("n") * (MAX_PARTS + 1) + b"--b--")
    with pytest.raises(BodyTooLarge):
        read(part("n", b"1" * 6000) * 2 + b"--b--")
    assert read(part("image", b"1" * 20_000, '; filename="a"') + b"--b--")


class Counted(bytes):
    """A body that counts how often it is searched."""

    searches = 0

    def find(self, sub: object, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /) -> int:
        type(self).searches += 1
        assert isinstance(sub, bytes)
        return super().find(sub, start, end)


LONG = b"-" * 60
#: What a parser that looks for a boundary byte by byte stops at.
NEAR = [
    b"\r\n--" + LONG,
    b"\r\n--",
    b"\r",
    b"\r\n",
    b"\n--",
    b"-",
    b"\r\n--" + LONG[:-1] + b"x",
    b"\r\n--" + LONG + b"+",
]


@pytest.mark.parametrize("near", NEAR)
def test_a_body_of_near_boundaries_is_searched_a_bounded_number_of_times(near: bytes) -> None:
    """Each search is linear; 24 MB took 4 s where every near boundary was an event."""
    boundary = LONG + b"b"
    content = near * (10_000_000 // len(near))
    body = Counted(part("image", content, '; filename="a"', boundary) + b"--" + boundary + b"--")
    Counted.searches = 0
    fields = form_fields(body, boundary, 10)
    assert Counted.searches < 10
    assert fields == [("image", content)]


def test_bodies_of_boundaries_end_at_the_bound_on_parts() -> None:
    for line in (b"--b\r\n", b"--b\r\n\r\n", b"--b--", b"\r\n--b"):
        body = Counted(b"--b\r\n" + line * 100_000)
        Counted.searches = 0
        with pytest.raises(BadRequest):
            form_fields(body, b"b", 10)
        assert Counted.searches < 4 * MAX_PARTS


@given(values=st.lists(st.binary(max_size=40).filter(lambda value: b"\r\n--b" not in b"\r\n" + value), max_size=5))
def test_every_content_is_read_as_it_is(values: list[bytes]) -> None:
    body = b"".join(part(f"f{index}", value, '; filename="a"') for index, value in enumerate(values)) + b"--b--"
    assert read(body, "multipart/form-data; boundary=b") == [(f"f{index}", value) for index, value in enumerate(values)]


@given(start=st.integers(0, len(PLAIN)), junk=st.binary(max_size=20))
def test_any_bytes_are_a_form_or_none(start: int, junk: bytes) -> None:
    with suppress(BadRequest, InvalidField):
        read(b"--b\r\n" + PLAIN[start:] + junk + PLAIN[:start])


def test_a_picture_passes_as_it_is() -> None:
    picture = noise(100, 1000, 1).tobytes()
    body = part("image", picture, '; filename="a"', b"x" * 70) + b"--" + b"x" * 70 + b"--"
    assert read(body) == [("image", picture)]


def form(*parts: tuple[str, str], boundary: str = "b", end: str = "--") -> bytes:
    text = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in parts
    )
    return f"{text}--{boundary}{end}\r\n".encode()


def test_a_form_is_read_whatever_its_content_type_says(client: TestClient) -> None:
    body = form(("seed", "5"), ("n", "2"), ("class_label", "bag"), boundary="----WebKit+x'(1)")
    expected = client.post("/generate/ddpm", json={"seed": 5, "n": 2, "class_label": "bag"})
    for content_type in ("multipart/form-data; boundary=other", "application/json", ""):
        response = client.post("/generate/ddpm", content=body, headers={"Content-Type": content_type})
        assert response.content == expected.content


def test_a_repeated_field_of_a_form_is_a_list(client: TestClient) -> None:
    response = client.post("/generate/vae", content=form(("seeds", "5"), ("seeds", "1")))
    assert response.headers["x-seed"] == "5, 1"
    assert client.post("/generate/vae", content=form(("seeds", "5"))).headers["x-seed"] == "5"
    assert "more than once" in refused(client.post("/generate/vae", content=form(("n", "1"), ("n", "2"))), "#/n")
    assert "no such field" in refused(client.post("/generate/vae", content=form(("colour", "1"))), "#/colour")
    assert "valid integer" in refused(client.post("/generate/vae", content=form(("n", "x"))), "#/n")


OPTIONAL = [
    ("/generate/vae", GenerateRequest, {}),
    ("/interpolate", InterpolateRequest, {"model": "vae", "frames": "2"}),
    ("/v1/images/generations", ImagesRequest, {"model": "vae", "prompt": ""}),
    ("/latent-map/vae", LatentMapRequest, {"across": "2", "down": "2"}),
]


@pytest.mark.parametrize(("path", "schema", "needed"), OPTIONAL)
def test_an_optional_field_that_is_empty_is_absent(
    client: TestClient, tasks: TestClient, path: str, schema: type[BaseModel], needed: dict[str, str]
) -> None:
    """In forms and in queries, and whatever the field is: a browser sends what was not filled in so."""
    client = tasks if schema is LatentMapRequest else client
    names = [field.alias or name for name, field in schema.model_fields.items() if not field.is_required()]
    assert len(names) > 10
    method = "GET" if schema is LatentMapRequest else "POST"
    for blank in [[name] for name in names] + [names, names * 2]:
        query = [
            *((name, value) for name, value in needed.items() if name not in blank),
            *((name, "") for name in blank),
        ]
        response = client.request(method, path, params=urlencode(query))
        assert response.status_code == 200, (blank, response.text)
        if method == "POST":
            response = client.post(path, content=form(*query))
            assert response.status_code == 200, (blank, response.text)


def test_a_file_field_that_is_empty_is_absent(client: TestClient, tasks: TestClient) -> None:
    """A browser sends a file that was not chosen as one without a name and without bytes."""
    blanks = [part(name, b"", '; filename=""') for name in ("image", "mask")]
    assert client.post("/generate/ddpm", content=b"".join([part("n"), *blanks, b"--b--"])).status_code == 200
    blank = part("image", b"", '; filename=""\r\nContent-Type: application/octet-stream') + b"--b--"
    for path in ("/encode/vae", "/inspect"):
        assert "required" in refused(tasks.post(path, content=blank), "#/image")


def test_a_form_without_fields_is_all_defaults(client: TestClient) -> None:
    assert client.post("/generate/vae", content=form()).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"--",
        b"--b",
        b"--b\r\n",
        form(("n", "1"), end=""),
        form(("n", "1"))[:-10],
        b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--\r\n",
        b"--b\r\nno header\r\n\r\n1\r\n--b--\r\n",
        form(*[("n", "1")] * (MAX_PARTS + 1)),
        form(("n", "1"), boundary="x" * 71),
        form(("n", "1"), boundary="ä"),
    ],
)
def test_an_invalid_form_is_a_bad_request(client: TestClient, body: bytes) -> None:
    problem(client.post("/generate/vae", content=body), 400, "bad-request")
