import torch

from trainer.data.captions import PLAIN, VARIANTS, Captions, concept_order

CAPTIONS = Captions(
    ("red heart", "woman cook", "man cook", "cook"),
    (("heart", "love"), ("chef",), (), ("chef", "cook")),
    torch.tensor([0, 1, 1, 1]),
    ("training",) * 4,
)


def test_every_picture_has_as_many_captions_and_most_are_its_name() -> None:
    for name, variants in zip(CAPTIONS.names, CAPTIONS.variants(), strict=True):
        assert len(variants) == VARIANTS
        assert variants[:PLAIN] == [name] * PLAIN


def test_captions_are_mixed_from_the_name_and_its_keywords_alone() -> None:
    for name, keywords, variants in zip(CAPTIONS.names, CAPTIONS.keywords, CAPTIONS.variants(), strict=True):
        allowed = set(" ".join([name, *keywords, "a an the"]).split())
        assert set(" ".join(variants).split()) <= allowed
        assert all(variants), "an empty caption would mean no caption"


def test_captions_are_the_same_in_every_run() -> None:
    assert CAPTIONS.variants() == CAPTIONS.variants()
    assert CAPTIONS.select([2, 0]).variants() == [CAPTIONS.variants()[2], CAPTIONS.variants()[0]]


def test_selected_captions_keep_what_belongs_to_them() -> None:
    chosen = CAPTIONS.select([3, 0])
    assert (chosen.names, chosen.keywords) == (("cook", "red heart"), (("chef", "cook"), ("heart", "love")))
    assert chosen.concepts.tolist() == [1, 0]


def test_a_concept_is_drawn_by_the_root_of_its_size() -> None:
    concepts = torch.cat([torch.zeros(9, dtype=torch.int64), torch.tensor([1])]).repeat_interleave(1)
    draws = torch.cat([concept_order(concepts, torch.Generator().manual_seed(seed)) for seed in range(2000)])
    share = float((draws == 9).double().mean())
    assert abs(share - 1 / 4) < 0.01  # the other concept has nine pictures: 3 to 1, where 9 to 1 would drown it
