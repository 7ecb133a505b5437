import shutil
from pathlib import Path

import pytest
import torch

from trainer.data import DataError, load
from trainer.data.emoji import (
    DEBIAN_CLDR,
    DEBIAN_FONT,
    FONT,
    LEFT_IN_TRAINING,
    LICENCE,
    SIZE,
    load_emoji,
    read_emoji,
    split,
    words_of,
)

SAMPLE = Path(__file__).parents[2] / "data" / "emoji"


@pytest.fixture(scope="module")
def sample() -> list[str]:
    return [each.name for each in read_emoji(SAMPLE / FONT, SAMPLE)]


def test_the_sample_is_drawn_on_white_in_colour() -> None:
    emoji = {each.name: each for each in read_emoji(SAMPLE / FONT, SAMPLE)}
    assert len(emoji) == 67
    heart = emoji["red heart"].picture
    assert (heart.shape, heart.dtype) == ((3, SIZE, SIZE), torch.uint8)
    assert heart[:, 0, 0].tolist() == [255, 255, 255]
    red, green, blue = heart[:, SIZE // 2, SIZE // 2].tolist()
    assert red > 150 > max(green, blue)


def test_joined_characters_are_one_picture() -> None:
    emoji = {each.name: each for each in read_emoji(SAMPLE / FONT, SAMPLE)}
    pale, dark = emoji["woman astronaut: light skin tone"], emoji["woman astronaut: dark skin tone"]
    assert not torch.equal(pale.picture, dark.picture)
    assert pale.concept == dark.concept == emoji["astronaut"].concept
    assert "rocket" in pale.all_words


def test_the_splits_are_apart_and_whole() -> None:
    train, test = (load_emoji(SAMPLE, train=which) for which in (True, False))
    assert train.captions is not None
    assert test.captions is not None
    assert len(train.images) + len(test.images) == 67
    assert set(train.captions.groups) == {"training"}
    assert set(test.captions.groups) == {"combination", "unseen"}
    assert not set(train.captions.names) & set(test.captions.names)
    assert train.labels.tolist() == list(range(len(train.images)))
    assert train.null_label == len(train.images)
    assert train.facts.images == len(train.images)


def test_combinations_are_of_words_and_concepts_that_training_has() -> None:
    emoji = read_emoji(SAMPLE / FONT, SAMPLE)
    groups = split(emoji)
    training = [each for each, group in zip(emoji, groups, strict=True) if group == "training"]
    held_out = [each for each, group in zip(emoji, groups, strict=True) if group == "combination"]
    assert held_out
    for each in held_out:
        assert sum(other.concept == each.concept for other in training) >= LEFT_IN_TRAINING
        for word in each.words:
            assert sum(word in other.words for other in training) >= LEFT_IN_TRAINING
        assert not any(torch.equal(each.picture, other.picture) for other in training)


def test_unseen_names_have_a_word_that_no_training_caption_has() -> None:
    emoji = read_emoji(SAMPLE / FONT, SAMPLE)
    groups = split(emoji)
    known = set().union(*(each.all_words for each, group in zip(emoji, groups, strict=True) if group == "training"))
    unseen = [each for each, group in zip(emoji, groups, strict=True) if group == "unseen"]
    assert unseen
    assert all(each.words - known for each in unseen)


def test_the_split_does_not_depend_on_the_order() -> None:
    emoji = read_emoji(SAMPLE / FONT, SAMPLE)
    backwards = emoji[::-1]
    assert dict(zip((each.name for each in emoji), split(emoji), strict=True)) == dict(
        zip((each.name for each in backwards), split(backwards), strict=True)
    )


def test_words_are_in_small_letters_without_signs() -> None:
    assert words_of("man: medium-light skin tone, OK") == {"man", "medium", "light", "skin", "tone", "ok"}


@pytest.mark.parametrize("missing", [FONT, "annotations/en.xml", "annotationsDerived/en.xml"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    shutil.copytree(SAMPLE, tmp_path / "emoji")
    (tmp_path / "emoji" / missing).unlink()
    with pytest.raises(DataError, match=missing):
        load_emoji(tmp_path / "emoji")


def test_damaged_annotations_are_named(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "emoji")
    (tmp_path / "emoji" / "annotations" / "en.xml").write_text("<ldml><annotations>")
    with pytest.raises(DataError, match=r"annotations/en\.xml cannot be read"):
        load("emoji", tmp_path / "emoji", image_size=SIZE, channels=3)


def test_a_font_without_their_pictures_is_refused(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "emoji")
    for folder in ("annotations", "annotationsDerived"):
        (tmp_path / "emoji" / folder / "en.xml").write_text(
            '<ldml><annotation cp="{" type="tts">curly bracket</annotation></ldml>'
        )
    with pytest.raises(DataError, match="has no bitmap for any of the 1 names"):
        load_emoji(tmp_path / "emoji")


@pytest.mark.skipif(not DEBIAN_FONT.exists() or not DEBIAN_CLDR.exists(), reason="needs Debian's emoji packages")
def test_debians_packages_give_the_whole_set() -> None:
    emoji = read_emoji(DEBIAN_FONT, DEBIAN_CLDR)
    groups = split(emoji)
    assert len(emoji) > 3000
    assert (groups.count("combination"), groups.count("unseen")) == (200, 50)


@pytest.mark.parametrize(("package", "files"), [("fonts-noto-color-emoji", "fonts/*"), ("unicode-cldr-core", "*")])
def test_the_licence_is_that_of_debians_copyright_files(package: str, files: str) -> None:
    path = Path("/usr/share/doc", package, "copyright")
    if not path.exists():
        pytest.skip(f"needs Debian's {package}")
    (paragraph,) = (part for part in path.read_text().split("\n\n") if f"Files:     {files}\n" in part)
    (licence,) = (line.split()[1] for line in paragraph.splitlines() if line.startswith("License:"))
    assert licence in LICENCE
