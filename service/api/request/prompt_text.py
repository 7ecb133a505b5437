"""Prompts: text from untrusted requests."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

#: Most characters of a prompt: far more than the tokens of any model hold.
MAX_PROMPT = 10_000

#: Control characters (Unicode's C0 and C1) other than white space.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")


def _text(value: str) -> str:
    found = _CONTROL.search(value)
    if found is not None:
        raise ValueError(f"has the control character U+{ord(found[0]):04X} at position {found.start()}")
    return value


#: A prompt; it may be empty.
Prompt = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_text)]
