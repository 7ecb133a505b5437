from pathlib import Path

import pytest

from service.contract.files import ContractError
from service.contract.manifest import read_manifest
from tests.trainer.conftest import MakeRun
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.measurement import (
    TITLES,
    Measurement,
    measurement_of,
    publish,
    read_json,
    scores,
    table,
    write_json,
)
from trainer.evaluate.quality import Quality
from trainer.export import export

FLOOR = Quality(0.05, 0.0, 0.9, 0.9, 1.0, 0.97, 0.0005, 1.0, 0.01)
QUALITY = Quality(0.75, 0.01, 0.85, 0.8, 0.95, 0.9, 0.002, 1.1, 0.02)
FACTS = {"model": "vae", "reference": "10,000 test images", "evaluator": "0a1b2c3d", "samples": 10_000}


def measured(sampler: str | None = None, **changed: object) -> Measurement:
    facts = FACTS | {"first_seed": 0, "sampler": sampler} | changed
    return measurement_of(QUALITY, FLOOR, **facts)


@pytest.fixture
def model(make_run: MakeRun, tmp_path: Path) -> Path:
    run = make_run("vae", tmp_path / "run", epochs=1)
    run.fit()
    export(run.folder, tmp_path / "vae", run.data)
    return tmp_path / "vae"


def test_every_score_has_a_title() -> None:
    assert set(QUALITY.scores()) | {"fid"} == set(TITLES)


def test_every_score_stands_beside_its_floor() -> None:
    lines = table(measured("ddim 5 steps")).splitlines()
    assert lines[0] == "vae: 10,000 images, ddim 5 steps, against 10,000 test images, evaluator 0a1b2c3d"
    assert lines[1] == "real: 10,000 other real images against the same"
    assert len(lines) == 3 + len(QUALITY.scores())
    assert lines[3].split() == ["Frechet", "distance", "0.75", "0.05", "lower"]


def test_a_measurement_is_kept_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "vae.json"
    write_json(path, measured())
    assert read_json(path) == measured()
    with pytest.raises(OSError, match=r"vae\.json/new\.json"):
        write_json(path / "new.json", measured())


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"model": 1}'])
def test_another_file_is_no_measurement(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(EvaluationError, match=r"other\.json is not a measurement of python -m trainer evaluate"):
        read_json(tmp_path / "other.json")
    with pytest.raises(EvaluationError, match=r"none\.json cannot be read"):
        read_json(tmp_path / "none.json")


def test_the_manifest_and_the_card_get_the_scores(model: Path) -> None:
    before = (model / "card.md").read_text()
    publish(model, scores(measured()))
    manifest, card = read_manifest(model), (model / "card.md").read_text()
    assert manifest.quality == scores(measured())
    score = manifest.quality[0]
    assert (score.metric, score.value, score.floor, score.samples) == ("Frechet distance", 0.75, 0.05, 10_000)
    assert score.reference == "10,000 test images, evaluator 0a1b2c3d"
    assert "| Frechet distance | 0.75 | 0.05 |" in card
    assert "has not been evaluated" not in card
    placeholder = "The model has not been evaluated yet."
    start, end = before.split(placeholder)
    assert card.startswith(start)
    assert card.endswith(end)


def test_scores_of_the_same_sampler_are_replaced_and_of_others_kept(model: Path) -> None:
    publish(model, scores(measured("ddim 5 steps")))
    publish(model, scores(measured("ddim 10 steps")))
    publish(model, scores(measured("ddim 5 steps")))
    count = len(QUALITY.scores())
    samplers = [score.sampler for score in read_manifest(model).quality]
    assert samplers == ["ddim 5 steps"] * count + ["ddim 10 steps"] * count
    assert (model / "card.md").read_text().count("| Frechet distance |") == 2


def test_scores_of_another_evaluator_do_not_stay(model: Path) -> None:
    publish(model, scores(measured("ddim 5 steps")))
    publish(model, scores(measured("ddim 10 steps", evaluator="99999999")))
    assert {score.sampler for score in read_manifest(model).quality} == {"ddim 10 steps"}


def test_a_card_without_a_place_leaves_the_manifest_alone(model: Path) -> None:
    (model / "card.md").write_text("# mine\n")
    with pytest.raises(EvaluationError, match=r"card\.md: no section Quality"):
        publish(model, scores(measured()))
    assert read_manifest(model).quality == ()
    with pytest.raises(ContractError):
        publish(model.parent, scores(measured()))
