"""The file of words of an exported text-to-image model: its tokenizer, and the names of pictographs."""

import json
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer

from service.contract.artifact import read_artifact
from service.contract.files import ContractError
from service.contract.text import TextModel, Words, parse_words


def words_payload(tokenizer: Tokenizer, pictographs: Mapping[str, str]) -> bytes:
    """The file's bytes, equal for equal words."""
    words = Words(tokenizer=json.loads(tokenizer.to_str()), pictographs=dict(sorted(pictographs.items())))
    return words.model_dump_json(indent=0).encode() + b"\n"


def read_tokenizer(folder: Path, text: TextModel) -> Tokenizer:
    """The tokenizer of the model in ``folder``. Raises ContractError."""
    try:
        words = parse_words(read_artifact(folder, text.words))
        return Tokenizer.from_str(json.dumps(words.tokenizer))
    except ContractError:
        raise
    except Exception as failure:  # the tokenizers library raises plain Exceptions
        raise ContractError(folder / text.words.file, f"not a file of words: {failure}") from failure
