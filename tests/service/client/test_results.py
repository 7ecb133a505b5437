import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.client.errors import UnexpectedAnswer
from service.client.results import Generation, JobStatus, read_file, read_json
from tests.service.client.answers import generation, png, status


def made(count: int) -> Generation:
    return read_json(Generation, json.dumps(generation(count)))


def test_pictures_are_files_and_arrays(tmp_path: Path) -> None:
    found = made(2)
    assert found.seeds == (7, 8)
    assert found.images[1].png == png(1)
    array = found.array()
    assert array.shape == (2, 2, 3, 1)
    assert array.dtype == np.uint8
    assert array[:, 0, 0, 0].tolist() == [0, 1]
    paths = found.save(tmp_path / "new")
    assert [path.name for path in paths] == ["0000.png", "0001.png"]
    assert paths[1].read_bytes() == png(1)


def test_an_answer_of_another_service_is_told() -> None:
    with pytest.raises(UnexpectedAnswer, match="Generation"):
        read_json(Generation, b'{"images": []}')
    with pytest.raises(UnexpectedAnswer):
        read_file(httpx.Response(200, content=b"<html>"))


def test_a_file_knows_what_made_it(tmp_path: Path) -> None:
    headers = {"X-Seed": "7, 8", "X-Model": "vae", "X-Model-Version": "0123abcd", "Content-Type": "image/png"}
    file = read_file(httpx.Response(200, content=b"grid", headers=headers))
    assert (file.seeds, file.media_type, file.model, file.model_version) == ((7, 8), "image/png", "vae", "0123abcd")
    assert file.save(tmp_path / "deep" / "grid.png").read_bytes() == b"grid"


@pytest.mark.parametrize(
    ("state", "ended"),
    [("queued", False), ("running", False), ("succeeded", True), ("failed", True), ("canceled", True)],
)
def test_a_job_has_ended_or_not(state: str, ended: bool) -> None:
    assert read_json(JobStatus, json.dumps(status(state))).ended == ended
