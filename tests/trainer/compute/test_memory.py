"""Every library's way to say that memory has run out."""

import pytest
import torch

from trainer.compute.memory import OutOfMemory, hint


def test_what_a_real_allocation_raises_is_reported_with_the_hint() -> None:
    with pytest.raises(OutOfMemory, match=r"^out of memory: choose fewer$"), hint("choose fewer"):
        torch.empty(2**48)


@pytest.mark.parametrize("failure", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_so_are_pythons_and_a_gpus(failure: Exception) -> None:
    with pytest.raises(OutOfMemory), hint("choose fewer"):
        raise failure


def test_another_error_is_none() -> None:
    with pytest.raises(RuntimeError, match="shape"), hint("choose fewer"):
        raise RuntimeError("shape mismatch")
