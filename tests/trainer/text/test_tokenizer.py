from tokenizers import Tokenizer

from trainer.text.tokenizer import START, UNKNOWN, tokenize, train_tokenizer

CAPTIONS = ["red heart", "woman astronaut: dark skin tone", "flag: São Tomé & Príncipe", "keycap: 4"]


def words(tokenizer: Tokenizer, caption: str, length: int = 8) -> list[str]:
    tokens, mask = tokenize(tokenizer, [caption], length)
    return [str(tokenizer.id_to_token(int(token))) for token in tokens[0][mask[0]]]


def test_captions_become_words_behind_a_start() -> None:
    tokenizer = train_tokenizer(CAPTIONS, 100, 8)
    assert words(tokenizer, "Woman astronaut: DARK skin-tone") == [START, "woman", "astronaut", "dark", "skin", "tone"]
    assert words(tokenizer, "flag: Sao Tome") == words(tokenizer, "FLAG São Tomé")
    assert words(tokenizer, "keycap 4") == [START, "keycap", "4"]


def test_an_empty_caption_is_the_start_alone() -> None:
    tokenizer = train_tokenizer(CAPTIONS, 100, 8)
    tokens, mask = tokenize(tokenizer, ["", "red"], 8)
    assert tokens.shape == mask.shape == (2, 8)
    assert mask.sum(dim=1).tolist() == [1, 2]


def test_unknown_words_are_left_out() -> None:
    tokenizer = train_tokenizer(CAPTIONS, 100, 8)
    assert words(tokenizer, "a red zebra heart") == words(tokenizer, "red heart")
    assert UNKNOWN in tokenizer.encode("zebra").tokens, "who asks must be able to find out"


def test_long_captions_are_cut_off() -> None:
    tokenizer = train_tokenizer(CAPTIONS, 100, 4)
    assert words(tokenizer, "red heart dark skin tone", 4) == [START, "red", "heart", "dark"]


def test_the_vocabulary_is_bounded_and_keeps_the_commonest() -> None:
    tokenizer = train_tokenizer(["red heart", "red flag", "red apple", "flag"], 5, 8)
    assert tokenizer.get_vocab_size() == 5
    assert words(tokenizer, "red flag apple") == [START, "red", "flag"]


def test_the_same_captions_give_the_same_file() -> None:
    first, again = (train_tokenizer(CAPTIONS * 3, 100, 8).to_str() for _ in range(2))
    assert first == again
    assert words(Tokenizer.from_str(first), "red heart") == [START, "red", "heart"]
