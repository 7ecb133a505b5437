from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.api.request import negotiation
from service.api.request.negotiation import GIF, JPEG, JSON, MEDIA, NPY, PICTURES, PNG, WEBP, ZIP, choose
from service.errors import NotAcceptable
from tests.service.api.conftest import problem

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"

ANSWERED = [
    (None, PNG),
    ("", PNG),
    (" , ", PNG),
    ("*/*", PNG),
    (BROWSER, WEBP),
    ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", PNG),  # a browser's, for <img>
    ("image/webp", WEBP),
    ("image/jpeg, text/plain;q=0.9", JPEG),
    ("image/gif", GIF),
    ("application/zip", ZIP),
    ("image/png, application/json;q=0.9", PNG),
    ("image/*", PNG),
    ("image/png", PNG),
    ("application/json", JSON),
    ("APPLICATION/JSON; charset=utf-8", JSON),
    ("application/*", JSON),
    ("application/x-npy", NPY),
    ("text/html, application/json", JSON),
    ("application/json, image/png", PNG),  # equal wishes: the first that is offered
    ("application/json;q=0.5, image/png;q=0.4", JSON),
    ("application/json;q=0.5, image/*;q=0.6", PNG),
    ("*/*;q=0.1, application/x-npy", NPY),
    ("*/*, image/png;q=0", JSON),  # the more specific range wins over the wider one
    ("image/*;q=0, */*;q=0.5", JSON),
    ("application/json ; q=0.9 , image/png ; q=0.1", JSON),
    ("image/png;q=0.000, application/json;q=0.001", JSON),
    ("image/png;q=nan, application/json;q=0.1", JSON),
    ("image/png;q=7, application/json;q=0.1", JSON),
    ("image/png;q=;;, application/json;q=0.1", JSON),
]
REFUSED = [
    "text/html",
    "image/avif",
    "image/bmp, text/plain;q=0.9",
    "image/png;q=0",
    "*/*;q=0",
    "image/png;q=x",
    "*",
    "/",
    ";;;",
]


@pytest.mark.parametrize(("accept", "media"), ANSWERED)
def test_accept_chooses_the_form(client: TestClient, accept: str | None, media: str) -> None:
    headers = {"Accept": accept} if accept is not None else {}
    for response in (client.post("/generate/vae", headers=headers), client.get("/generate/vae", headers=headers)):
        assert response.status_code == 200
        assert response.headers["content-type"] == media


def test_a_cached_choice_does_not_apply_to_another_offer() -> None:
    assert choose(["image/*"], PICTURES) == PNG
    assert choose(["image/*"], [JSON, GIF]) == GIF
    for _ in range(2):
        with pytest.raises(NotAcceptable):
            choose(["image/*"], [JSON, ZIP])


@pytest.mark.parametrize("accept", REFUSED)
def test_an_accept_without_an_offered_format_is_rejected(client: TestClient, accept: str) -> None:
    response = client.post("/generate/vae", headers={"Accept": accept})
    detail = problem(response, 406, "not-acceptable")["detail"]
    assert all(media in detail for media in PICTURES)
    problem(client.post("/interpolate", json={"model": "vae"}, headers={"Accept": accept}), 406, "not-acceptable")


@pytest.mark.parametrize(("name", "media"), MEDIA.items())
def test_the_field_overrides_accept(client: TestClient, name: str, media: str) -> None:
    for accept in ("text/html", "application/json", "image/gif;q=0"):
        headers = {"Accept": accept}
        for response in (
            client.post("/generate/vae", json={"format": name}, headers=headers),
            client.get("/generate/vae", params={"format": name}, headers=headers),
            client.post("/interpolate", json={"model": "vae", "format": name}, headers=headers),
        ):
            assert response.status_code == 200
            assert response.headers["content-type"] == media
            assert response.headers["content-disposition"].endswith(f'.{name}"')


def test_lines_of_accept_are_one_list(client: TestClient) -> None:
    lines = [("Accept", "text/html"), ("Accept", "application/json;q=0.5"), ("Accept", "image/png;q=0.2")]
    assert client.post("/generate/vae", headers=lines).headers["content-type"] == JSON


@given(accept=st.lists(st.text(max_size=40), max_size=3))
def test_any_accept_is_answered_or_rejected(accept: list[str]) -> None:
    with suppress(NotAcceptable):
        assert choose(accept, [PNG, JSON]) in (PNG, JSON)


@given(
    qualities=st.permutations([0.9, 0.5, 0.1]),
    space=st.sampled_from(["", " ", "\t"]),
)
def test_the_highest_quality_wins(qualities: list[float], space: str) -> None:
    offered = [PNG, JSON, NPY]
    header = f"{space},{space}".join(
        f"{media};{space}q={quality}" for media, quality in zip(offered, qualities, strict=True)
    )
    assert choose([header], offered) == offered[qualities.index(0.9)]


def test_few_media_types_of_a_long_header_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """60,000 bytes of them took 15 ms, in which nobody else was answered."""
    read: list[str] = []
    parse = negotiation._parse
    monkeypatch.setattr(negotiation, "_parse", lambda part: parse(read.append(part) or part))  # type: ignore[func-returns-value]
    for accept in (["a/a," * 15_000], ["a/a"] * 4000, ["a/a," * 100] * 100):
        with pytest.raises(NotAcceptable):
            choose(accept, PICTURES)
    assert len(read) <= 3 * negotiation.MOST_RANGES
    assert choose(["text/html," * 60 + "image/png"], PICTURES) == PNG
