"""Running out of memory, told in a line with what needs less."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: What torch's CPU allocator and oneDNN write: both raise a plain RuntimeError.
CPU_MESSAGES = ("can't allocate memory", "not enough memory", "could not create a memory", "bad_alloc")


class OutOfMemory(Exception):
    """The device or the machine has too little memory; the message says what needs less."""


@contextmanager
def explained(advice: str) -> Iterator[None]:
    """Inside, an allocation that fails raises OutOfMemory with ``advice``, whatever library made it."""
    try:
        yield
    except (MemoryError, RuntimeError) as failure:
        if not is_out_of_memory(failure):
            raise
        raise OutOfMemory(f"out of memory: {advice}") from failure


def is_out_of_memory(failure: BaseException) -> bool:
    """Whether ``failure`` is an allocation that failed."""
    if isinstance(failure, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(failure, RuntimeError) and any(words in str(failure) for words in CPU_MESSAGES)
