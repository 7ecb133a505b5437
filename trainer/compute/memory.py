"""Out-of-memory errors as one line that says what needs less memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Messages of torch's CPU allocator and of oneDNN: both raise a plain RuntimeError.
CPU_MESSAGES = ("can't allocate memory", "not enough memory", "could not create a memory", "bad_alloc")


class OutOfMemory(Exception):
    """The device or the machine is out of memory; the message says what needs less."""


@contextmanager
def hint(suggestion: str) -> Iterator[None]:
    """Inside, a failed allocation of any library raises OutOfMemory with ``suggestion``."""
    try:
        yield
    except (MemoryError, RuntimeError) as failure:
        if not is_out_of_memory(failure):
            raise
        raise OutOfMemory(f"out of memory: {suggestion}") from failure


def is_out_of_memory(failure: BaseException) -> bool:
    """Whether ``failure`` is a failed allocation."""
    if isinstance(failure, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(failure, RuntimeError) and any(words in str(failure) for words in CPU_MESSAGES)
