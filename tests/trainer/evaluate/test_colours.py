import pytest
import torch
from torch import Tensor

from tests.trainer.conftest import EMOJI
from trainer.data.emoji import FONT, read_emoji
from trainer.evaluate.colours import RULES, SKIN, holds, rule_of

PICTURES = {each.name: each.picture for each in read_emoji(EMOJI / FONT, EMOJI)}


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("thumbs up: dark skin tone", "skin tone"),
        ("handshake: light skin tone, dark skin tone", None),
        ("light skin tone", None),
        ("flag: France", "flag"),
        ("blue heart", "colour"),
        ("black circle", "colour"),
        ("growing heart", None),
        ("pizza", None),
    ],
)
def test_rules_of_captions(name: str, rule: str | None) -> None:
    assert rule_of(name) == rule


@pytest.mark.parametrize("tone", SKIN)
def test_the_skin_of_real_emoji_is_recognised(tone: str) -> None:
    for what in ("thumbs up", "woman astronaut", "cook"):
        name = f"{what}: {tone} skin tone"
        assert holds(name, PICTURES[name], PICTURES[name])


def test_another_skin_tone_breaks_the_rule() -> None:
    name = "thumbs up: dark skin tone"
    assert not holds(name, PICTURES["thumbs up: light skin tone"], PICTURES[name])
    assert not holds(name, torch.full((3, 64, 64), 255, dtype=torch.uint8), PICTURES[name])


def test_every_real_emoji_satisfies_its_own_rule_and_few_others_do() -> None:
    names = [name for name in PICTURES if rule_of(name)]
    assert {rule_of(name) for name in names} == set(RULES)
    assert all(holds(name, PICTURES[name], PICTURES[name]) for name in names)
    pairs = [(one, two) for one in names for two in names if one != two and rule_of(one) == rule_of(two)]
    wrong = [(one, two) for one, two in pairs if one.rpartition(":")[2] != two.rpartition(":")[2]]
    assert sum(holds(one, PICTURES[two], PICTURES[one]) for one, two in wrong) < 0.1 * len(wrong)


@pytest.mark.parametrize(("asked", "got"), [("flag: France", "flag: Japan"), ("green heart", "blue heart")])
def test_another_flag_or_heart_breaks_the_rule(asked: str, got: str) -> None:
    assert holds(asked, PICTURES[asked], PICTURES[asked])
    assert not holds(asked, PICTURES[got], PICTURES[asked])


def test_a_little_noise_breaks_no_rule() -> None:
    generator = torch.Generator().manual_seed(0)

    def noisy(picture: Tensor) -> Tensor:
        return (picture + 8 * torch.randn(picture.shape, generator=generator)).clamp(0, 255).to(torch.uint8)

    names = [name for name in PICTURES if rule_of(name)]
    assert len(names) > 20
    assert all(holds(name, noisy(PICTURES[name]), PICTURES[name]) for name in names)
