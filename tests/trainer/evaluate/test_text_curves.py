import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.pictures import Sampler, make_sampler
from trainer.evaluate.plots import draw_text, line_of
from trainer.evaluate.subject import load_subject
from trainer.evaluate.text_curves import TextCurves, measure, resume, scores_of, write_json
from trainer.evaluate.text_quality import Group, TextReference
from trainer.models.text_parts import TextParts
from trainer.run.loop import TrainingRun

CPU = torch.device("cpu")
EMPTY = TextCurves(model="text", version="0" * 8, evaluator="1" * 8, dataset="emoji", samples=6, seed=3)
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def parts(text_run: TrainingRun) -> TextParts:
    loaded = load_subject(text_run.folder, CPU).parts
    assert isinstance(loaded, TextParts)
    return loaded


def sampler(parts: TextParts, steps: int, guidance: float = 1.0) -> Sampler:
    return make_sampler(parts, None, steps, guidance)


@pytest.fixture(scope="module")
def curves(parts: TextParts, text_reference: TextReference) -> TextCurves:
    samplers = [sampler(parts, 1), sampler(parts, 1, 2.0), sampler(parts, 2)]
    return list(measure(parts, text_reference, samplers, EMPTY, CPU))[-1]


def test_every_group_is_measured_with_every_sampler(curves: TextCurves) -> None:
    measured = [(point.steps, point.guidance_scale, point.scores.group) for point in curves.points]
    groups = ("training", "combination", "colour rules")
    assert measured == [(*each, group) for each in ((1, 1.0), (1, 2.0), (2, 1.0)) for group in groups]
    assert {point.scores.pictures for point in curves.points} == {6, 12}


def test_points_that_are_known_are_not_measured_again(
    curves: TextCurves, parts: TextParts, text_reference: TextReference
) -> None:
    shown: list[tuple[str | None, str, int]] = []

    def show(of: Sampler, group: Group, pictures: Tensor) -> None:
        shown.append((of.name, group.name, len(pictures)))

    known = curves.model_copy(update={"points": curves.points[1:]})
    (again,) = measure(parts, text_reference, [sampler(parts, 1)], known, CPU, show)
    assert shown == [("dpmpp_2m 1 step", "training", 6)]
    assert again.points[-1] == curves.points[0], "the same images from the same seeds"
    assert not list(measure(parts, text_reference, [sampler(parts, 2)], curves, CPU))


@pytest.mark.parametrize("change", [{"version": "2" * 8}, {"evaluator": "2" * 8}, {"samples": 7}, {"seed": 4}])
def test_a_file_is_continued_only_if_its_points_are_comparable(
    curves: TextCurves, tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "scores.json"
    assert resume(path, EMPTY) == EMPTY
    write_json(path, curves)
    assert resume(path, EMPTY) == curves
    other = EMPTY.model_copy(update=change)
    assert resume(path, other) == other
    assert json.loads(path.read_text())["seed"] == 3


def test_a_damaged_file_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text('{"points": [')
    assert resume(path, EMPTY) == EMPTY


def test_scores_for_the_card_name_their_group_and_what_real_pictures_reach(curves: TextCurves) -> None:
    scores = scores_of(curves, "dpmpp_2m 1 step, guidance 2")
    assert {score.sampler for score in scores} == {"dpmpp_2m 1 step, guidance 2"}
    assert {score.reference for score in scores} == {
        f"{group} of emoji, evaluator 11111111" for group in ("training", "combination", "colour rules")
    }
    recall = next(score for score in scores if score.metric == "R@1 among 100 captions")
    assert recall.floor == curves.points[3].scores.ceiling
    assert "stroke pixels followed" not in {score.metric for score in scores}
    with pytest.raises(EvaluationError, match="not measured"):
        scores_of(curves, "ddim 1 step")


def test_a_line_varies_one_setting_only(curves: TextCurves) -> None:
    assert {(point.steps, point.guidance_scale) for point in line_of(curves, "steps")} == {(1, 1.0), (2, 1.0)}
    assert {(point.steps, point.guidance_scale) for point in line_of(curves, "guidance_scale")} == {(1, 1.0), (1, 2.0)}
    assert line_of(EMPTY, "steps") == []


def test_settings_with_several_values_are_plotted(curves: TextCurves, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = draw_text(curves, tmp_path)
    assert [path.name for path in paths] == ["text-guidance-scale.png", "text-steps.png"]
    assert all(path.read_bytes().startswith(PNG) for path in paths)
    one = curves.model_copy(update={"points": curves.points[:3]})
    assert draw_text(one, tmp_path) == []
