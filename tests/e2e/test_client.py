import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from service.cli import main
from service.client import (
    AsyncClient,
    Client,
    Completed,
    ImageReady,
    JobStatus,
    PreviewReady,
    Refused,
    Started,
)
from tests.e2e.process import Service


@pytest.fixture
def url(service: Service) -> str:
    return f"http://127.0.0.1:{service.port}"


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


def test_what_is_served(client: Client) -> None:
    by_name = {model.name: model for model in client.models()}
    assert by_name.keys() == {"ddpm", "vae"}
    assert client.model("ddpm") == by_name["ddpm"]
    health = client.health()
    assert (health.live, health.status) == (True, "ready")
    assert health.models == {name: model.version for name, model in by_name.items()}


def test_pictures_can_be_made_again(client: Client) -> None:
    made = client.generate("vae", n=3, class_label="bag")
    again = client.generate("vae", seeds=[seed for seed in made.seeds if seed is not None], class_label="bag")
    assert made.array().shape == (3, 8, 8, 1)
    assert np.array_equal(made.array(), again.array())
    told = client.inspect(made.images[1].png)
    assert (told.model, told.model_version) == ("vae", told.served_version)
    assert told.params["seed"] == made.seeds[1]


def test_a_path_begins_and_ends_with_its_seeds(client: Client) -> None:
    path = client.interpolate("vae", 1, 2, frames=4, class_label="bag")
    assert len(path.images) == 4
    ends = client.generate("vae", seeds=[1, 2], class_label="bag").array()
    assert np.array_equal(path.array()[[0, -1]], ends)


def test_a_refusal_names_the_field(client: Client) -> None:
    with pytest.raises(Refused) as failure:
        client.generate("ddpm", steps=100_000)
    assert (failure.value.status, failure.value.code) == (422, "invalid-field")
    assert [problem.pointer for problem in failure.value.problems] == ["#/steps"]
    assert failure.value.request_id
    with pytest.raises(Refused, match="vea"):
        client.model("vea")


def test_pictures_are_watched_as_they_come(client: Client) -> None:
    events = list(client.stream("ddpm", n=2, steps=40, seed=5, preview_every=10))
    kinds = [type(event) for event in events]
    assert kinds.index(Started) < kinds.index(PreviewReady) < kinds.index(ImageReady)
    assert kinds.count(PreviewReady) == 8
    last = events[-1]
    assert isinstance(last, Completed)
    shown = {event.image.index: event.image.png for event in events if isinstance(event, ImageReady)}
    assert {image.index: image.png for image in last.generation.images} == shown
    assert last.generation.seeds == (5, 6)


def test_a_stream_that_is_left_stops_the_work(client: Client, service: Service) -> None:
    for event in client.stream("ddpm", n=64, steps=1000):
        if isinstance(event, PreviewReady):
            break
    service.wait_until_idle()


def test_a_job_is_waited_for_and_fetched_in_two_forms(client: Client) -> None:
    job = client.submit("ddpm", n=4, steps=50, seed=7, format="webp")
    told: list[JobStatus] = []
    assert job.wait(told.append).status == "succeeded"
    assert told[-1].progress == 1.0
    assert job.file().media_type == "image/webp"
    png = job.file("png")
    assert (png.media_type, png.seeds) == ("image/png", (7, 8, 9, 10))
    assert job.result().seeds == (7, 8, 9, 10)
    assert isinstance([*client.job(job.id).events()][-1], Completed)


def test_a_canceled_job_has_no_result(client: Client) -> None:
    job = client.submit_path("ddpm", 1, 2, steps=1000, frames=64)
    assert job.cancel().status == "canceled"
    with pytest.raises(Refused) as failure:
        job.result()
    assert failure.value.code == "job-canceled"


def test_the_asynchronous_client_does_the_same(url: str) -> None:
    async def ask() -> tuple[list[str], tuple[int | None, ...], bytes, list[type]]:
        async with AsyncClient(url) as client:
            models, made = await asyncio.gather(client.models(), client.generate("vae", n=2, seed=3))
            job = await client.submit_path("ddpm", 1, 2, frames=3, steps=5)
            async with aclosing(client.stream("ddpm", steps=5)) as events:
                heard = [type(event) async for event in events]
            return sorted(model.name for model in models), made.seeds, (await job.file("gif")).content[:4], heard

    names, seeds, file, heard = asyncio.run(ask())
    assert names == ["ddpm", "vae"]
    assert seeds == (3, 4)
    assert file == b"GIF8"
    assert heard[-1] is Completed


@pytest.mark.parametrize(
    ("command", "file", "begins"),
    [
        ("generate ddpm --class-label bag -n 16 --scale 4 -o grid.png", "grid.png", b"\x89PNG"),
        ("generate vae -n 3 --seed 7 -o three.npy", "three.npy", b"\x93NUMPY"),
        ("interpolate vae --from-seed 1 --to-seed 2", "vae.png", b"\x89PNG"),
        ("interpolate ddpm --frames 4 -o walk.gif", "walk.gif", b"GIF8"),
    ],
)
def test_commands_make_files(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, file: str, begins: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENSERVE_URL", url)
    assert main(command.split()) == 0
    assert (tmp_path / file).read_bytes().startswith(begins)


def test_commands_that_only_ask(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENSERVE_URL", url)
    assert main(["models"]) == 0
    assert main(["generate", "vae", "--seed", "7"]) == 0
    assert main(["inspect", "vae.png"]) == 0
    told = capsys.readouterr().out
    assert "FAMILY" in told
    assert "  seed: 7" in told
    assert main(["generate", "vae", "--steps", "5"]) == 1
    assert "steps" in capsys.readouterr().err
