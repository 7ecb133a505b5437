"""Captions to word numbers with the `tokenizers` library, whose JSON is stored with the weights.

Whole words, because the captions are few: subwords would not be learned better, and unknown words could not be reported
to the user.
"""

from collections.abc import Iterable, Sequence

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from trainer.data.captions import Captions

#: Padding, an unknown word, and the first token of every caption.
PAD, UNKNOWN, START = "[PAD]", "[UNK]", "[START]"


def train_tokenizer(captions: Iterable[str], vocabulary: int, length: int) -> Tokenizer:
    """A tokenizer with the ``vocabulary`` most frequent words of ``captions``, truncated to ``length`` tokens."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\p{L}\p{N}]+"), "removed")
    special = [PAD, UNKNOWN, START]
    trainer = trainers.WordLevelTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, _number(tokenizer, START))]
    )
    tokenizer.enable_truncation(length)
    return tokenizer


def words_of_captions(captions: Captions) -> list[str]:
    """The texts to train a tokenizer on: names, keywords, and the articles of their mixtures."""
    named = zip(captions.names, captions.keywords, strict=True)
    return [text for name, keywords in named for text in (name, *keywords)] + ["a", "an", "the"]


def tokenize(tokenizer: Tokenizer, captions: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """``captions`` as tokens, (captions, length) int64, and their mask, (captions, length) bool.

    Unknown words are left out. An empty caption is the start token alone: it means "no caption".
    """
    tokens = torch.full((len(captions), length), _number(tokenizer, PAD), dtype=torch.int64)
    mask = torch.zeros(len(captions), length, dtype=torch.bool)
    unknown = _number(tokenizer, UNKNOWN)
    for row, encoding in enumerate(tokenizer.encode_batch(list(captions))):
        known = [token for token in encoding.ids if token != unknown]
        tokens[row, : len(known)] = torch.tensor(known)
        mask[row, : len(known)] = True
    return tokens, mask


def _number(tokenizer: Tokenizer, token: str) -> int:
    number = tokenizer.token_to_id(token)
    assert number is not None, f"{token} is in every vocabulary"
    return number
