import pytest
import torch

from trainer.evaluate.colours import RULES
from trainer.evaluate.text_quality import MOVED_GROUP, RULE_GROUP, Group, TextReference


def training(reference: TextReference, *, drawings: bool = False) -> Group:
    return reference.groups(30, 0, drawings=drawings)[0]


def test_real_pictures_have_the_ceilings_scores(text_reference: TextReference) -> None:
    group = training(text_reference)
    scores = text_reference.score(group, group.images)
    assert (scores.group, scores.pictures) == ("training", 30)
    assert scores.recall == scores.ceiling > 0.7
    assert scores.distance == pytest.approx(0.0, abs=1e-3)
    assert scores.floor > scores.distance
    assert (scores.coverage, scores.copies) == (1.0, 1.0)
    assert 0.0 < scores.coverage_floor <= 1.0
    assert set(scores.rules.values()) == {1.0}
    assert scores.followed is scores.followed_real is scores.followed_other is None


def test_pictures_of_something_else_score_worse(text_reference: TextReference) -> None:
    group = training(text_reference)
    scores = text_reference.score(group, group.images[:1].expand_as(group.images))
    assert scores.recall <= 1 / 15
    assert scores.distance > scores.floor
    assert scores.coverage < 0.5
    assert max(scores.rules.values()) < 1.0


def test_new_pictures_are_no_copies(text_reference: TextReference) -> None:
    group = training(text_reference)
    noise = 32 * torch.randn(group.images.shape, generator=torch.Generator().manual_seed(0))
    assert text_reference.score(group, (group.images + noise).clamp(0, 255).to(torch.uint8)).copies < 0.1


def test_pictures_that_keep_to_their_drawings_are_told_from_others(text_reference: TextReference) -> None:
    group = training(text_reference, drawings=True)
    assert group.hints is not None
    assert group.hints.shape == (30, 1, 64, 64)
    good, bad = text_reference.score(group, group.images), text_reference.score(group, group.images.flip(3))
    assert good.followed == good.followed_real == bad.followed_real
    assert good.followed is not None
    assert bad.followed is not None
    assert good.followed_other is not None
    assert good.followed > 0.95 > bad.followed
    assert good.followed_other < 0.9


def test_every_group_with_enough_pictures_is_scored_by_itself(text_reference: TextReference) -> None:
    groups = {group.name: group for group in text_reference.groups(100, 0)}
    assert {name: len(group.images) for name, group in groups.items() if name != RULE_GROUP} == {
        "training": 58,
        "combination": 6,
    }, "three unseen names are too few"
    grey = torch.full((6, 3, 64, 64), 128, dtype=torch.uint8)
    assert text_reference.score(groups["combination"], grey).pictures == 6


def test_the_group_of_colour_rules_has_captions_of_each_rule(text_reference: TextReference) -> None:
    group = text_reference.groups(30, 0)[-1]
    assert group.name == RULE_GROUP
    scores = text_reference.score(group, group.images)
    assert scores.rules == dict.fromkeys(sorted(RULES), 1.0)
    assert text_reference.score(group, 255 - group.images).rules == dict.fromkeys(sorted(RULES), 0.0)


def test_the_same_captions_and_drawings_are_chosen_again(text_reference: TextReference) -> None:
    first, again, other = (training_with(text_reference, seed) for seed in (0, 0, 1))
    assert first.names == again.names == other.names
    assert first.hints is not None
    assert again.hints is not None
    assert other.hints is not None
    assert torch.equal(first.hints, again.hints)
    assert not torch.equal(first.hints, other.hints)


def training_with(reference: TextReference, seed: int) -> Group:
    return reference.groups(10, seed, drawings=True)[0]


def test_a_model_that_takes_drawings_gets_moved_ones_too(text_reference: TextReference) -> None:
    """Their captions are known, and only the drawing says where the picture is."""
    assert MOVED_GROUP not in {group.name for group in text_reference.groups(10, 0)}
    first, *_, last = text_reference.groups(10, 0, drawings=True)
    assert (last.name, last.names) == (MOVED_GROUP, first.names)
    assert last.images.shape == first.images.shape
    assert text_reference.score(last, last.images).followed_real == 1.0
    followed = text_reference.score(last, first.images).followed
    assert followed is not None
    assert followed < 0.9
