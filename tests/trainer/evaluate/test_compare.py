import shutil
from pathlib import Path
from typing import Any

import pytest

from service.contract.manifest import Manifest, read_manifest
from tests.trainer.evaluate.test_measurement import measured
from trainer.evaluate.compare import BEGIN, END, read_manifests, table, write_table
from trainer.evaluate.curves import Curves, Point
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.measurement import scores

SHIPPED = Path(__file__).parents[3] / "weights"


@pytest.fixture(scope="module")
def vae() -> Manifest:
    return read_manifest(SHIPPED / "vae").model_copy(update={"quality": scores(measured())})


def curves_of(manifest: Manifest, **changed: object) -> Curves:
    point = {
        "model": manifest.name,
        "version": manifest.version,
        "sampler": None,
        "steps": 1,
        "default": True,
        "frechet_distance": 0.8,
        "milliseconds": 0.125,
    }
    return Curves(
        reference="10,000 test images",
        evaluator="0a1b2c3d",
        samples=100,
        device="CPU, 1 thread",
        floor=0.1,
        points=(Point.model_validate(point | changed),),
    )


def cells(text: str, row: int) -> list[str]:
    return [cell.strip() for cell in text.splitlines()[row].strip("|").split("|")]


def test_evaluators_are_not_taken_for_models_and_text_models_have_no_row() -> None:
    manifests, skipped = read_manifests(SHIPPED)
    names = [manifest.name for manifest in manifests]
    assert {*skipped} == {"emoji", "emoji-control", "emoji-few-step"}
    assert "groups of captions" in skipped["emoji"]
    assert "vae" in names
    assert not {"evaluator", "selection-evaluator", "text-evaluator"} & {*names}


def test_a_folder_without_models_is_reported(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="contains no model"):
        read_manifests(tmp_path)


def test_a_row_holds_scores_with_floors_size_and_time(vae: Manifest) -> None:
    text = table([vae], curves_of(vae), None)
    row = dict(zip(cells(text, 0), cells(text, 2), strict=True))
    assert row["model"] == "vae"
    assert row["Frechet distance"] == "0.75 (0.05)"
    assert row["coverage"] == "0.9 (0.97)"
    assert row["parameters"] == f"{vae.made_by.parameters:,}"
    assert row["bytes"] == f"{vae.artifact.size:,}"
    assert row["ms per image"] == "0.125"
    assert "10,000 images against 10,000 test images, evaluator 0a1b2c3d" in text


def test_the_time_of_other_weights_is_not_told(vae: Manifest) -> None:
    assert cells(table([vae], curves_of(vae, version="00000000"), None), 2)[-1] == "-"
    assert cells(table([vae], curves_of(vae, sampler="ddim 5 steps"), None), 2)[-1] == "-"


def test_each_sampler_has_its_row(vae: Manifest) -> None:
    quality = scores(measured("ddim 5 steps")) + scores(measured("ddim 10 steps"))
    text = table([vae.model_copy(update={"quality": quality})], None, None)
    assert [cells(text, row)[0] for row in (2, 3)] == ["vae (ddim 5 steps)", "vae (ddim 10 steps)"]


def test_distances_are_relative_to_the_baseline(vae: Manifest) -> None:
    baseline = measured(model="dcgan-20")
    baseline = baseline.model_copy(update={"scores": baseline.scores | {"frechet_distance": 1.5}})
    text = table([vae, vae.model_copy(update={"quality": ()})], None, baseline)
    assert cells(text, 0)[1] == "relative to dcgan-20"
    assert [cells(text, row)[1] for row in (2, 3)] == ["0.50", "-"]


@pytest.mark.parametrize("changed", [{"samples": 5000}, {"evaluator": "99999999"}, {"reference": "some pictures"}])
def test_only_what_was_measured_alike_is_relative_to_the_baseline(vae: Manifest, changed: dict[str, Any]) -> None:
    own = vae.model_copy(update={"name": "own", "quality": scores(measured(**changed))})
    text = table([vae, own], None, measured(model="dcgan-20"))
    assert [cells(text, row)[1] for row in (2, 3)] == ["1.00", "-"]
    notes = text.split("\n\n")[1].splitlines()
    assert notes[0].startswith("vae: 10,000 images against 10,000 test images, evaluator 0a1b2c3d")
    assert notes[1].startswith("own: ")
    assert notes[2] == "Scores against different images or with different numbers of images are not comparable."
    assert notes[3].startswith(
        "Not comparable with dcgan-20: own. dcgan-20 was evaluated on 10,000 images against 10,000"
    )
    assert "Not comparable" not in table([vae], None, measured(model="dcgan-20"))


def test_a_model_that_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    for name in ("vae", "copy", "damaged"):
        (tmp_path / name).mkdir()
        shutil.copy(SHIPPED / "vae" / "manifest.json", tmp_path / name)
    (tmp_path / "damaged" / "manifest.json").write_text("{}")
    manifests, skipped = read_manifests(tmp_path)
    assert [manifest.name for manifest in manifests] == ["vae"]
    assert skipped["copy"] == "its manifest belongs to vae"
    assert "damaged" in skipped["damaged"]
    shutil.rmtree(tmp_path / "vae")
    with pytest.raises(EvaluationError, match=r"contains no model.*; copy: its manifest belongs to vae"):
        read_manifests(tmp_path)


def test_only_what_is_between_the_marks_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "QUALITY.md"
    path.write_text(f"# Mine\n\n{BEGIN}\nold\n{END}\n\nstays\n")
    write_table(path, "| new |")
    assert path.read_text() == f"# Mine\n\n{BEGIN}\n\n| new |\n\n{END}\n\nstays\n"
    path.write_text("# Mine\n")
    with pytest.raises(EvaluationError, match="no place for the table"):
        write_table(path, "| new |")
    with pytest.raises(EvaluationError, match=r"none\.md"):
        write_table(tmp_path / "none.md", "| new |")


def test_the_document_has_a_place_for_the_table() -> None:
    text = (SHIPPED.parent / "docs" / "QUALITY.md").read_text()
    assert text.index(BEGIN) < text.index(END)
