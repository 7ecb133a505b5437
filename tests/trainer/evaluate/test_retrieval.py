import torch
import torch.nn.functional as F

from trainer.evaluate.retrieval import CHOICES, choices, recall_at_1

NAMES = [f"name {row}" for row in range(150)]


def test_a_row_is_among_its_own_choices_once_and_first() -> None:
    group = torch.arange(120)
    among = choices(NAMES, group)
    assert among.shape == (120, CHOICES)
    assert torch.equal(among[:, 0], group)
    assert all(len(set(row.tolist())) == CHOICES for row in among)
    assert int(among.max()) < 120, "the group has enough captions of its own"


def test_a_small_group_is_filled_up_from_all_captions() -> None:
    group = torch.arange(10)
    among = choices(NAMES, group)
    assert among.shape == (10, CHOICES)
    assert all(set(range(10)) <= set(row.tolist()) for row in among)


def test_captions_of_the_same_name_are_no_choice() -> None:
    names = ["twin", "twin", *NAMES]
    among = choices(names, torch.arange(100))
    assert 1 not in among[0].tolist()


def test_choices_are_the_same_every_time() -> None:
    assert torch.equal(choices(NAMES, torch.arange(120)), choices(NAMES, torch.arange(120)))


def test_recall_counts_pictures_nearest_to_their_own_caption() -> None:
    captions = F.one_hot(torch.arange(150)).float()
    group = torch.arange(100)
    pictures = captions[:100].clone()
    assert recall_at_1(pictures, captions, choices(NAMES, group)) == 1.0
    pictures[:25] = pictures[25:50].clone()
    assert recall_at_1(pictures, captions, choices(NAMES, group)) == 0.75


def test_an_evaluator_that_cannot_tell_has_no_recall() -> None:
    same = torch.ones(150, 4)
    assert recall_at_1(same[:100], same, choices(NAMES, torch.arange(100))) == 0.0
